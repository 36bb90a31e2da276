"""The first example of docs/python.md as it stands there, beside a run that is done: every step is a hit."""

import shutil
import subprocess
import sys
from pathlib import Path

from markdown_it import MarkdownIt
from workspace import STEPS, client, submissions

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_from_documents_to_a_model_in_python(undisturbed, tmp_path):
    workspace, _ = undisturbed
    example = next(token.content for token in MarkdownIt().parse(PAGE.read_text()) if token.type == "fence")
    shutil.copy(workspace.recipe, tmp_path / "recipe.yaml")
    for name in ("corpus", "model", "sets"):
        (tmp_path / name).symlink_to(workspace.folder / name)
    (tmp_path / ".embedloom").symlink_to(workspace.folder / "results")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("[[")  # cosines of one query and two documents
    _, children = submissions(client(workspace.folder / "results"))[-1]
    assert [child.data.tags["step.cached"] for child in children] == ["true"] * len(STEPS)
