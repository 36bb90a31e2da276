"""What `embedloom submit` refuses before it speaks to a cluster."""

import pytest
from typer.testing import CliRunner

from workflows.cli import app

RECIPE = """\
name: tiny
documents:
  sources: [data/docs.jsonl]
model:
  base: Qwen/Qwen3-Embedding-0.6B
steps:
  pairs: {do: collect, kinds: [title_body]}
  weak: {do: train}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "data" / "docs.jsonl").write_text("{}\n")
    (tmp_path / "work" / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def submit(*arguments, **options):
    given = {"address": "http://127.0.0.1:9", "root": "s3://bucket/x", "tracking-uri": "http://mlflow:5000"}
    words = [word for name, value in (given | options).items() for word in (f"--{name}", value)]
    return CliRunner().invoke(app, ["submit", *arguments, *words])


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("root", "results", "results are kept where all nodes reach them"),
        ("tracking-uri", "sqlite:///x.db", "name an MLflow server that all nodes reach"),
        ("tracking-uri", "http://me:secret@mlflow:5000", "holds a password, which everybody would see"),
        ("profile", "no.yaml", "--profile .*no.yaml: not a file, and none of the profiles here"),
    ],
)
def test_places_that_nodes_cannot_use(folder, option, value, problem):
    error = submit("tiny.yaml", **{option: value}).exception
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match=problem):
        raise error


def test_a_file_of_the_recipe_that_would_stay_here(folder):
    (folder / ".gitignore").write_text("data/\n")
    with pytest.raises(ValueError, match=r"the recipe reads data/docs.jsonl, which would not be sent"):
        raise submit("tiny.yaml").exception


def test_a_file_of_the_recipe_that_is_not_in_the_directory(folder):
    (folder.parent / "more.jsonl").write_text("{}\n")
    (folder / "tiny.yaml").write_text(RECIPE.replace("data/docs.jsonl", "../more.jsonl"))
    with pytest.raises(
        ValueError, match=r"the recipe reads .*more.jsonl, outside of .*work, which is what is sent"
    ):
        raise submit("tiny.yaml").exception
    with pytest.raises(
        ValueError, match=r"--set .*sources: .*|the recipe reads .*none.jsonl: there is no such file"
    ):
        raise submit("tiny.yaml", "--set", "documents.sources=[none.jsonl]").exception


def test_a_recipe_that_is_not_in_the_directory(folder):
    (folder / "sub").mkdir()
    with pytest.raises(ValueError, match=r"the recipe is .*tiny.yaml, outside of .*sub"):
        raise submit("tiny.yaml", directory="sub").exception


@pytest.mark.parametrize("source", ["/shared/corpus.jsonl", "s3://bucket/corpus.jsonl"])
def test_what_the_nodes_have_themselves_is_theirs(folder, source):
    """All is right here, so that what is left is a cluster that does not answer."""
    (folder / "tiny.yaml").write_text(RECIPE.replace("data/docs.jsonl", source))
    done = submit("tiny.yaml")
    assert done.exit_code == 3
    assert "the cluster at http://127.0.0.1:9 does not answer" in done.stderr
