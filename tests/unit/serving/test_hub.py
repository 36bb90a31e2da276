"""A version goes to a hub as one commit, with a card that says how to load it from there.

The hub is a server of the test's own that speaks as much of the protocol as a commit of small files needs.
"""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from judged_models import write_judged_card
from tiny_model import write_tiny_model

from components.model.export import weights_digest
from components.serving.errors import ModelRefusedError
from components.serving.hub import push
from components.serving.release import Release


@dataclass
class Hub:
    url: str = ""
    token: str = "right"
    created: list[dict] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {state.token}":
                return self.answer(401, {"error": "Invalid credentials"})
            match self.path.removeprefix("/api/").split("/"):
                case ["repos", "create"]:
                    state.created.append(json.loads(body))
                    return self.answer(200, {"url": f"{state.url}/team/docs", "name": "team/docs"})
                case ["validate-yaml"]:
                    return self.answer(200, {"errors": [], "warnings": []})
                case ["models", "team", "docs", "preupload", _]:
                    paths = [file["path"] for file in json.loads(body)["files"]]
                    modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
                    return self.answer(200, {"files": modes})
                case ["models", "team", "docs", "commit", _]:
                    for line in body.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "header":
                            state.commits.append(entry["value"]["summary"])
                        else:
                            state.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    return self.answer(
                        200, {"commitUrl": f"{state.url}/team/docs/commit/abc", "commitOid": "abc"}
                    )
            return self.answer(404, {"error": self.path})

        def do_GET(self):
            self.answer(404, {"error": self.path})

        def answer(self, status: int, body: dict) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "right")
    # Read when the library was imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield state
    server.shutdown()


@pytest.fixture
def release(tmp_path) -> Release:
    model = write_tiny_model(tmp_path / "model")
    write_judged_card(model, tmp_path, output=model)
    return Release("docs", "3", str(model), weights_digest(model))


def test_the_files_arrive_with_a_card_for_where_they_are(hub, release):
    url = push(release, "team/docs", private=True)
    assert url == f"{hub.url}/team/docs/commit/abc"
    assert hub.commits == ["docs 3"]
    assert (hub.created[0]["name"], hub.created[0]["organization"]) == ("docs", "team")
    own = Path(release.uri)
    for name in (
        "model.safetensors",
        "encoding.json",
        "golden.json",
        "tokenizer.json",
        "1_Pooling/config.json",
    ):
        assert hub.files[name] == (own / name).read_bytes()
    assert 'SentenceTransformer("team/docs")' in hub.files["README.md"].decode().replace("'", '"')
    assert "team/docs" not in (own / "README.md").read_text()


def test_a_hub_that_refuses_costs_a_sentence(hub, release, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(ValueError, match=r"does not take team/docs: .*401") as raised:
        push(release, "team/docs", private=True)
    assert "\n" not in str(raised.value)
    assert "wrong" not in str(raised.value)
    with pytest.raises(ValueError, match="is no name of a repository"):
        push(release, "no name", private=True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    with pytest.raises(ValueError, match=r"127.0.0.1:9 does not take team/docs: .*refused"):
        push(release, "team/docs", private=True)


def test_other_weights_than_those_registered_are_not_pushed(hub, release):
    with pytest.raises(ModelRefusedError, match="registered was 0000"):
        push(Release("docs", "3", release.uri, "0" * 64), "team/docs", private=True)
    assert not hub.created
