"""What `gc` may delete, and what it never does."""

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from components.storage import Folder
from workflows.cli import app
from workflows.engine.fingerprint import fingerprints, payload
from workflows.engine.garbage import References, Removal, Survey, delete, survey
from workflows.engine.lease import Contender, Holder
from workflows.engine.plan import plan
from workflows.engine.step import Step
from workflows.engine.store import Manifest, Store
from workflows.engine.tracking import open_tracking

HERE = "this MLflow"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", lease_period_s=0.4)


def chain(name: str, *parts: str) -> list[Step]:
    """Steps that read one another, the first one first."""
    steps: list[Step] = []
    for part in parts:
        inputs = {"part": steps[-1]} if steps else {}
        config = {"text": f"{name} {part}"}
        steps.append(Step(f"{name}-{part}", "engine_functions:write", config=config, inputs=inputs))
    return steps


def finish(store: Store, steps: list[Step], place: str = HERE, weights: str | None = None) -> None:
    """Results of the steps as a run leaves them; the last one holds a model if it has weights."""
    prints = fingerprints(steps)
    for step in steps:
        folder = store.folder(step, prints[step])
        files = {"text.txt": b"text"}
        if weights and step is steps[-1]:
            files["model/encoding.json"] = json.dumps({"weights_digest": weights}).encode()
        for name, data in files.items():
            (folder / "attempt-1").write(name, data)
        outputs = {name: {"size": len(data), "sha256": ""} for name, data in files.items()}
        lease = Contender(folder, store.lease_period_s).acquire()
        assert lease is not None
        tracking = {"place": place, "run_id": "r"}
        manifest = Manifest(
            step.name, prints[step], payload(step, prints), "attempt-1", outputs, {}, 1.0, 2.0, tracking
        )
        assert store.commit(step, manifest, lease)


def known(counted: list[Step] = (), dismissed: list[Step] = (), registered: dict[str, str] | None = None):  # type: ignore[assignment]
    def numbers(steps):
        return [number[:16] for number in fingerprints(steps).values()]

    why = dict.fromkeys(numbers(dismissed), "only deleted runs refer to it")
    return References(frozenset(numbers(counted)), why, registered or {}, HERE)


def clear(store: Store, found: Survey) -> tuple[list[Removal], list[Removal]]:
    """What was deleted, and what stayed."""
    gone: list[Removal] = []
    stays = delete(store, found.removals, gone.append)
    return gone, [removal for removal, _ in stays]


def states(store: Store, steps: list[Step]) -> list[str]:
    return [each.state for each in plan(steps, store)]


def test_only_what_nobody_refers_to_goes_and_never_what_a_registered_version_came_from(store):
    used, old, mine, other = (chain(name, "pairs", "model") for name in ("used", "old", "mine", "other"))
    finish(store, used)
    finish(store, old)
    finish(store, mine, weights="digest of the weights")
    finish(store, other, place="another MLflow")
    # The runs of `mine` are gone, and of `used` only the last step is recorded: its input stays nevertheless.
    references = known(used[1:], [*old, *mine], {"digest of the weights": "search 3"})
    found = survey(store, references, cache_limit=0)
    assert {each.step for each in found.removals} == {"old-pairs", "old-model"}
    why = {each.step: each.why for each in found.kept}
    assert why["mine-pairs"] == why["mine-model"] == "registered: search 3 came from it"
    assert "another MLflow" in why["other-pairs"]
    # The bytes that are told are those on the disk.
    before = sum(store.root.files().values())
    gone, stays = clear(store, found)
    assert before - sum(store.root.files().values()) == sum(each.size for each in gone)
    assert not stays
    assert states(store, [used[1], mine[1], other[1]]) == ["HIT"] * 6
    assert states(store, [old[1]]) == ["RUN", "RUN"]
    assert not [name for name in store.root.names("write/*") if not (store.root / name).names()]


def test_of_a_step_that_is_done_only_the_result_stays(store):
    [step] = chain("done", "model")
    finish(store, [step])
    folder = store.folder(step, fingerprints([step])[step])
    (folder / "state").write("checkpoint", b"12345")
    (folder / "attempt-2").write("half.txt", b"123")
    found = survey(store, known([step]), 0)
    assert sorted((each.paths, each.size) for each in found.removals) == [
        (("attempt-2",), 3),
        (("state",), 5),
    ]
    clear(store, found)
    assert folder.names() == ["attempt-1", "manifest.json"]
    assert states(store, [step]) == ["HIT"]


def test_a_step_that_is_not_done_keeps_what_it_goes_on_from(store):
    [step] = chain("killed", "model")
    folder = store.folder(step, fingerprints([step])[step])
    (folder / "state").write("checkpoint", b"12345")
    (folder / "attempt-1").write("half.txt", b"123")
    for references in (known([step]), known()):  # a run refers to it; nobody here knows of it
        assert [each.paths for each in survey(store, references, 0).removals] == [("attempt-1",)]
    clear(store, survey(store, known([step]), 0))
    assert folder.read("state/checkpoint") == b"12345"
    assert not folder.exists("attempt-1")
    clear(store, survey(store, known(dismissed=[step]), 0))
    assert not folder.exists()


