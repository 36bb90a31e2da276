"""The whole DAG through the command line, as a user runs it: a tiny model, real Ray, real MLflow."""

import hashlib
import signal
import subprocess
import time
from pathlib import Path

import pytest
from workspace import STEPS, client, submissions, write_workspace

pytestmark = pytest.mark.timeout(600)


def weights_of_merged(root: Path) -> str:
    (file,) = (root / "merge_checkpoints").glob("*/attempt-*/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_run_ends_with_scores_and_what_to_do_next(undisturbed):
    _, done = undisturbed
    for row in ("bm25", "base", "weak", "supervised", "merged"):
        assert row in done.stdout
    assert "80 held-out queries over 240 documents" in done.stdout
    assert "embedloom promote tiny" in done.stdout


def test_mlflow_holds_a_parent_and_a_child_a_step(undisturbed):
    workspace, _ = undisturbed
    api = client(workspace.folder / "results")
    parent, children = submissions(api)[0]
    assert parent.info.status == "FINISHED"
    assert {child.data.tags["step.name"] for child in children} == STEPS
    assert {child.info.status for child in children} == {"FINISHED"}
    assert "dag.png" in [file.path for file in api.list_artifacts(parent.info.run_id)]
    by_name = {child.data.tags["step.name"]: child for child in children}
    losses = api.get_metric_history(by_name["weak"].info.run_id, "loss")
    assert len(losses) == 40  # one a step: twice 160 pairs in batches of 8
    assert "report.html" in [file.path for file in api.list_artifacts(by_name["report"].info.run_id)]
    judged = api.get_metric_history(by_name["evaluate-supervised-checkpoints"].info.run_id, "ndcg_at_10")
    last = max(judged, key=lambda metric: metric.step)
    assert len(judged) == by_name["evaluate-supervised-checkpoints"].data.metrics["checkpoints"] > 1
    assert last.value == by_name["evaluate-supervised"].data.metrics["ndcg_at_10"]
    # Lineage: what a step read carries the digest of what another wrote.
    written = {d.dataset.digest for d in by_name["split"].inputs.dataset_inputs if _context(d) == "output"}
    read = {
        d.dataset.digest for d in by_name["evaluate-base"].inputs.dataset_inputs if _context(d) != "output"
    }
    assert written
    assert written <= read
    version = api.get_model_version_by_alias("tiny", "candidate")
    assert version.tags["fingerprint"]
    assert version.run_id == by_name["register"].info.run_id
    scores = by_name["evaluate-merged"].data.metrics
    assert parent.data.metrics["ndcg_at_10/evaluate-merged"] == scores["ndcg_at_10"]


def _context(dataset_input) -> str:
    return next(tag.value for tag in dataset_input.tags if tag.key == "mlflow.data.context")


def test_submitting_again_computes_nothing_and_starts_no_cluster(undisturbed):
    workspace, _ = undisturbed
    done = workspace.run()
    assert done.returncode == 0, done.stderr
    assert "20 steps, 20 reused" in done.stdout
    assert "Ray dashboard" not in done.stdout
    api = client(workspace.folder / "results")
    _, children = submissions(api)[-1]
    assert {child.data.tags["step.cached"] for child in children} == {"true"}
    assert all(child.data.tags["step.source_run_id"] for child in children)
    assert len(api.search_model_versions("name='tiny'")) == 1


def test_plan_names_the_field_that_changed_and_what_depends_on_it(undisturbed):
    workspace, _ = undisturbed
    planned = workspace.plan("--set", "steps.supervised.objective.temperature=0.05")
    hits = {name for name, row in planned.items() if row["state"] == "HIT"}
    assert hits == STEPS - {
        "supervised",
        "merged",
        "evaluate-supervised-checkpoints",
        "evaluate-supervised",
        "evaluate-merged",
        "report",
        "register",
    }
    assert planned["supervised"]["reasons"] == ["objective.temperature: 0.02 -> 0.05"]


def test_plan_names_the_document_that_was_edited(undisturbed):
    workspace, _ = undisturbed
    before = workspace.corpus.read_text()
    try:
        workspace.corpus.write_text(before.replace('"_id": "d7", "title": "', '"_id": "d7", "title": "w1 '))
        planned = workspace.plan()
    finally:
        workspace.corpus.write_text(before)
    reasons = " ".join(planned["documents"]["reasons"])
    assert "corpus.jsonl" in reasons
    assert "d7" in reasons
    assert {row["state"] for row in workspace.plan().values()} == {"HIT"}


def test_killed_in_training_and_submitted_twice_at_once(undisturbed, tmp_path):
    """`kill -9` of the driver in the weak stage, then the same command two times at the same moment: finished steps
    are hits, training goes on from its checkpoint, every step is computed once, and the weights are the same."""
    workspace = write_workspace(tmp_path)
    root = workspace.folder / "results"
    command = workspace.command(
        "run", str(workspace.recipe), "--profile", str(workspace.folder / "profile.yaml")
    )
    try:
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as killed:
            _wait_for(lambda: list(root.glob("train_stage/*/state/train/checkpoint-00000[5-9]*")), 240)
            killed.send_signal(signal.SIGKILL)
        assert not list(root.glob("train_stage/*/manifest.json"))
        reached = max(int(path.name[-6:]) for path in root.glob("train_stage/*/state/train/checkpoint-*"))

        both = [
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=400) for process in both]
        assert [process.returncode for process in both] == [0, 0], said

        api = client(root)
        first, *later = submissions(api)
        assert first[0].info.status == "KILLED"
        computed = [
            child.data.tags["step.name"]
            for _, children in [first, *later]
            for child in children
            if child.data.tags["step.cached"] == "false" and child.info.status == "FINISHED"
        ]
        assert sorted(computed) == sorted(STEPS)
        reused = {
            c.data.tags["step.name"]
            for _, children in later
            for c in children
            if c.data.tags["step.cached"] == "true"
        }
        assert {"documents", "split", "base", "weak-pairs", "weak-batches"} <= reused
        steps = sorted(
            metric.step
            for _, children in later
            for child in children
            if child.data.tags["step.name"] == "weak" and child.data.tags["step.cached"] == "false"
            for metric in api.get_metric_history(child.info.run_id, "loss")
        )
        # Ray registers a checkpoint a moment after it was written: a kill may cost the last two.
        assert reached - 1 <= steps[0] <= reached + 1
        assert steps == list(range(steps[0], 41))
        assert weights_of_merged(root) == weights_of_merged(undisturbed[0].folder / "results")
    finally:
        workspace.end()


def _wait_for(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
