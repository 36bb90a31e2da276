"""A comparison: what its file may say, how a mistake is told, and that what systems share is one step of the DAG."""

import json

import pytest
from pipeline_calls import check_calls
from tiny_model import write_tiny_model

from workflows.engine.fingerprint import fingerprints
from workflows.engine.step import closure, producer
from workflows.pipeline import make
from workflows.profile import Profile
from workflows.recipe import load as recipes
from workflows.systems import compare_systems

RECIPE = """\
name: tiny
documents: {sources: [nowhere.jsonl]}
model: {base: model}
steps:
  titles: {do: collect, kinds: [title_body]}
  weak: {do: train, batch_size: 8}
  labelled: {do: collect, kinds: [labelled], add: [titles]}
  mined: {do: mine}
  supervised: {do: train, batch_size: 8, checkpoints: 2}
  merged: {do: merge}
"""
GOOD = """\
name: both
set:
  documents.sources: [./docs.jsonl]
baseline: plain
systems:
  whole: {recipe: tiny.yaml}
  unmerged: {recipe: tiny.yaml, without: [merged]}
  supervised: {recipe: tiny.yaml, without: [titles, weak]}
  slow:
    recipe: tiny.yaml
    set: {steps.supervised.learning_rate: 1.0e-5}
  plain: {model: model, encoding: {pooling: cls}}
evaluations:
  alike: {kind: similarity, data: sets}
"""