def _leased(folder: Folder, **facts: object) -> None:
    holder = replace(Holder.this_process(0.4), **facts)  # type: ignore[arg-type]
    folder.write("lease-000001.json", json.dumps(asdict(holder)).encode())
    (folder / "attempt-1").write("half.txt", b"123")


def test_what_a_process_works_on_is_left_alone(store):
    """A living process of this host; one of another that has just beaten; one that seemed dead and beats again."""
    here, there, late = (chain(name, "model")[0] for name in ("here", "there", "late"))
    folders = {step: store.folder(step, print_) for step, print_ in fingerprints([here, there, late]).items()}
    _leased(folders[here])
    _leased(folders[there], host="elsewhere")
    _leased(folders[late], host="elsewhere", time=time.time() - 7200)
    found = survey(store, known(dismissed=[here, there, late]), 0)
    [removal] = found.removals
    assert removal.where.endswith(fingerprints([late])[late][:16])
    assert sorted(each.why.partition(" ")[0] for each in found.kept) == ["process", "process"]

    beats = 0

    def beat(*_: object) -> None:
        nonlocal beats
        beats += 1
        _leased(folders[late], host="elsewhere", beat=beats)

    waited, time.sleep = time.sleep, lambda seconds: (beat(), waited(seconds))[1]
    try:
        gone, stays = clear(store, found)
    finally:
        time.sleep = waited
    assert (gone, stays) == ([], [removal])
    assert folders[late].exists("attempt-1/half.txt")


def test_what_dead_processes_held_goes(store):
    here, there = (chain(name, "model")[0] for name in ("here", "there"))
    folders = {step: store.folder(step, print_) for step, print_ in fingerprints([here, there]).items()}
    _leased(folders[here], process_started=1.0)
    _leased(folders[there], host="elsewhere", time=time.time() - 7200)
    gone, stays = clear(store, survey(store, known(), 0))
    assert (len(gone), stays) == (2, [])
    assert not any(folder.exists() for folder in folders.values())


def test_the_oldest_vectors_go_first(store):
    for age, name in enumerate(("new", "middle", "old")):
        for kind, size in (("keys", 16), ("vectors", 84)):
            store.cache.write(f"space/{name}.{kind}.npy", bytes(size))
            at = time.time() - 60 * age
            os.utime(store.cache.path(f"space/{name}.{kind}.npy"), (at, at))
    assert not survey(store, known(), 300).removals
    [removal] = survey(store, known(), 150).removals
    assert (removal.where, removal.size) == ("cache", 200)
    assert removal.paths[0] == "space/old.keys.npy"  # vectors without keys are never read
    clear(store, survey(store, known(), 150))
    assert {*store.cache.files()} == {"space/new.keys.npy", "space/new.vectors.npy"}


def test_the_command_counts_the_runs_that_mlflow_remembers(store, tracking_uri, tmp_path):
    """Three submissions of one recipe: the first is deleted in MLflow, the last two share a step."""
    steps = chain("one", "a") + chain("two", "a") + chain("three", "a")
    finish(store, steps, place=tracking_uri)
    prints = fingerprints(steps)
    run_ids = []
    for recorded in (steps[:1], steps[1:2], steps[1:]):
        tracking = open_tracking("gc", tracking_uri)
        tracking.begin("gc", {})
        for step in recorded:
            manifest = store.find(step, prints[step])
            assert manifest is not None
            tracking.reuse(step, manifest, store.output(step, manifest), {})
        tracking.end("FINISHED", {}, {})
        run_ids.append(tracking.run_id)
    MlflowClient(tracking_uri).delete_run(run_ids[0])

    def gc(*options: str) -> dict:
        where = ["--root", str(tmp_path / "results"), "--tracking-uri", tracking_uri, "--json"]
        done = CliRunner().invoke(app, ["gc", *where, *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    said = gc()
    assert [each["step"] for each in said["removals"]] == ["one-a"]
    assert [(run["run_id"], run["status"]) for run in said["runs"]] == [
        (run_ids[2], "FINISHED"),
        (run_ids[1], "FINISHED"),
        (run_ids[0], "deleted"),
    ]
    whole = {step: sum(store.folder(step, prints[step]).files().values()) for step in steps}
    assert [(run["bytes"], run["bytes_of_its_own"]) for run in said["runs"]] == [
        (whole[steps[1]] + whole[steps[2]], whole[steps[2]]),
        (whole[steps[1]], 0),
        (whole[steps[0]], whole[steps[0]]),
    ]
    assert states(store, steps) == ["HIT"] * 3  # nothing was deleted
    assert gc("--delete")["deleted_bytes"] == said["bytes"] == whole[steps[0]]
    assert states(store, steps) == ["RUN", "HIT", "HIT"]
    assert {each["step"] for each in gc("--keep-runs", "1")["removals"]} == set()
    assert {each["step"] for each in gc("--keep-runs", "0", "--delete")["removals"]} == {"two-a", "three-a"}
