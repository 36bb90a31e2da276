import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from workflows import following
from workflows.engine import outbox, runner, server
from workflows.engine.runner import Result
from workflows.engine.step import Budget, Following, Step
from workflows.engine.store import Store
from workflows.engine.tracking import open_tracking

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Place:
    """A store, a folder that counts calls, and a way to run steps."""

    def __init__(self, path: Path, tracking_uri: str) -> None:
        self.store = Store(path / "store", lease_period_s=2.0)
        self.calls = str(path / "calls")
        self.uri = tracking_uri
        self.clusters = 0

    def run(self, *steps: Step, largest: Budget | None = None) -> Result:
        def cluster() -> None:
            self.clusters += 1

        tracking = open_tracking("runner", uri=self.uri)
        return runner.run(steps, self.store, tracking, cluster, "test", {"k": {"v": 1}}, largest)

    def called(self) -> int:
        return len(list(Path(self.calls).glob("*")))

    def step(self, fn: str, name: str | None = None, **settings: Any) -> Step:
        execution = {"calls": self.calls, **settings.pop("execution", {})}
        return Step(name or fn.replace("_", "-"), f"engine_functions:{fn}", execution=execution, **settings)


@pytest.fixture
def place(tmp_path: Path, tracking_uri: str) -> Place:
    return Place(tmp_path, tracking_uri)


@pytest.fixture
def api(tracking_uri: str) -> Iterator[MlflowClient]:
    return MlflowClient(tracking_uri)


def _states(result: Result) -> dict[str, str]:
    return {name: outcome.state for name, outcome in result.outcomes.items()}


def _children(api: MlflowClient, result: Result) -> dict[str, Any]:
    experiment = api.get_run(result.run_id).info.experiment_id
    found = api.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    return {run.info.run_name: run for run in found}


def test_a_dag_is_computed_once_and_then_reused_without_a_cluster(place: Place, api: MlflowClient) -> None:
    left = place.step("write", "left", config={"text": "left"})
    right = place.step("write", "right", config={"text": "right"})
    both = place.step("join", inputs={"a": left, "b": right})
    copy = Step("copy", "engine_functions:read_part", inputs={"part": both})
    part = Step("part", "engine_functions:read_part", inputs={"part": left / "part"})
    first = place.run(copy, part)
    assert first.exit_code == 0
    assert set(_states(first).values()) == {"computed"}
    output = first.outcomes["copy"].output
    assert output is not None
    assert output.read("copy.txt") == b"left+right"
    assert place.clusters == 1

    second = place.run(copy, part)
    assert set(_states(second).values()) == {"reused"}
    assert second.exit_code == 0
    assert (place.called(), place.clusters) == (3, 1)
    made, reused = _children(api, first), _children(api, second)
    assert set(made) == set(reused) == {"left", "right", "join", "copy", "part"}
    for name, run in reused.items():
        assert run.data.tags["step.cached"] == "true"
        assert run.data.tags["step.source_run_id"] == made[name].info.run_id
        assert run.info.status == made[name].info.status == "FINISHED"
        assert run.data.metrics == made[name].data.metrics


def test_another_name_for_the_same_work_shares_it(place: Place) -> None:
    one = place.step("write", "one", config={"text": "same"})
    two = place.step("write", "two", config={"text": "same"})
    result = place.run(one, two)
    assert sorted(_states(result).values()) == ["computed", "reused"]
    assert place.called() == 1


def test_a_lost_worker_is_retried_and_finds_its_state(place: Place) -> None:
    result = place.run(place.step("die_once"))
    assert _states(result) == {"die-once": "computed"}
    output = result.outcomes["die-once"].output
    assert output is not None
    assert output.files() == {"whole.txt": len("from the first attempt")}
    assert output.read("whole.txt") == b"from the first attempt"


def test_an_actor_lost_inside_a_step_is_retried(place: Place) -> None:
    assert _states(place.run(place.step("lose_actor_once"))) == {"lose-actor-once": "computed"}
    assert place.called() == 2


def test_retries_end(place: Place, api: MlflowClient) -> None:
    result = place.run(place.step("die_always", retries=1))
    assert _states(result) == {"die-always": "failed"}
    assert place.called() == 2
    assert _children(api, result)["die-always"].data.tags["step.attempts"] == "2"


