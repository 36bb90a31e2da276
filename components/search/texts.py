"""The texts of the rows of a table, and what tells two tables apart."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from components.corpus.formats import ID_FIELDS, File, read_rows_of

_TEXT, _TITLE = "text", "title"
_FIRST_ROWS = 100
"""Of a table, to see its columns: a row does not name those in which it has nothing."""


@dataclass(frozen=True)
class Columns:
    """Of which columns ids and texts are made.

    Attributes:
        text: joined by a space where they hold something.
        id: None: rows are numbered from 0.
    """

    text: tuple[str, ...]
    id: str | None


def digest(files: Sequence[File]) -> str:
    """SHA-256 of what the files hold."""
    sha = hashlib.sha256()
    for file in files:
        with fsspec.open(file.uri, "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


def read_rows(files: Sequence[File]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each row. Raises ValueError at the first that cannot be read, naming file and row."""
    for file in files:
        yield from read_rows_of(file)


def find_columns(files: Sequence[File], text: Sequence[str], id_column: str | None) -> Columns:
    """What is asked for, else title and text, and the first of document_id, _id and id, as the first rows have them.

    Raises:
        ValueError: there is no row, or they have not the columns.
    """
    name = files[0].name
    columns = dict.fromkeys(
        column for _, row in itertools.islice(read_rows(files), _FIRST_ROWS) for column in row
    )
    if not columns:
        raise ValueError(f"{name} holds no row")
    there = ", ".join(columns)
    for column in (*text, *([id_column] if id_column else [])):
        if column not in columns:
            raise ValueError(f"{name} has no column {column!r}; it has {there}")
    if not text:
        if _TEXT not in columns:
            raise ValueError(f"{name} has no column {_TEXT!r}; say by --text which to embed; it has {there}")
        text = (_TITLE, _TEXT) if _TITLE in columns else (_TEXT,)
    return Columns(tuple(text), id_column or next((field for field in ID_FIELDS if field in columns), None))


def text_of(place: str, row: dict[str, Any], columns: Columns) -> str:
    """The text of a row; empty where its columns hold none.

    Raises:
        ValueError: a value that is no text, named with its place.
    """
    found = []
    for column in columns.text:
        value = row.get(column)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{place}: `{column}` is {type(value).__name__}, it must be a string")
        if value and not value.isspace():
            found.append(value)
    return " ".join(found)
