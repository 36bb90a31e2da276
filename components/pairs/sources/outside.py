"""Tables that come from outside as rows of a kind: files, folders of them, BEIR folders, data sets of the hub."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import fsspec

from components.corpus import formats
from components.pairs.sources import hub
from components.pairs.sources.judged import judged_rows
from components.pairs.sources.kinds import Kind, Row, find_kind

_LISTS = ("negatives", "negative_ids", "positive")  # a text, or a list of them
_ANYTHING = ("label", "score", "query_id", "positive_id", "document_id")


@dataclass(frozen=True)
class Source:
    """Where the rows are.

    Attributes:
        uri: path or URI of `*.jsonl`, `*.csv`, `*.tsv` (each also with `.gz`) or `*.parquet`, of a folder of those, a
            BEIR folder, or `hub://NAME`.
        subset: of a data set of the hub.
        split: of a data set of the hub, or which `qrels/SPLIT.tsv` of a BEIR folder.
    """

    uri: str
    subset: str | None
    split: str

    @property
    def on_hub(self) -> bool:
        return self.uri.startswith(hub.SCHEME)


Found = TypeVar("Found")


@dataclass(frozen=True)
class Rows(Generic[Found]):
    """Rows that can be read more than once."""

    make: Callable[[], Iterator[Found]]

    def __iter__(self) -> Iterator[Found]:
        return self.make()


def read_rows(source: Source, kind: str, columns: Mapping[str, str]) -> Rows[Row]:
    """The rows of a source as a kind reads them.

    Args:
        columns: for some roles of the kind the column to read, `name` or `name.inner` for a field of a struct.

    Raises:
        ValueError: a role or a column that there is not, a value of the wrong type; named with file and row.
    """
    found = find_kind(kind)
    roles = {**found.roles, **found.more_roles}
    unknown = sorted(set(columns) - set(roles))
    if unknown:
        raise ValueError(f"`columns`: kind {kind} reads no {unknown[0]!r}; it reads {', '.join(roles)}")
    raw: Rows[tuple[str, Row]]
    if source.on_hub:
        raw = Rows(lambda: hub.hub_rows(source.uri, source.subset, source.split))
    else:
        files = _files(source, kind)
        if any(file.holds == "qrels" for file in files):
            if columns:
                raise ValueError(f"`columns`: {source.uri} is a BEIR folder, whose columns are fixed")
            return Rows(lambda: _judged(files))
        raw = Rows(lambda: (row for file in files for row in formats.read_rows_of(file)))
    return Rows(lambda: _in_roles(raw, source, kind, found, columns))


def source_digests(source: Source, kind: str) -> dict[str, str]:
    """SHA-256 of each file that is read, by its short name, or the commit of a data set on the hub.

    Raises:
        ValueError: it cannot be found.
    """
    if source.on_hub:
        name = source.uri.partition("@")[0]
        return {name: hub.hub_digest(source.uri)}
    found = {}
    for file in _files(source, kind):
        with fsspec.open(file.uri, "rb") as stream:
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def check_source(source: Source, kind: str, columns: Mapping[str, str]) -> None:
    """Read the first row.

    Raises:
        ValueError: as `read_rows`, or there is no row.
    """
    if next(iter(read_rows(source, kind, columns)), None) is None:
        raise ValueError(f"{source.uri} holds no row")


def _files(source: Source, kind: str) -> list[formats.File]:
    """The files that a kind reads; of a BEIR folder the documents and, for labelled pairs, one split."""
    files = formats.find_tables(source.uri)
    if kind != "labelled":
        return [file for file in files if file.holds == "documents"]
    splits = {
        file.name.rsplit("/", 1)[-1].removesuffix(".tsv"): file for file in files if file.holds == "qrels"
    }
    if splits and source.split not in splits:
        raise ValueError(f"{source.uri} has no qrels/{source.split}.tsv; its splits are {', '.join(splits)}")
    return [file for file in files if file.holds != "qrels" or file == splits[source.split]]


def _judged(files: list[formats.File]) -> Iterator[Row]:
    by_holds: dict[str, list[formats.File]] = {}
    for file in files:
        by_holds.setdefault(file.holds, []).append(file)
    judgements = [
        (row.query_id, row.document_id, row.score)
        for file in by_holds["qrels"]
        for row in formats.read_qrels_of(file)
    ]
    judged = {query_id for query_id, _, _ in judgements}
    queries = {
        query_id: text
        for file in by_holds["queries"]
        for _, query_id, text in formats.read_queries_of(file)
        if query_id in judged
    }
    documents = (
        {"document_id": row.document_id, "title": row.title, "text": row.text, "language": row.language}
        for file in by_holds["documents"]
        for row in formats.read_documents_of(file)
    )
    return judged_rows(documents, queries, judgements)


def _in_roles(
    raw: Iterable[tuple[str, Row]], source: Source, name: str, kind: Kind, columns: Mapping[str, str]
) -> Iterator[Row]:
    chosen: dict[str, str] = {}
    awaited = {role for role in columns if role not in kind.roles}
    for place, row in raw:
        if not chosen:
            chosen = {
                role: _choose(role, row, columns, kind.roles[role], name, source) for role in kind.roles
            }
        found = {role: _value(place, row, column, role) for role, column in chosen.items()}
        for role, names in kind.more_roles.items():
            for column in (columns[role],) if role in columns else names:
                if _has(row, column):
                    found[role] = _value(place, row, column, role)
                    awaited.discard(role)
                    break
        yield found
    if awaited and chosen:
        role = sorted(awaited)[0]
        raise ValueError(
            f"{source.uri}: no row has the column {columns[role]!r}, which `columns` names for {role}"
        )


def _choose(
    role: str, row: Row, columns: Mapping[str, str], names: Iterable[str], kind: str, source: Source
) -> str:
    there = ", ".join(row) or "none"
    if role in columns:
        if not _has(row, columns[role]):
            raise ValueError(
                f"{source.uri} has no column {columns[role]!r}, which `columns` names for {role}; it has {there}"
            )
        return columns[role]
    for column in names:
        if _has(row, column):
            return column
    raise ValueError(
        f"{source.uri} has no column for {role} of kind {kind} (one of {', '.join(names)}); it has {there}: say in "
        f"`columns` which one is meant"
    )


def _has(row: Row, column: str) -> bool:
    outer, _, inner = column.partition(".")
    return column in row or (isinstance(row.get(outer), dict) and inner in row[outer])


def _value(place: str, row: Row, column: str, role: str) -> Any:
    value = row.get(column)
    if value is None and "." in column:
        outer, _, inner = column.partition(".")
        value = (row.get(outer) or {}).get(inner)
    if value is None or isinstance(value, str) or role == "score":
        return value
    if role in _LISTS and isinstance(value, list) and all(v is None or isinstance(v, str) for v in value):
        return value
    if role in _ANYTHING and isinstance(value, int | float):
        return str(value)
    wanted = "a string or a list of them" if role in _LISTS else "a string"
    raise ValueError(f"{place}: `{column}` is {type(value).__name__}, it must be {wanted}")
