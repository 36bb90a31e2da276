"""What a file of the user may say, as a page of Markdown: a table a section, made of the JSON Schema of its model."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_PLAIN = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}


def to_markdown(model: type[BaseModel], command: str) -> str:
    """Every section of a file with its fields: what they may hold, what holds where they are left out, what they mean.

    Args:
        command: what writes this page, named in its first line.
    """
    return "\n".join(_Page(model.model_json_schema()).lines(command)) + "\n"


class _Page:
    """A schema whose sections are named as the page names them. Used by `to_markdown` alone."""

    def __init__(self, schema: Schema) -> None:
        self._root, self._definitions = schema, schema.get("$defs", {})
        parts = list(self._parts())
        named = Counter(name for _, name, _ in parts)
        self._titles = {
            reference: f"`{name}`" if named[name] == 1 or not where else f"`{name}` of {where}"
            for reference, name, where in parts
        }
        """By reference: the field that holds the section, and the entry that has the field if several have."""

    def _parts(self) -> Iterator[tuple[str, str, str]]:
        """Each section below the root once: reference, name, and in the entry of which kind it is met first."""
        seen: set[str] = set()

        def walk(section: Schema, where: str) -> Iterator[tuple[str, str, str]]:
            for name, field in _fields(section).items():
                for reference, kind in _references(field):
                    if reference not in seen:
                        seen.add(reference)
                        yield reference, kind or name, "" if kind else where
                        yield from walk(self._at(reference), f"`{kind}`" if kind else where)

        return walk(self._root, "")

    def lines(self, command: str) -> Iterator[str]:
        yield f"<!-- Written by `{command}`: change the models, not this page. -->"
        yield f"# {self._root['title']}"
        yield ""
        yield _text(self._root["description"])
        yield ""
        yield "A field that is not on this page is refused."
        yield from self._section(self._root, 2, set())

    def _section(self, section: Schema, level: int, written: set[str]) -> Iterator[str]:
        """The table of a section, and behind it the sections in it that have not been written yet."""
        yield ""
        yield "| field | holds | left out | |"
        yield "|---|---|---|---|"
        for name, field in _fields(section).items():
            required = name in section.get("required", ())
            cells = (
                f"`{name}`",
                self._holds(field),
                "**required**" if required else self._default(field),
                _text(field["description"]),
            )
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
        for name, field in _fields(section).items():
            references = [each for each in _references(field) if each[0] not in written]
            written |= {reference for reference, _ in references}
            of_kinds = any(kind for _, kind in references)
            if of_kinds:
                yield ""
                yield f"{'#' * level} `{name}`"
            for reference, _ in references:
                inner = self._at(reference)
                yield ""
                yield f"{'#' * (level + of_kinds)} {self._titles[reference]}"
                yield ""
                yield _text(inner["description"])
                yield from self._section(inner, min(level + of_kinds + 1, 6), written)

    def _at(self, reference: str) -> Schema:
        return self._definitions[reference.rpartition("/")[2]]

    def _link(self, reference: str) -> str:
        title = self._titles[reference]
        return f"[{title}](#{re.sub(r'[^a-z0-9 _-]', '', title.lower()).replace(' ', '-')})"

    def _default(self, field: Schema) -> str:
        if "default" not in field or any(True for _ in _references(field) if field["default"] is not None):
            return ""
        return f"`{json.dumps(field['default'], ensure_ascii=False)}`"

    def _holds(self, field: Schema) -> str:
        match field:
            case {"$ref": reference}:
                return self._link(reference)
            case {"anyOf": choices}:
                return " or ".join(self._holds(each) for each in choices)
            case {"discriminator": {"propertyName": tag}}:
                return f"what its `{tag}` says, below"
            case {"enum": values}:
                return ", ".join(f"`{value}`" for value in values)
            case {"const": value}:
                return f"`{value}`"
            case {"type": "null"}:
                return "`null`"
            case {"type": "array", "prefixItems": items}:
                return "list: " + ", then ".join(self._holds(each) for each in items)
            case {"type": "array"}:
                return f"list, each: {self._holds(field['items'])}"
            case {"type": "object", "patternProperties": patterns}:
                [(pattern, values)] = patterns.items()
                return f"by name (like `{pattern}`): {self._holds(values)}"
            case {"type": "object"}:
                names = self._holds(field.get("propertyNames", {"type": "string"}))
                values = field.get("additionalProperties", True)
                return (
                    f"by name ({names}): {self._holds(values) if isinstance(values, dict) else 'any value'}"
                )
            case {"type": str(plain)}:
                bounds = [f"{word} {field[bound]:g}" for bound, word in _BOUNDS.items() if bound in field]
                bounds += [f"like `{field['pattern']}`"] if "pattern" in field else []
                return " ".join([_PLAIN[plain], *bounds])
            case _:
                return "any value"


def _fields(section: Schema) -> dict[str, Schema]:
    """Of a section, without the one that says of which kind it is: there is nothing to choose."""
    return {name: field for name, field in section.get("properties", {}).items() if "const" not in field}


def _references(field: Any) -> Iterator[tuple[str, str]]:
    """The sections that a field may hold, each with `tag: value` where a tag says which."""
    match field:
        case {"$ref": str(reference)}:
            yield reference, ""
        case {"discriminator": {"propertyName": tag, "mapping": mapping}, "oneOf": choices}:
            values = {reference: value for value, reference in mapping.items()}
            for choice in choices:
                yield choice["$ref"], f"{tag}: {values[choice['$ref']]}"
        case dict():
            for value in field.values():
                yield from _references(value)
        case list():
            for value in field:
                yield from _references(value)


def _text(words: str) -> str:
    """A docstring on one line a paragraph, its stars as they are."""
    paragraphs = (" ".join(each.split()) for each in words.split("\n\n"))
    pieces = "\n\n".join(paragraphs).split("`")
    return "`".join(piece if number % 2 else piece.replace("*", r"\*") for number, piece in enumerate(pieces))
