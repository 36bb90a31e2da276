"""A YAML file that a user wrote: its values, and the file and line of the first mistake in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from workflows.recipe.evaluations import OnSet
from workflows.recipe.steps import Step

Section = TypeVar("Section", bound=BaseModel)
Location = tuple[str | int, ...]


def _by_tag(union: Any, tag: str) -> dict[str, type[BaseModel]]:
    sections = get_args(get_args(union)[0])
    return {get_args(section.model_fields[tag].annotation)[0]: section for section in sections}


_TAGGED = {
    "steps": ("do", "what is done", _by_tag(Step, "do")),
    "evaluations": ("kind", "how the set is judged", _by_tag(OnSet, "kind")),
}
"""Sections whose entries are of several kinds: the field that says which, and what an entry may say then."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names file, line, field and what would be right."""


@dataclass(frozen=True)
class Source:
    """A file as it was read, and what was set in it since."""

    path: Path
    values: dict[str, Any]
    _tree: yaml.Node
    _set: dict[tuple[str, ...], str] = field(default_factory=dict)
    """The way to each field that was set -> by what."""

    def override(self, keys: Sequence[str], value: Any, by: str) -> None:
        """Set a field.

        Args:
            keys: the way to it.
            by: what it is set by; named where it is a mistake.

        Raises:
            RecipeError: what should be a section on the way is none.
        """
        *sections, last = keys
        inner = self.values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"{by} {'.'.join(keys)}: `{section}` is not a section")
        inner[last] = value
        self._set[tuple(keys)] = by

    def read(self, section: type[Section]) -> Section:
        """The file as a section; paths in it are relative to it.

        Raises:
            RecipeError: with file and line of the first mistake.
        """
        try:
            return section.model_validate(self.values, context={"folder": self.path.parent})
        except ValidationError as error:
            raise self.error(*_explain(error, section)) from error

    def error(self, location: Location, problem: str) -> RecipeError:
        """A mistake with its place: the line, or what was set where that is the reason."""
        for keys, by in self._set.items():
            # The mistake is in what was set, or in the section that it changed.
            if location[: len(keys)] == keys[: len(location)]:
                return RecipeError(f"{by} {'.'.join(map(str, location))}: {problem}")
        return RecipeError(f"{self.path}:{_line(self._tree, location)}: {problem}")


def read_source(path: Path, overrides: Iterable[str] = (), one_key_behind: str | None = None) -> Source:
    """Read a file, and set in it what `--set` says: `a.b=value`, the value being YAML.

    Args:
        one_key_behind: a field whose own keys have dots: what follows it is one key.

    Raises:
        RecipeError: it is no YAML mapping, or an override is none.
    """
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
    source = Source(path, values, tree)
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals or not dotted:
            raise RecipeError(f"--set {override}: write it as section.field=value")
        keys = dotted.split(".")
        if one_key_behind in keys[:-1]:
            at = keys.index(str(one_key_behind)) + 1
            keys = [*keys[:at], ".".join(keys[at:])]
        source.override(keys, yaml.safe_load(value), "--set")
    return source


def _explain(error: ValidationError, root: type[BaseModel]) -> tuple[Location, str]:
    """Where the first mistake is, and what it is."""
    first = error.errors()[0]
    location = tuple(part for part in first["loc"] if isinstance(part, str | int))
    tag, meaning, kinds = _TAGGED.get(str(location[0]) if location else "", ("", "", {}))
    if tag:
        location = location[:2] + location[3:]  # pydantic adds the kind
    dotted = ".".join(str(part) for part in location)
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            section = _section_at(first["loc"][:-1], root)
            return location, f"unknown field `{dotted}`; allowed here: {', '.join(section.model_fields)}"
        case "missing":
            return location, f"`{dotted}` is missing"
        case "union_tag_not_found":
            return location, f"`{dotted}.{tag}` is missing; it says {meaning}: {', '.join(kinds)}"
        case "union_tag_invalid":
            problem = f"`{dotted}.{tag}` is {context['tag']!r}; it is one of {', '.join(kinds)}"
            return (*location, tag), problem
        case _:
            return (
                location,
                f"`{dotted}`: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}",
            )


def _section_at(location: Sequence[str | int], root: type[BaseModel]) -> type[BaseModel]:
    """The section that is meant by a location as pydantic gives it."""
    section = root
    parts = iter(location)
    for part in parts:
        if section is root and part in _TAGGED:
            next(parts)  # the entry's name
            section = _TAGGED[str(part)][2][str(next(parts))]
            continue
        annotation = section.model_fields[str(part)].annotation
        if get_origin(annotation) is dict:
            next(parts)  # the entry's name
        [section] = [
            each
            for each in (annotation, *get_args(annotation))
            if isinstance(each, type) and issubclass(each, BaseModel)
        ]
    return section


def _line(node: yaml.Node, location: Location) -> int:
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
