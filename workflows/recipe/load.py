"""Reading recipes and comparisons: where they are, what is set in them, and their first mistake with file and line."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from workflows.recipe.comparison import Comparison, System
from workflows.recipe.references import MisplacedNameError, find_reads
from workflows.recipe.schema import Recipe
from workflows.recipe.source import RecipeError, Source, read_source


@dataclass(frozen=True)
class Compared:
    """A comparison with its recipes, as they are once all is set that it sets in them."""

    comparison: Comparison
    recipes: dict[str, Recipe]
    """By system, of those that have one."""


def names() -> list[str]:
    """The recipes and comparisons that come with the project."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("workflows.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def find(name_or_path: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the project."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such recipe file")
        return path
    shipped = Path(str(resources.files("workflows.recipes"))) / f"{name_or_path}.yaml"
    if not shipped.is_file():
        raise RecipeError(
            f"{name_or_path}: not a recipe file, and none of the recipes here ({', '.join(names())})"
        )
    return shipped


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides of the form `a.b=value` (the value is YAML).

    Raises:
        RecipeError: with file and line of the first mistake.
    """
    source = read_source(find(name_or_path), overrides)
    if _compares(source):
        raise RecipeError(f"{source.path} compares systems; `embedloom compare {name_or_path}` runs it")
    return _recipe(source)


def load_comparison(name_or_path: str, overrides: Sequence[str] = ()) -> Compared:
    """Read a comparison and the recipes that it names. An override is one of the comparison's fields, `set.a.b` one
    of every recipe.

    Raises:
        RecipeError: as `load`; of a recipe with the system that it is of.
    """
    source = read_source(find(name_or_path), overrides, one_key_behind="set")
    if not _compares(source):
        raise RecipeError(f"{source.path} is a recipe; `embedloom run {name_or_path}` runs it")
    return _comparison(source)


def load_either(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe | Compared:
    """A recipe or a comparison, whichever the file is. Raises RecipeError as `load`."""
    if _compares(read_source(find(name_or_path))):
        return load_comparison(name_or_path, overrides)
    return load(name_or_path, overrides)


def _compares(source: Source) -> bool:
    return "systems" in source.values


def _recipe(source: Source) -> Recipe:
    recipe = source.read(Recipe)
    try:
        find_reads(recipe.steps)
    except MisplacedNameError as error:
        raise source.error(error.location, str(error)) from error
    return recipe


def _comparison(source: Source) -> Compared:
    comparison = source.read(Comparison)
    recipes = {}
    for label, system in comparison.systems.items():
        if system.recipe is None:
            continue
        try:
            recipes[label] = changed_recipe(system, comparison.set, source.path.parent)
        except RecipeError as error:
            raise source.error(("systems", label), f"system `{label}`: {error}") from error
    return Compared(comparison, recipes)


def changed_recipe(system: System, of_all: dict[str, Any], folder: Path) -> Recipe:
    """The recipe of a system with what is set in it.

    Args:
        of_all: what the comparison sets in every recipe, by dotted field.
        folder: that paths of what is set begin at.

    Raises:
        RecipeError: as `load`.
    """
    changes = of_all | system.set
    source = read_source(find(str(system.recipe)))
    if _compares(source):
        raise RecipeError(f"{source.path} is a comparison, not a recipe")
    for dotted, value in changes.items():
        source.override(dotted.split("."), _paths_from(folder, value), "set")
    found = source.values.get("steps")
    steps: dict[str, Any] = (
        found if isinstance(found, dict) else {}
    )  # what is wrong with others is said later
    for name in system.without if steps else ():
        if name not in steps:
            raise RecipeError(f"without: {source.path} has no step `{name}`; it has {', '.join(steps)}")
        del steps[name]
        for step in steps.values():
            if isinstance(step, dict) and isinstance(step.get("add"), list):
                step["add"] = [other for other in step["add"] if other != name]
    return _recipe(source)


def _paths_from(folder: Path, value: Any) -> Any:
    """Paths that begin with ./ or ../ are relative to the file that sets them, not to the recipe."""
    match value:
        case str() if value.startswith(("./", "../")):
            return str((folder / value).resolve())
        case list():
            return [_paths_from(folder, each) for each in value]
        case dict():
            return {key: _paths_from(folder, each) for key, each in value.items()}
        case _:
            return value
