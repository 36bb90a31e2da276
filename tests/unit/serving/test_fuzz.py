"""Every endpoint against its own description: what schemathesis thinks of, and the examples that people read."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from browser import open_page
from serving_gateway import LocalGateway, listening
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Models by the names that the examples of the description use."""
    folder = tmp_path_factory.mktemp("models")
    models = [write_tiny_model(folder / "docs-search"), write_cross_encoder(folder / "docs-reranker")]
    with listening(LocalGateway(models)) as url:
        yield url


def test_no_request_breaks_it(url, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", "40", "--request-timeout", "10", "--seed", "1", "--no-color"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "ndjson_for_schemathesis", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert requests.get(f"{url}/ready", timeout=5).ok


def test_the_examples_of_the_page_work_as_they_stand_there(url):
    paths = requests.get(f"{url}/openapi.json", timeout=5).json()["paths"]
    asked: list[str] = []
    with open_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/docs")
        page.wait_for_selector("section")
        titles = page.locator("h2").all_inner_texts()
        examples = page.locator(".example").all_inner_texts()
    assert all(each.startswith((url, "data:")) for each in asked)
    assert titles == [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert {title.split()[1] for title in titles if title.startswith("POST")} <= {
        shlex.split(example)[2].removeprefix(url).split("?")[0] for example in examples
    }
    for example in examples:
        done = subprocess.run(shlex.split(example), capture_output=True, text=True, check=True)
        if "/metrics" not in example:
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            # This service has no documents for the page.
            assert not any("error" in each for each in answers) or "/search" in example, done.stdout
