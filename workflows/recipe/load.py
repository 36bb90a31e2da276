"""Reading a recipe: where it is, what overrides it, and its first mistake with file and line."""

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from workflows.recipe.references import MisplacedNameError, find_reads
from workflows.recipe.schema import Recipe
from workflows.recipe.steps import Step

_DONE: dict[str, type[BaseModel]] = {
    get_args(section.model_fields["do"].annotation)[0]: section for section in get_args(get_args(Step)[0])
}
"""What a step may do, and what it may say then."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names file, line, field and what would be right."""


def names() -> list[str]:
    """The recipes that come with the project."""
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
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 at byte {error.start}; save the recipe as UTF-8") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if tree is None or not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections (name, documents, model, ...)")
    overridden = [_override(values, override) for override in overrides]
    try:
        recipe = Recipe.model_validate(values, context={"folder": path.parent})
        find_reads(recipe.steps)
    except ValidationError as error:
        raise RecipeError(_place(*_explain(error), path, tree, overridden)) from error
    except MisplacedNameError as error:
        raise RecipeError(_place(error.location, str(error), path, tree, overridden)) from error
    return recipe


def _override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override}: write it as section.field=value")
    *sections, field = dotted.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: `{section}` is not a section")
        values = inner
    values[field] = yaml.safe_load(value)
    return (*sections, field)


def _explain(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Where the first mistake is, and what it is."""
    first = error.errors()[0]
    location = tuple(part for part in first["loc"] if isinstance(part, str | int))
    if location[:1] == ("steps",):
        location = location[:2] + location[3:]  # pydantic adds what is done
    dotted = ".".join(str(part) for part in location)
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            section = _section_at(first["loc"][:-1])
            return location, f"unknown field `{dotted}`; allowed here: {', '.join(section.model_fields)}"
        case "missing":
            return location, f"`{dotted}` is missing"
        case "union_tag_not_found":
            return location, f"`{dotted}.do` is missing; it says what is done: {', '.join(_DONE)}"
        case "union_tag_invalid":
            return (*location, "do"), f"`{dotted}.do` is {context['tag']!r}; it is one of {', '.join(_DONE)}"
        case _:
            return (
                location,
                f"`{dotted}`: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}",
            )


def _place(
    location: tuple[str | int, ...],
    problem: str,
    path: Path,
    tree: yaml.Node,
    overridden: Sequence[tuple[str, ...]],
) -> str:
    # The mistake is in what an override sets, or in the section that it changed.
    if any(location[: len(key)] == key[: len(location)] for key in overridden):
        return f"--set {'.'.join(map(str, location))}: {problem}"
    return f"{path}:{_line(tree, location)}: {problem}"


def _section_at(location: Sequence[str | int]) -> type[BaseModel]:
    """The section that is meant by a location as pydantic gives it."""
    section: type[BaseModel] = Recipe
    parts = iter(location)
    for part in parts:
        if section is Recipe and part == "steps":
            next(parts)  # the step's name
            section = _DONE[str(next(parts))]
            continue
        annotation = section.model_fields[str(part)].annotation
        [section] = [
            each
            for each in (annotation, *get_args(annotation))
            if isinstance(each, type) and issubclass(each, BaseModel)
        ]
    return section


def _line(node: yaml.Node, location: tuple[str | int, ...]) -> int:
    """Line of a field, or of the section that should have held it; from 1."""
    line = node.start_mark.line
    for part in location:
        found = next((pair for pair in _entries(node) if pair[0] == part), None)
        if found is None:
            break
        _, line, node = found
    return line + 1


def _entries(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value.start_mark.line, value
