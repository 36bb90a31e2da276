"""The store on an object store: no rename, no locks, conditional puts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from components.storage import Folder
from workflows.engine.fingerprint import fingerprints, payload
from workflows.engine.lease import Contender
from workflows.engine.plan import plan
from workflows.engine.step import Step
from workflows.engine.store import Manifest, Store
from workflows.engine.task import Call, Done, execute
from workflows.engine.tracking import RunMonitor


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    endpoint = ThreadedMotoServer(port=0)
    endpoint.start()
    host, port = endpoint.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket/results"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    endpoint.stop()


def test_of_many_creators_one_wins(root: str) -> None:
    folders = [Folder(root) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda item: item[1].create("x", str(item[0]).encode()), enumerate(folders)))
    assert sum(won) == 1
    assert Folder(root).read("x") == str(won.index(True)).encode()


def test_of_many_contenders_one_wins(root: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = [
            lease for lease in pool.map(lambda _: Contender(Folder(root), 60.0).acquire(), range(8)) if lease
        ]
    assert len(won) == 1
    contender = Contender(Folder(root), 60.0)
    assert contender.acquire() is None
    won[0].beat()
    won[0].release()
    following = contender.acquire()
    assert following is not None
    assert following.generation == 2


def test_a_step_is_computed_committed_planned_and_swept(
    root: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(root)
    store.check_writable()
    calls = str(tmp_path_factory.mktemp("calls"))
    step = Step("write", "engine_functions:write", config={"text": "on s3"}, execution={"calls": calls})
    assert [each.state for each in plan([step], store)] == ["RUN"]
    prints = fingerprints([step])
    folder = store.folder(step, prints[step])
    manifests = []
    lease = Contender(folder, 60.0).acquire()
    assert lease is not None
    for name in ("attempt-1", "attempt-2"):
        call = Call(
            fn=step.fn,
            inputs={},
            arguments={**step.config, **step.execution},
            output=folder / name,
            state=folder / "state",
            cache=store.cache,
            monitor=RunMonitor("", None, "write", None),
            threads=1,
        )
        done = execute(call)
        assert isinstance(done, Done)
        assert done.outputs["part/text.txt"]["size"] == 5
        facts = (done.outputs, done.numbers, done.started, done.finished)
        manifests.append(Manifest(step.name, prints[step], payload(step, prints), name, *facts))
    (folder / "state").write("checkpoint", b"x")
    assert store.commit(step, manifests[0], lease)
    assert not store.commit(step, manifests[1], lease)
    assert sorted(folder.files()) == ["attempt-1/part/text.txt", "lease-000001.json", "manifest.json"]
    planned = plan([step], Store(root))
    assert [each.state for each in planned] == ["HIT"]
    assert planned[0].manifest == manifests[0]
    changed = Step("write", "engine_functions:write", config={"text": "else"})
    assert plan([changed], store)[0].reasons == ('text: "on s3" -> "else"',)
    (folder / "attempt-1").delete("part/text.txt")
    assert plan([step], store)[0].reasons[0].startswith("its result is damaged: part/text.txt is missing")
