"""`embedloom compare` through the command line, over results that a run of its recipe has left."""

import json
import shutil

import pytest
from mlflow import MlflowClient

from workflows.engine import server

pytestmark = pytest.mark.timeout(1500)

ROOT = "compared"

# A system that is on no list, in one file.
ANOTHER = """\
name: another
documents: {sources: [corpus]}
split: {evaluation_split: test}
model:
  base: model
  encoding: {pooling: max, projection: linear, projection_dimensions: 8}
steps:
  pairs: {do: collect, kinds: [labelled]}
  trained:
    do: train
    batch_size: 32
    learning_rate: 0.003
    precision: float32
    query_length: 16
    document_length: 32
    training_head: mlp
    objective: {temperature: 0.05, in_batch: [query_document], document_query: second_softmax, threshold: null}
"""
COMPARISON = """\
name: merging
baseline: untrained
systems:
  whole: {recipe: tiny.yaml}
  unmerged: {recipe: tiny.yaml, without: [merged, judged, reranker]}
  another: {recipe: another.yaml}
  untrained: {model: model}
evaluations:
  alike: {kind: similarity, data: sets}
"""


@pytest.fixture
def workspace(undisturbed):
    """With a copy of the results, for other tests count what the run left."""
    found, _ = undisturbed
    shutil.copytree(
        found.folder / "results", found.folder / ROOT, ignore=shutil.ignore_patterns("mlflow", "lease-*")
    )
    yield found
    found.end(ROOT)


def test_what_is_there_is_compared_and_only_the_rest_is_computed(workspace):
    path = workspace.folder / "merging.yaml"
    path.write_text(COMPARISON)
    (workspace.folder / "another.yaml").write_text(ANOTHER)
    profile = ("--profile", str(workspace.folder / "profile.yaml"))
    planned = workspace.call("plan", str(path), *profile, "--json", root=ROOT)
    assert planned.returncode == 0, planned.stderr
    states = {row["step"]: row["state"] for row in json.loads(planned.stdout)}
    # The run of tiny.yaml has left all of two systems, what judges them, and what the third reads of documents and
    # pairs. The model from outside encodes as the recipe's base does, so it is the same step.
    assert {name for name, state in states.items() if state == "RUN"} == {
        "another.base", "another.trained-batches", "another.trained", "another.evaluate-on-alike",
        "another.evaluate-on-held-out", "compare",
    }  # fmt: skip
    assert {"weak", "supervised", "whole.merged", "whole.evaluate-on-held-out"} <= states.keys()
    assert not {"register", "reranker"} & states.keys()

    done = workspace.call("compare", str(path), *profile, "--json", root=ROOT)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert [one["name"] for one in table["sets"]] == ["average", "alike", "held-out"]
    figures = {figure["system"]: figure["value"]["mean"] for figure in table["sets"][2]["figures"]}
    for system, step in (("whole", "merged"), ("unmerged", "supervised"), ("untrained", "base")):
        assert figures[system] == pytest.approx(numbers(workspace, f"evaluate-{step}")["ndcg@10"])
    costs = {system["name"]: system["cost"] for system in table["systems"]}
    assert costs["whole"]["tokens"] == costs["unmerged"]["tokens"] > costs["untrained"]["tokens"] == 0
    assert costs["another"]["tokens"] == numbers(workspace, "another.trained-batches")["tokens"]
    assert costs["another"]["seconds"] > 0
    # The projection; the head was of training alone.
    assert costs["another"]["parameters_added"] == 32 * 8

    again = workspace.call("compare", str(path), *profile, root=ROOT)
    assert again.returncode == 0, again.stderr
    assert f"{len(states)} steps, {len(states)} reused" in again.stdout
    assert "baseline" in again.stdout
    running = server.find(workspace.folder / ROOT / "mlflow")
    assert running is not None
    api = MlflowClient(running.uri)
    experiment = api.get_experiment_by_name("merging")
    first, *_ = api.search_runs(
        [experiment.experiment_id], "tags.`step.name` = 'compare' and tags.`step.cached` = 'false'"
    )
    kept = {file.path for file in api.list_artifacts(first.info.run_id)}
    assert {
        "comparison.json", "comparison.html", "cost.png", "scores-alike.png", "pairs-held-out.png",
    } <= kept  # fmt: skip


def test_a_registered_model_is_a_system(undisturbed):
    workspace, _ = undisturbed
    path = workspace.folder / "registered.yaml"
    path.write_text(COMPARISON.replace("recipe: another.yaml", "model: models:/tiny@candidate"))
    planned = workspace.call("plan", str(path), "--json")
    assert planned.returncode == 0, planned.stderr
    states = {row["step"]: row["state"] for row in json.loads(planned.stdout)}
    assert states["another.base"] == states["another.evaluate-on-alike"] == "RUN"
    path.write_text(COMPARISON.replace("recipe: another.yaml", "model: models:/tiny/7"))
    refused = workspace.call("plan", str(path), "--json")
    assert (refused.returncode, "models:/tiny/7 is not in the MLflow registry" in refused.stderr) == (2, True)


def numbers(workspace, name):
    """What the last step of this name returned."""
    root = workspace.folder / ROOT
    latest = json.loads((root / "names" / f"{name}.json").read_text())[0]
    return json.loads((root / latest["folder"] / "manifest.json").read_text())["numbers"]