@pytest.fixture
def write(tmp_path):
    write_tiny_model(tmp_path / "model")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.yaml").write_text(RECIPE.replace("base: model", "base: ../model"))
    (tmp_path / "docs.jsonl").write_text('{"_id": "a", "title": "A", "text": "The first."}\n')
    (tmp_path / "sets").mkdir()
    pairs = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (0, 1)]
    (tmp_path / "sets" / "test.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def write(text):
        path = tmp_path / "both.yaml"
        path.write_text(text.replace("tiny.yaml", "recipes/tiny.yaml"))
        return str(path)

    return write


def steps_of(path, *overrides):
    return closure(compare_systems(recipes.load_comparison(path, overrides), Profile()))


def test_what_is_set_and_left_out(write, tmp_path):
    found = recipes.load_comparison(write(GOOD), ["set.split.seed=7", "systems.slow.set.steps.weak.epochs=3"])
    assert list(found.recipes) == ["whole", "unmerged", "supervised", "slow"]
    assert {recipe.split.seed for recipe in found.recipes.values()} == {7}
    # a path of the comparison is relative to it, one of the recipe to the recipe
    assert found.recipes["whole"].documents.sources == [str(tmp_path / "docs.jsonl")]
    assert found.recipes["whole"].model.base == str(tmp_path / "model")
    assert list(found.recipes["unmerged"].steps) == [
        "titles", "weak", "labelled", "mined", "supervised",
    ]  # fmt: skip
    assert found.recipes["supervised"].steps["labelled"].add == []
    assert found.recipes["slow"].steps["supervised"].learning_rate == 1e-5
    assert found.recipes["slow"].steps["weak"].epochs == 3
    assert found.recipes["whole"].steps["weak"].epochs == 1


def test_what_systems_have_in_common_is_one_step(write):
    steps = steps_of(write(GOOD))
    check_calls(steps)
    prints = fingerprints(steps)
    assert len(set(prints.values())) == len(steps)
    by_name = {step.name: step for step in steps}
    own = {
        label: [n for n in by_name if n.startswith(f"{label}.")] for label in ("whole", "unmerged", "slow")
    }
    assert own["whole"] == [
        "whole.merged", "whole.evaluate-on-alike", "whole.evaluate-on-held-out",
    ]  # fmt: skip
    assert own["unmerged"] == ["unmerged.evaluate-on-alike", "unmerged.evaluate-on-held-out"]
    assert own["slow"] == [
        "slow.supervised",
        "slow.merged",
        "slow.evaluate-on-alike",
        "slow.evaluate-on-held-out",
    ]
    shared = {
        "documents",
        "duplicates",
        "split",
        "base",
        "titles",
        "weak-batches",
        "weak",
        "labelled",
        "mined",
    }
    assert shared <= by_name.keys()
    # Each system needs 12, 11, 9 and 12 steps to be made, 44 in all; 19 of these are different.
    found = recipes.load_comparison(write(GOOD))
    needed = []
    for recipe in found.recipes.values():
        made = make(recipe, Profile())
        needed += fingerprints([producer(made.models[made.last])]).values()
    assert (len(needed), len(set(needed))) == (44, 19)
    assert set(needed) <= set(prints.values())


def test_the_last_step_reads_what_each_system_took(write):
    steps = {step.name: step for step in steps_of(write(GOOD))}
    compare = steps["compare"]
    assert compare.config["baseline"] == "plain"
    assert compare.config["sets"] == ["alike", "held-out"]
    assert compare.inputs["model__unmerged__"].step is steps["supervised"]
    assert compare.inputs["stage__whole__weak"] is steps["weak"]
    assert compare.inputs["batches__slow__supervised"] is steps["supervised-batches"]
    assert compare.inputs["evaluate__plain__held_out"] is steps["plain.evaluate-on-held-out"]
    assert not [key for key in compare.inputs if key.startswith("stage__plain")]
    assert not [key for key in compare.inputs if key.startswith("stage__supervised__weak")]


def test_a_comparison_is_the_same_wherever_it_lies(write, tmp_path):
    for step in steps_of(write(GOOD)):
        assert str(tmp_path) not in json.dumps([dict(step.config), dict(step.external)])


def test_how_much_is_trained_on_changes_no_held_out_query(write):
    names = {step.name for step in steps_of(write(GOOD), "systems.slow.set.split.training_documents=10")}
    assert {"slow.split", "slow.evaluate-on-held-out"} <= names
    names = {step.name for step in steps_of(write(GOOD), "systems.slow.set.split.seed=1")}
    assert not any("held-out" in name for name in names)
    without_sets = GOOD[: GOOD.index("evaluations:")]
    with pytest.raises(
        ValueError, match="both: `evaluations` names no set, and its recipes hold out different"
    ):
        steps_of(write(without_sets), "systems.slow.set.split.seed=1")


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (GOOD.replace("without: [merged]", "without: [marged]"), [], "both.yaml:7: system `unmerged`: without: "),
        (GOOD.replace("without: [merged]", "without: [marged]"), [], "has no step `marged`; it has titles, weak"),
        (GOOD.replace("{model: model,", "{modle: model,"), [], "both.yaml:12: unknown field `systems.plain.modle`"),
        (GOOD.replace("pooling: cls", "poling: cls"), [], ":12: unknown field `systems.plain.encoding.poling`"),
        (GOOD.replace("{model: model,", "{recipe: tiny.yaml,"), [], "both.yaml:12: `systems.plain`: encoding is for"),
        (GOOD.replace("recipe: tiny.yaml, without: [merged]", "without: [merged]"), [], "give either recipe or model"),
        (GOOD.replace("learning_rate: 1.0e-5", "learning_rate: -1"), [], "both.yaml:9: system `slow`: set steps.super"),
        (GOOD.replace("baseline: plain", "baseline: plane"), [], "baseline is 'plane'; it is one of whole, unmerged"),
        (GOOD.replace("kind: similarity", "kind: same"), [], "both.yaml:14: `evaluations.alike.kind` is 'same'"),
        (GOOD.replace("tiny.yaml}", "timy.yaml}"), [], "both.yaml:6: system `whole`: "),
        (GOOD.replace("  alike:", "  held-out:"), [], "no set of `evaluations` can be called held-out"),
        (GOOD, ["systems.slow.sett.x=1"], "--set systems.slow.sett: unknown field `systems.slow.sett`"),
        (GOOD, ["set.steps.supervised.epoch=1"], "set steps.supervised.epoch: unknown field"),
        (RECIPE, [], "is a recipe; `embedloom run"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(write, text, override, message):
    with pytest.raises(recipes.RecipeError) as error:
        recipes.load_comparison(write(text), override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_run_says_which_command_a_comparison_is_for(write):
    with pytest.raises(recipes.RecipeError, match="compares systems; `embedloom compare"):
        recipes.load(write(GOOD))


def test_the_ablation_of_qwen3_can_be_planned():
    compared = recipes.load_comparison("ablation-qwen3")
    steps = closure(compare_systems(compared, Profile()))
    check_calls(steps)
    made = {
        step.name for step in steps if step.fn.endswith(("train_stage", "merge_checkpoints", "synthesise"))
    }
    # One synthesis, and the weak stage of three systems once; without synthetic pairs another supervised stage.
    assert made == {
        "queries", "weak", "supervised", "all.merged", "without-synthetic.supervised",
        "without-synthetic.merged",
    }  # fmt: skip
