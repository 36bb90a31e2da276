"""The whole DAG through the command line, as a user runs it: a tiny model, real Ray, real MLflow."""

import hashlib
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from workspace import STEPS, client, submissions, write_workspace

pytestmark = pytest.mark.timeout(1500)


def weights_of_merged(root: Path) -> str:
    (file,) = (root / "merge_checkpoints").glob("*/attempt-*/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def checkpoints_in(root: Path) -> list[int]:
    """After which steps the weak stage has left one."""
    return [int(path.name[-6:]) for path in root.glob("train_stage/*/state/train/checkpoint-*")]


def test_a_run_ends_with_scores_and_what_to_do_next(undisturbed):
    _, done = undisturbed
    for row in ("bm25", "base", "weak", "supervised", "merged"):
        assert row in done.stdout
    assert "80 held-out queries over 240 documents" in done.stdout
    assert "spearman" in done.stdout
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
    assert len(losses) == 120  # one a step: six times 160 pairs in batches of 8
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
    assert "held-out queries" in version.description
    of_version = {
        file.path for file in api.list_logged_model_artifacts(version.source.removeprefix("models:/"))
    }
    assert {"README.md", "card.json"} <= of_version
    reranker = api.get_model_version_by_alias("tiny-reranker", "candidate")
    assert (reranker.tags["kind"], version.tags["kind"]) == ("reranker", "embedding")
    assert reranker.tags["scorer_id"]
    assert reranker.run_id == by_name["register-reranker"].info.run_id
    model_id = reranker.source.removeprefix("models:/")
    kept = {file.path for file in api.list_logged_model_artifacts(model_id, "evaluation")}
    assert kept == {"evaluation/model", "evaluation/base"}
    scores = by_name["evaluate-merged"].data.metrics
    assert parent.data.metrics["ndcg_at_10/evaluate-merged"] == scores["ndcg_at_10"]


def _context(dataset_input) -> str:
    return next(tag.value for tag in dataset_input.tags if tag.key == "mlflow.data.context")


def test_what_was_encoded_is_kept_for_whoever_judges_the_same_model(undisturbed):
    """Base, weak, merged and three checkpoints, the last of which is the supervised model; two sides each. Sentence
    pairs take the queries' side."""
    workspace, _ = undisturbed
    assert len(list((workspace.folder / "results" / "cache").iterdir())) == 2 * 6


def test_what_a_run_left_can_be_looked_at_and_nothing_of_it_would_go(undisturbed):
    workspace, _ = undisturbed
    said = workspace.call("inspect", "tiny", "--json", "--limit", "2")
    assert said.returncode == 0, said.stderr
    tables = {(table["step"], table["kind"]): table for table in json.loads(said.stdout)["tables"]}
    assert {("weak-pairs", "pairs"), ("mined", "negatives"), ("evaluate-merged", "queries")} <= tables.keys()
    assert tables["mined", "negatives"]["rows"][0]["score_of_negatives"] == pytest.approx(1, abs=0.1)
    worst, second = tables["evaluate-merged", "queries"]["rows"]
    assert worst["ndcg@10"] <= second["ndcg@10"] < 1
    assert worst["relevant"].startswith("w")  # its text is found through the split that it was judged on
    stored = workspace.call("gc", "--json")
    assert stored.returncode == 0, stored.stderr
    for removal in json.loads(stored.stdout)[
        "removals"
    ]:  # attempts that another test's submission left behind
        manifest = json.loads((workspace.folder / "results" / removal["where"] / "manifest.json").read_text())
        assert manifest["attempt"] not in removal["paths"]
    why = {each["step"]: each["why"] for each in json.loads(stored.stdout)["kept"]}
    assert "tiny 1" in why["merged"]
    assert "tiny 1" in why["supervised"]  # whose checkpoints were merged
    assert why["weak-pairs"].startswith("registered")


def test_submitting_again_computes_nothing_and_starts_no_cluster(undisturbed):
    workspace, _ = undisturbed
    done = workspace.run()
    assert done.returncode == 0, done.stderr
    assert f"{len(STEPS)} steps, {len(STEPS)} reused" in done.stdout
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
        "evaluate-supervised-on-alike",
        "evaluate-merged-on-alike",
        "rerank-merged-by-reranker",
        "report",
        "card",
        "register",
        "card-reranker",
        "register-reranker",
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
            # An earlier one goes when Ray Train has registered a later one, which then is what a kill leaves.
            _wait_for(lambda: min(checkpoints_in(root), default=0) >= 5, 600)
            killed.send_signal(signal.SIGKILL)
        assert not list(root.glob("train_stage/*/manifest.json"))
        found = checkpoints_in(root)

        both = [
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=800) for process in both]
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
        # From a checkpoint, and perhaps a later one than were there: the workers outlive their driver for a moment.
        assert steps[0] > min(found)
        assert steps == list(range(steps[0], 121))
        assert weights_of_merged(root) == weights_of_merged(undisturbed[0].folder / "results")
    finally:
        workspace.end()


def _wait_for(condition, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
