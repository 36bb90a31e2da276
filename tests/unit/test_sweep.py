"""A sweep: every combination, once; what combinations have in common is one step; mistakes before any compute."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.engine.step import closure
from workflows.profile import Profile
from workflows.recipe.source import RecipeError
from workflows.recipe.sweep import load_sweep
from workflows.systems import compare_systems

VALUES = st.lists(st.integers(4, 9), min_size=2, max_size=3, unique=True)


@settings(max_examples=5)  # each reads a recipe up to ten times
@given(rates=VALUES, sizes=VALUES)
def test_a_sweep_is_the_product_of_its_values(rates, sizes):
    over = [
        f"steps.weak.learning_rate={','.join(f'{rate}.0e-5' for rate in rates)}",
        f"steps.supervised.batch_size={','.join(map(str, sizes))}",
    ]
    found = load_sweep("docs-search", over, ["steps.weak.epochs=3"], 32)
    recipes = [found.recipes[label] for label in found.comparison.systems]
    tried = [
        (recipe.steps["weak"].learning_rate, recipe.steps["supervised"].batch_size) for recipe in recipes
    ]
    assert tried == [(float(f"{rate}e-5"), size) for rate, size in product(rates, sizes)]
    assert {recipe.steps["weak"].epochs for recipe in recipes} == {3}


def test_what_comes_before_the_field_is_one_step():
    def steps(over):
        return [
            step.name
            for step in closure(compare_systems(load_sweep("docs-search", [over], (), 32), Profile()))
        ]

    late = steps("steps.supervised.learning_rate=1.0e-5,3.0e-5")
    assert [name.rpartition(".")[2] for name in late if "." in name] == [
        "supervised", "merged", "evaluate-on-held-out",
    ] * 2  # fmt: skip
    assert {"weak", "mined", "supervised-batches"} <= set(late)
    early = steps("steps.weak.learning_rate=1.0e-5,3.0e-5")
    assert {"weak-batches", "queries"} <= set(early)
    assert not {"weak", "mined"} & set(early)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (["steps.weak.learning_rate"], "section.field=value,value"),
        (["steps.weak.learning_rate=1.0e-5"], "two values or more"),
        (["steps.weak.rate=1,2"], "unknown field `steps.weak.rate`; allowed here: "),
        (["steps.weak.epochs=1,-2"], "steps.weak.epochs"),
        (["steps.weak.epochs=1,1"], "same value twice"),
        (["steps.weak.epochs=1,2", "steps.weak.epochs=3,4"], "is there twice"),
        (["steps.weak.epochs=1,2,3,4,5,6,7", "steps.weak.seed=1,2,3,4,5"], "makes 35 recipes, --most is 32"),
    ],
)
def test_mistakes(over, told):
    with pytest.raises(RecipeError, match=told.replace(".", r"\.")):
        load_sweep("docs-search", over, (), 32)


def test_a_comparison_is_not_swept():
    with pytest.raises(RecipeError, match="compares systems"):
        load_sweep("ablation-qwen3", ["set.steps.weak.epochs=1,2"], (), 32)
