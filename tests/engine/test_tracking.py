import logging
import socket
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from workflows.engine import outbox as outboxes
from workflows.engine import server
from workflows.engine.outbox import Outbox
from workflows.engine.tracking import RunMonitor, open_tracking


@pytest.fixture
def api(tracking_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri)


@pytest.fixture
def run_id(api: MlflowClient) -> str:
    found = api.get_experiment_by_name("seam")
    return api.create_run(found.experiment_id if found else api.create_experiment("seam")).info.run_id


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_parameter_that_changed_does_not_take_the_metrics_with_it(
    tracking_uri: str, api: MlflowClient, run_id: str
) -> None:
    monitor = RunMonitor(tracking_uri, run_id, "step", None)
    monitor.params({"device": "cpu"})
    monitor.flush()
    monitor.params({"device": "cuda"})
    monitor.metrics({"loss": 0.5})
    monitor.flush()
    data = api.get_run(run_id).data
    assert data.params == {"device": "cpu"}
    assert data.metrics == {"loss": 0.5}


def test_more_than_one_batch_and_long_values_are_taken(
    tracking_uri: str, api: MlflowClient, run_id: str
) -> None:
    monitor = RunMonitor(tracking_uri, run_id, "step", None)
    monitor.params({f"p{i}": i for i in range(250)} | {"long": "x" * 7000, "list": [1, 2], "a": {"b": None}})
    for step in range(2500):
        monitor.metrics({"recall@100": step / 2500}, step=step)
    monitor.flush()
    data = api.get_run(run_id).data
    assert len(data.params) == 253
    assert (len(data.params["long"]), data.params["list"], data.params["a.b"]) == (6000, "[1, 2]", "null")
    history = api.get_metric_history(run_id, "recall_at_100")
    assert sorted(metric.step for metric in history) == list(range(2500))


def test_a_server_that_does_not_answer_costs_the_work_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_AFTER_S", (0.1,))
    box = Outbox(f"http://127.0.0.1:{_closed_port()}")
    before = time.monotonic()
    for _ in range(1000):
        box.put("run", params={"a": "b"})
    assert time.monotonic() - before < 10  # seconds: none of them waits for it
    with caplog.at_level(logging.WARNING):
        assert not box.flush(60.0)
    assert time.monotonic() - before < 30
    assert "MLflow does not answer; what is said is kept until it does" in caplog.text


def test_a_part_that_is_never_taken_does_not_hold_up_the_rest(
    tracking_uri: str,
    api: MlflowClient,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_AFTER_S", (0.1, 0.1))
    box = Outbox(tracking_uri)

    def refuse(*_: object) -> None:
        raise OSError("no room for artifacts")

    monkeypatch.setattr(box, "_upload", refuse)
    with caplog.at_level(logging.WARNING):
        box.put(run_id, tags={"said": "before"}, artifacts={"picture.png": b"..."}, status="FINISHED")
        assert box.flush(60.0)
    assert "MLflow did not take picture.png: no room for artifacts" in caplog.text
    run = api.get_run(run_id)
    assert (run.info.status, run.data.tags["said"]) == ("FINISHED", "before")


def test_an_unreachable_server_is_one_sentence() -> None:
    tracking = open_tracking("x", uri=f"http://127.0.0.1:{_closed_port()}")
    with pytest.raises(ValueError, match=r"tracking server http://127.0.0.1:\d+ does not work"):
        tracking.begin("run", {})


def test_a_database_is_not_a_server() -> None:
    with pytest.raises(ValueError, match="name an MLflow server"):
        open_tracking("x", uri="sqlite:///mlflow.db")


def test_a_deleted_experiment_is_one_sentence(tracking_uri: str, api: MlflowClient) -> None:
    api.delete_experiment(api.create_experiment("deleted"))
    with pytest.raises(ValueError, match="experiment 'deleted' was deleted"):
        open_tracking("deleted", uri=tracking_uri).begin("run", {})


def test_the_local_server_is_found_again_and_outlived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_AFTER_S", (0.1, 0.2))
    first = server.start(tmp_path)
    first.wait()
    try:
        assert server.start(tmp_path) == first
        with pytest.raises(ValueError, match=f"already runs on port {first.port}, not {first.port + 1}"):
            server.start(tmp_path, first.port + 1)
        with pytest.raises(ValueError, match=f"port {first.port} on 127.0.0.1 cannot be used"):
            server.start(tmp_path / "other", first.port)

        api = MlflowClient(first.uri)
        run_id = api.create_run(api.create_experiment("outlived")).info.run_id
        assert server.stop(tmp_path)
        assert not server.stop(tmp_path)
        monitor = RunMonitor(first.uri, run_id, "step", None)
        monitor.metrics({"loss": 0.25}, step=3)  # said while the server was away
        time.sleep(3)  # longer than all attempts together
        monitor.metrics({"loss": 0.125}, step=4)
        again = server.start(tmp_path)
        assert again.port == first.port
        again.wait()
        deadline = time.monotonic() + 40.0
        while len(history := api.get_metric_history(run_id, "loss")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert [(metric.step, metric.value) for metric in history] == [(3, 0.25), (4, 0.125)]
    finally:
        server.stop(tmp_path)