def test_a_user_error_is_one_line_and_not_retried_and_siblings_finish(
    place: Place, api: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = place.step("refuse")
    after = Step("after", "engine_functions:read_part", inputs={"part": wrong})
    later = Step("later", "engine_functions:read_part", inputs={"part": after})
    sibling = place.step("write", "sibling", config={"text": "x"}, execution={"seconds": 1.0})
    result = place.run(later, sibling)
    assert _states(result) == {
        "refuse": "failed",
        "after": "skipped",
        "later": "skipped",
        "sibling": "computed",
    }
    assert result.exit_code == 1
    assert result.message == "step `refuse`: temperature is -1; it must be above 0"
    assert place.called() == 2
    assert "Traceback" not in capsys.readouterr().err
    children = _children(api, result)
    assert set(children) == {"refuse", "sibling"}
    assert children["refuse"].info.status == "FAILED"
    assert children["refuse"].data.tags["step.error"] == result.message
    assert api.get_run(result.run_id).info.status == "FAILED"


def test_a_bug_shows_its_traceback_and_is_not_retried(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    result = place.run(place.step("break_down"))
    assert result.message == "step `break-down`: KeyError: 'missing'"
    assert place.called() == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_deadline_ends_a_step(place: Place) -> None:
    result = place.run(
        place.step("write", "slow", config={"text": "x"}, execution={"seconds": 60.0}, deadline_s=2.0)
    )
    assert result.message == "step `slow`: not done within its deadline of 2 s"
    assert result.duration_s < 20.0


def test_what_can_never_fit_is_an_error_before_anything_runs(place: Place, api: MlflowClient) -> None:
    small = place.step("write", "small", config={"text": "x"})
    big = place.step("join", "big", inputs={"a": small}, budget=Budget(cpus=8))
    with pytest.raises(ValueError, match=r"step `big` needs 8 CPU, the cluster has 2 and may grow to 4"):
        place.run(big, largest=Budget(cpus=4))
    gpu = place.step("write", "on-gpu", config={"text": "x"}, budget=Budget(gpus=1))
    with pytest.raises(ValueError, match=r"step `on-gpu` needs 1 GPU, the cluster has 0$"):
        place.run(gpu)
    assert place.called() == 0
    experiment = api.get_experiment_by_name("runner").experiment_id
    last = api.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert last.info.status == "FAILED"


def test_steps_run_side_by_side_within_the_resources(place: Place) -> None:
    def span(result: Result, name: str) -> tuple[float, float]:
        manifest = result.outcomes[name].manifest
        assert manifest is not None
        return manifest.started, manifest.finished

    def pair(cpus: float) -> list[tuple[float, float]]:
        steps = [
            place.step(
                "write",
                f"w{i}",
                config={"text": f"{i} {cpus}"},
                execution={"seconds": 4.0},
                budget=Budget(cpus),
            )
            for i in range(2)
        ]
        result = place.run(*steps)
        return sorted(span(result, step.name) for step in steps)

    (_, first_end), (second_start, _) = pair(1.0)
    assert second_start < first_end
    (_, first_end), (second_start, _) = pair(2.0)
    assert second_start >= first_end


def test_a_damaged_result_is_computed_again(place: Place) -> None:
    step = place.step("write", config={"text": "x"})
    output = place.run(step).outcomes["write"].output
    assert output is not None
    output.write("part/text.txt", b"")
    result = place.run(step)
    assert _states(result) == {"write": "computed"}
    assert result.outcomes["write"].output != output
    assert _states(place.run(step)) == {"write": "reused"}


def test_an_effect_that_is_gone_is_made_again(place: Place, tmp_path: Path) -> None:
    step = Step(
        "register",
        "engine_functions:register",
        execution={"registry": str(tmp_path / "registry")},
        confirm="engine_functions:is_registered",
    )
    assert _states(place.run(step)) == {"register": "computed"}
    assert _states(place.run(step)) == {"register": "reused"}
    (tmp_path / "registry" / "entry").unlink()
    assert _states(place.run(step)) == {"register": "computed"}
    assert _states(place.run(step)) == {"register": "reused"}


def test_how_far_a_step_is_can_be_followed_in_mlflow(
    place: Place, api: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PROGRESS_EVERY_S", 0.5)
    slow = place.step("write", config={"text": "x"}, execution={"seconds": 3.0})
    result = place.run(slow, place.step("refuse"))
    assert _children(api, result)["write"].data.tags["step.progress"].startswith("1/4 parts")
    said = io.StringIO()
    assert following.follow(place.uri, result.run_id, Console(file=said, width=200)) == 1
    lines = said.getvalue().splitlines()
    assert any(re.fullmatch(r"write: computed  \d+\.\d s.*", line) for line in lines)
    assert any(line.startswith("refuse: failed") and "step `refuse`" in line for line in lines)
    assert lines[-1].startswith("test: FAILED after")


def test_what_a_step_says_is_in_mlflow(place: Place, api: MlflowClient) -> None:
    source = place.step("write", config={"text": "x"}, external={"a.jsonl": "ab" * 32})
    step = Step("report", "engine_functions:report", config={"rows": 20}, inputs={})
    both = place.step("join", inputs={"a": source}, config={})
    result = place.run(step, both)
    children = _children(api, result)
    run = children["report"]
    assert run.data.metrics == {"loss": 1 / 20, "ndcg_at_10": 0.5, "rows_out": 20.0}
    assert run.data.params == {"rows": "20", "device": "cpu"}
    assert run.data.tags["step.fingerprint"] == result.outcomes["report"].fingerprint
    history = api.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(i, 1 / (i + 1)) for i in range(20)]
    assert {file.path for file in api.list_artifacts(run.info.run_id)} == {"loss.png", "table.json"}
    assert [file.path for file in api.list_artifacts(result.run_id)] == ["dag.png"]
    assert api.get_run(result.run_id).data.params == {"k.v": "1"}

    def datasets(name: str) -> dict[tuple[str, str], str]:
        inputs = api.get_run(children[name].info.run_id).inputs.dataset_inputs
        return {(each.tags[0].value, each.dataset.name): each.dataset.digest for each in inputs}

    prints = {name: outcome.fingerprint[:32] for name, outcome in result.outcomes.items()}
    assert datasets("write") == {("output", "write"): prints["write"], ("external", "a.jsonl"): "ab" * 16}
    assert datasets("join") == {("output", "join"): prints["join"], ("input", "write"): prints["write"]}


def test_a_manifest_says_how_it_was_made(place: Place, api: MlflowClient) -> None:
    result = place.run(place.step("write", config={"text": "héllo"}))
    outcome = result.outcomes["write"]
    assert outcome.output is not None
    folder = place.store.folder(outcome.step, outcome.fingerprint)
    said = json.loads(folder.read("manifest.json"))
    # `printf 'héllo' | sha256sum`
    digest = "3c48591d8d098a4538f5e013dfcf406e948eac4d3277b10bf614e295d6068179"
    assert said["outputs"] == {"part/text.txt": {"size": 6, "sha256": digest}}
    assert said["numbers"] == {"characters": 5.0}
    assert said["payload"]["config"] == {"text": "héllo"}
    assert {"python", "ray", "mlflow"} <= set(said["provenance"])
    assert api.get_run(said["tracking"]["run_id"]).data.tags["step.output"] == outcome.output.uri
    assert folder.names() == [outcome.output.uri.rpartition("/")[2], "manifest.json"]


def test_losing_mlflow_loses_no_work(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_RETRY_AFTER_S", (0.2,))
    directory = tmp_path / "mlflow"
    place.uri = server.start(directory).uri
    server.start(directory).wait()
    first = place.step("write", "first", config={"text": "x"}, execution={"seconds": 3.0})
    both = place.step("join", inputs={"a": first})
    threading.Timer(1.5, server.stop, [directory]).start()
    result = place.run(both)
    assert (result.exit_code, _states(result)) == (0, {"first": "computed", "join": "computed"})
    assert result.outcomes["join"].run_id is None

    for path in directory.glob("mlflow.db*"):
        path.unlink()
    try:
        server.start(directory).wait()
        again = place.run(both)
        assert _states(again) == {"first": "reused", "join": "reused"}
        assert MlflowClient(place.uri).get_run(again.run_id).info.status == "FINISHED"
    finally:
        server.stop(directory)


@pytest.mark.parametrize(
    ("cpus", "text", "was_read"),
    [(1, b"part+whole", 1.0), (2, b"whole", 0.0)],  # of the two of the cluster: room beside it, or not
)
def test_a_step_that_follows_runs_beside_where_there_is_room(
    place: Place, cpus: int, text: bytes, was_read: float
) -> None:
    work = place.step("work_in_parts", budget=Budget(cpus=cpus))
    follow = place.step("follow", inputs={"work": Following(work)})
    result = place.run(follow)
    assert result.exit_code == 0
    output, worked = result.outcomes["follow"].output, result.outcomes["work-in-parts"].manifest
    assert output is not None
    assert worked is not None
    assert output.read("text.txt") == text
    assert worked.numbers == {"was_read": was_read}
    assert set(_states(place.run(follow)).values()) == {"reused"}


def test_a_step_that_follows_a_failing_one_is_stopped(place: Place) -> None:
    work = place.step("work_in_parts", config={"fails": True})
    follow = place.step("follow", inputs={"work": Following(work)})
    result = place.run(follow)
    assert _states(result) == {"work-in-parts": "failed", "follow": "skipped"}
    assert result.message == "step `work-in-parts`: it could not go on"
