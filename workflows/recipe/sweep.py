"""A sweep: one recipe with every combination of some values of its fields, as a comparison."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml

from workflows.recipe.comparison import Comparison, System
from workflows.recipe.load import Compared, changed_recipe, load
from workflows.recipe.source import RecipeError


def load_sweep(name_or_path: str, over: Sequence[str], overrides: Sequence[str], most: int) -> Compared:
    """The comparison of a recipe's variants; the first one is the baseline.

    Args:
        over: fields with their values: `a.b=1,2`, each value being YAML.
        overrides: of every variant, as of `load`.
        most: variants.

    Raises:
        RecipeError: as `load`, of every variant; a field without two values; more than `most` variants.
    """
    recipe = load(name_or_path, overrides)
    grid = _read_grid(over)
    count = prod(len(values) for values in grid.values())
    if count > most:
        raise RecipeError(f"--over makes {count} recipes, --most is {most}; take out values, or raise --most")
    systems = {_label(point): System(recipe=name_or_path, set=point) for point in _points(grid)}
    if len(systems) < count:
        raise RecipeError("--over has the same value twice; give each once")
    comparison = Comparison(
        name=f"{recipe.name}-sweep",
        description=f"{recipe.name} over {', '.join(grid)}",
        set={
            dotted: yaml.safe_load(value) for dotted, _, value in (each.partition("=") for each in overrides)
        },
        systems=systems,
    )
    recipes = {label: changed_recipe(system, comparison.set, Path()) for label, system in systems.items()}
    return Compared(comparison, recipes)


def _read_grid(over: Sequence[str]) -> dict[str, list[Any]]:
    grid = {}
    for each in over:
        dotted, equals, values = each.partition("=")
        try:
            found = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            found = []
        if not dotted or not equals or len(found) < 2:
            raise RecipeError(f"--over {each}: write it as section.field=value,value with two values or more")
        if dotted in grid:
            raise RecipeError(f"--over {dotted} is there twice; give all its values at once")
        grid[dotted] = found
    return grid


def _points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _label(point: Mapping[str, Any]) -> str:
    """By the last part of each field and its value: `learning-rate-3e-5-epochs-2`."""
    said = "-".join(f"{dotted.rpartition('.')[2]}-{value}" for dotted, value in point.items())
    return re.sub(r"[^a-z0-9]+", "-", said.lower()).strip("-")
