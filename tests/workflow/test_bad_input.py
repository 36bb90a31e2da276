"""Every mistake costs one line and exit code 2, before anything is computed."""

import json
import socket

import pytest
import yaml
from workspace import write_workspace

from workflows import cli


@pytest.fixture
def workspace(tmp_path):
    return write_workspace(tmp_path)


@pytest.fixture
def said(monkeypatch, capsys):
    """What a command line prints to stderr; it must end with exit code 2 and one line."""
    # A command that looks into the registry sets it for what it starts; here it is undone.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["embedloom", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr().err
        assert ended.value.code == 2
        assert printed.startswith("error: ")
        assert len(printed.strip().splitlines()) == 1
        return printed

    return said


def change(workspace, **values):
    recipe = yaml.safe_load(workspace.recipe.read_text())
    workspace.recipe.write_text(yaml.safe_dump({**recipe, **values}, sort_keys=False))


def documents(workspace, *lines: bytes) -> None:
    """A recipe over one JSONL file."""
    (workspace.folder / "docs.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    change(workspace, documents={"sources": ["docs.jsonl"]})


GOOD = json.dumps({"_id": "a", "text": "some text"}).encode()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_unknown_field_is_named_with_its_line(workspace, said, command):
    workspace.recipe.write_text(workspace.recipe.read_text() + "weak_stage: {}\n")
    lines = len(workspace.recipe.read_text().splitlines())
    assert f"tiny.yaml:{lines}: unknown field `weak_stage`" in said(command, str(workspace.recipe))


def test_a_missing_file(workspace, said):
    change(workspace, documents={"sources": ["nowhere.jsonl"]})
    assert "nowhere.jsonl" in said("plan", str(workspace.recipe))


def test_an_empty_corpus(workspace, said):
    documents(workspace)
    assert "docs.jsonl: no documents in it" in said("plan", str(workspace.recipe))


def test_a_document_without_text(workspace, said):
    documents(workspace, GOOD, b'{"_id": "b", "text": " "}')
    assert "docs.jsonl:2" in said("plan", str(workspace.recipe))


def test_invalid_utf8(workspace, said):
    documents(workspace, GOOD, b'{"_id": "b", "text": "\xff\xfe"}')
    message = said("plan", str(workspace.recipe))
    assert "docs.jsonl:2" in message
    assert "UTF-8" in message


@pytest.mark.parametrize("name", ["no/such-model", "./nowhere", "package://no_such_package", "models:/"])
def test_a_model_that_cannot_be_found(workspace, said, name):
    change(workspace, model={"base": name})
    assert f"model {name}" in said("plan", str(workspace.recipe))


def test_a_storage_root_without_write_access(workspace, said):
    (workspace.folder / "file").write_text("")
    root = str(workspace.folder / "file" / "results")  # not even root may write below a file
    assert f"storage root {root} cannot be written" in said("run", str(workspace.recipe), "--root", root)


def test_more_workers_than_the_cluster_has(workspace):
    (workspace.folder / "profile.yaml").write_text("workers: 999\n")
    try:
        done = workspace.run()
    finally:
        workspace.end()
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("error: step `weak` needs 999 CPU, the cluster has ")
    )
    assert not list((workspace.folder / "results").glob("*/*/manifest.json"))


@pytest.mark.parametrize("command", ["mlflow", "run", "serve"])
def test_a_port_in_use(workspace, said, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = {
            "mlflow": ("mlflow", "start", "--port", port, "--root", str(workspace.folder / "results")),
            "run": (
                "run",
                str(workspace.recipe),
                "--mlflow-port",
                port,
                "--root",
                str(workspace.folder / "results"),
            ),
            "serve": ("serve", str(workspace.folder / "model"), "--port", port),
        }
        assert port in said(*arguments[command])


def test_a_profile_that_is_not_there(workspace, said):
    assert "--profile big: not a file" in said("plan", str(workspace.recipe), "--profile", "big")
