"""The rules of the house that a machine can hold: who may import whom, what stays empty, what may not shadow what."""

import ast
import importlib
import tomllib
from pathlib import Path

import mlflow
import pytest

ROOT = Path(__file__).parents[2]

# A room may import the rooms behind it, never one before it. Rooms of one row know nothing of one another.
FLOORS = [
    ["serving"],
    ["evaluation", "training", "synthesis", "pairs"],
    ["search", "objective", "merge"],
    ["model"],
    ["corpus"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def test_components_know_of_no_workflow():
    for file in (ROOT / "components").rglob("*.py"):
        above = {
            name for name in _imports(file) if name.split(".")[0] in {"workflows", "tests", "benchmarks"}
        }
        assert not above, f"{file.relative_to(ROOT)} imports {above}"


def test_rooms_import_downwards_only():
    for room, floor in FLOOR.items():
        for file in (ROOT / "components" / room).rglob("*.py"):
            for name in _imports(file):
                match name.split("."):
                    case ["components", other, *_] if other in FLOOR and other != room:
                        assert FLOOR[other] > floor, f"{file.relative_to(ROOT)} imports {name}"


def test_every_package_is_named_in_pyproject_and_has_an_empty_init():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        str(init.parent.relative_to(ROOT)).replace("/", ".")
        for top in ("workflows", "components")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(packages) == there
    assert all((ROOT / name.replace(".", "/") / "__init__.py").read_text() == "" for name in packages)


def test_the_folder_mlflow_does_not_shadow_the_library():
    assert "site-packages" in mlflow.__file__
    assert not list((ROOT / "mlflow").rglob("*.py"))


@pytest.mark.parametrize(
    "name",
    [
        "ray.data.llm",
        "ray.train.torch",
        "ray.serve",
        "vllm",
        "transformers",
        "torch",
        "sentence_transformers",
    ],
)
def test_the_whole_stack_can_be_imported(name):
    importlib.import_module(name)


def test_nothing_that_plan_needs_is_heavy(python):
    """`plan` answers in under two seconds because it loads none of these."""
    heavy = {"torch", "ray", "transformers", "vllm", "mlflow", "sklearn", "matplotlib", "pandas"}
    code = (
        "import sys, workflows.cli, workflows.pipeline, workflows.engine.plan;"
        f"print(*({heavy} & set(sys.modules)))"
    )
    assert python(code).strip() == ""
