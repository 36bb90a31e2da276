"""The manners of the command line."""

import os
import subprocess
import sys

import pytest

from workflows.recipe.load import names

HEAVY = ("torch", "ray", "mlflow", "transformers", "numpy", "pyarrow", "pandas")


def call(*arguments, python=(), **environment):
    command = [sys.executable, *python, "-m", "workflows.cli", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done


def imported(stderr):
    """Top-level packages by `-X importtime`."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in stderr.splitlines() if "|" in line}


def test_help_waits_for_nothing_and_tells_the_exit_codes():
    done = call("--help", python=("-X", "importtime"))
    assert not imported(done.stderr) & {*HEAVY, "pydantic"}
    assert "Exit codes: 0 done" in done.stdout


def test_versions_without_importing_what_they_are_of():
    done = call("--version", python=("-X", "importtime"))
    assert not imported(done.stderr) & set(HEAVY)
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    import pyarrow

    assert lines["pyarrow"] == pyarrow.__version__
    assert {"embedloom", "python", "ray", "torch", "mlflow", "transformers"} <= lines.keys()


def test_a_plan_imports_neither_torch_nor_ray_nor_mlflow(tmp_path):
    done = call("plan", "docs-search", "--root", str(tmp_path), python=("-X", "importtime"))
    assert not imported(done.stderr) & {"torch", "ray", "mlflow", "transformers"}
    assert "supervised" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["run", "sb"], {"sbert"}),
        (["plan", ""], {*names(), "mine.yaml", "folder/"}),
        (["plan", "--profile", "lap"], {"laptop"}),
        (["plan", "folder/"], {"folder/other.yml"}),
    ],
)
def test_the_shell_completes_recipes(tmp_path, monkeypatch, words, wanted):
    (tmp_path / "folder").mkdir()
    for name in ("mine.yaml", "notes.txt", "folder/other.yml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    done = call(
        _EMBEDLOOM_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(["embedloom", *words]),
        COMP_CWORD=str(len(words)),
        PYTHONPATH=os.pathsep.join(sys.path),
    )
    assert set(done.stdout.split()) == wanted


def test_no_color(tmp_path):
    arguments = ("plan", "docs-search", "--root", str(tmp_path))
    assert "\x1b[3" in call(*arguments, FORCE_COLOR="1").stdout
    assert "\x1b[3" not in call(*arguments, FORCE_COLOR="1", NO_COLOR="1").stdout
