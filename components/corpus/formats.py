"""Rows of JSONL, CSV and Parquet files and of BEIR folders, checked one by one, and pages of text; an error names
file and row."""

import csv
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
import pyarrow.parquet as pq

from components.corpus import pages
from components.storage import Folder

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
ID_FIELDS = ("document_id", "_id", "id")
DELIMITERS = ",;\t|"
LONGEST_CELL = 2**31 - 1
"""Characters of a cell of CSV; Python's own limit, 131,072, is shorter than many a document."""

Column = Literal["id", "title", "text", "language"]
Columns = Mapping[Column, str | None]
"""The field that holds it, where it is not the usual one; None: none does."""


@dataclass(frozen=True)
class File:
    """One input file.

    Attributes:
        name: short name, the same wherever the file lies: `documents.jsonl`, `scifact/corpus.jsonl`.
        uri: where it lies.
        holds: "documents" (rows of a table), "pages" (one document, or a folder of them), "queries" or "qrels".
    """

    name: str
    uri: str
    holds: str


@dataclass(frozen=True)
class RawDocument:
    """A document as its file gives it, before the recipe's limits.

    Attributes:
        place: file and row, `documents.jsonl:12`.
        document_id: the user's id; None if the row has none.
        metadata: every other field, as strings.
    """

    place: str
    document_id: str | None
    text: str
    title: str | None
    language: str | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class Judgement:
    """One line of qrels; the split is the file's name."""

    place: str
    query_id: str
    document_id: str
    score: int
    split: str


def find_files(source: str) -> list[File]:
    """The files of a source: a file, a folder of tables, a BEIR folder, or a tree of pages, which counts as one file.

    A folder that has tables (JSONL, CSV, Parquet) holds nothing else that is read.

    Raises:
        ValueError: nothing is there, or it is of no kind that is read.
    """
    filesystem, path = fsspec.url_to_fs(source)
    if not filesystem.exists(path):
        raise ValueError(f"source {source} does not exist")
    stem = path.rstrip("/").rsplit("/", 1)[-1]
    if filesystem.isfile(path):
        if path.endswith(SUFFIXES):
            return [File(stem, source, "documents")]
        if path.lower().endswith(pages.SUFFIXES):
            return [File(stem, source, "pages")]
        raise ValueError(
            f"source {source} is no file that can be read; it must end in "
            f"{', '.join((*SUFFIXES, *pages.SUFFIXES))}"
        )
    folder = Folder(source)
    names = folder.names()
    if "corpus.jsonl" in names and {"queries.jsonl", "qrels"} & set(names):
        judgements = (folder / "qrels").names("*.tsv")
        if "queries.jsonl" not in names or not judgements:
            raise ValueError(
                f"BEIR folder {source} needs corpus.jsonl, queries.jsonl and at least one qrels/SPLIT.tsv"
            )
        found = [("corpus.jsonl", "documents"), ("queries.jsonl", "queries")]
        found += [(f"qrels/{name}", "qrels") for name in judgements]
    else:
        found = [(name, "documents") for name in names if name.endswith(SUFFIXES)]
        if not found and page_names(folder):
            return [File(stem, source, "pages")]
        if not found:
            raise ValueError(
                f"folder {source} holds no file that ends in {', '.join(SUFFIXES)}, nor below it one that ends in "
                f"{', '.join(pages.SUFFIXES)}; it holds {', '.join(names[:5]) or 'nothing'}"
            )
    return [File(f"{stem}/{name}", (folder / name).uri, holds) for name, holds in found]


def find_tables(source: str) -> list[File]:
    """As `find_files`, of tables alone.

    Raises:
        ValueError: as `find_files`, or the source holds pages.
    """
    files = find_files(source)
    if any(file.holds == "pages" for file in files):
        raise ValueError(f"source {source} holds pages of text; a table ends in {', '.join(SUFFIXES)}")
    return files


def page_names(folder: Folder) -> list[str]:
    """The pages below a folder, by relative name; what is hidden (`.git`) is passed over."""
    return [
        name
        for name in folder.files()
        if name.lower().endswith(pages.SUFFIXES) and not any(part.startswith(".") for part in name.split("/"))
    ]


def read_documents_of(
    file: File, digest: Any = None, columns: Columns | None = None
) -> Iterator[RawDocument]:
    """Stream the documents of a file; `digest` (a hashlib object) is fed its content on the way.

    Raises:
        ValueError: at the first row that is no document, naming file and row.
    """
    for place, row in read_rows_of(file, digest):
        yield _document(place, row, columns or {})


def read_pages_of(file: File, digest: Any = None, columns: Columns | None = None) -> Iterator[RawDocument]:
    """Stream the pages of a tree, or one page; the id is the relative name. Of `columns` only `id` is looked at.

    Raises:
        ValueError: a page that cannot be read, naming it.
    """
    filesystem, path = fsspec.url_to_fs(file.uri)
    if filesystem.isfile(path):
        folder, name = file.uri.rsplit("/", 1) if "/" in file.uri else (".", file.uri)
        names, shown = [name], file.name.removesuffix(name)
    else:
        folder, names, shown = file.uri, page_names(Folder(file.uri)), f"{file.name}/"
    for name in names:
        content = Folder(folder).read(name)
        if digest is not None:
            digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        title, text = pages.read_page(f"{shown}{name}", content)
        document_id = None if columns and columns.get("id", name) is None else name
        yield RawDocument(f"{shown}{name}", document_id, text, title, None, {"file": name})


def read_rows_of(file: File, digest: Any = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (place, row) of a JSONL, CSV or Parquet file, whatever its rows hold.

    Raises:
        ValueError: it is none of these, naming file and row.
    """
    if file.uri.endswith(".parquet"):
        return _parquet_rows(file, digest)
    if file.uri.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl_rows(file, digest)
    return _csv_rows(file, digest)


def read_queries_of(file: File, digest: Any = None) -> Iterator[tuple[str, str, str]]:
    """Stream (place, query_id, text) of a BEIR `queries.jsonl`. Raises ValueError as `read_documents_of`."""
    for place, row in _jsonl_rows(file, digest):
        query_id = _identifier(place, row)
        if query_id is None:
            raise ValueError(f"{place}: the query has no `_id`, so no judgement can name it")
        yield place, query_id, _text(place, row, "query")


def read_qrels_of(file: File, digest: Any = None) -> Iterator[Judgement]:
    """Stream a BEIR `qrels/SPLIT.tsv` (a header, then query-id, corpus-id, score, parted by tabs).

    Raises:
        ValueError: a line is not of that form, naming file and line.
    """
    split = file.name.rsplit("/", 1)[-1].removesuffix(".tsv")
    for number, line in _lines(file, digest):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and fields[-1].strip().lower() == "score":
            continue
        try:
            query_id, document_id, score = fields
            yield Judgement(f"{file.name}:{number}", query_id, document_id, int(score), split)
        except ValueError as error:
            raise ValueError(
                f"{file.name}:{number}: a judgement is query-id, corpus-id and a whole score, parted by tabs"
            ) from error


def _lines(file: File, digest: Any, empty: bool = False) -> Iterator[tuple[int, str]]:
    """Number and text of each line; of empty ones too if they are wanted."""
    with fsspec.open(file.uri, "rb", compression="infer") as stream:
        for number, line in enumerate(stream, start=1):
            if digest is not None:
                digest.update(line)
            if line.isspace() and not empty:
                continue
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file.name}:{number}: invalid UTF-8 at byte {error.start} of the line; save it as UTF-8"
                ) from error


def _jsonl_rows(file: File, digest: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(file, digest):
        place = f"{file.name}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{place}: not JSON ({error.msg}, column {error.colno}); a line is one object"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: a JSON {type(row).__name__}; a line must be one object")
        if "\\ud" in line or "\\uD" in line:
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{place}: half of a surrogate pair (\\ud800 to \\udfff) is no character"
                ) from error
        yield place, row


def _csv_rows(file: File, digest: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file whose first line names the columns. An empty cell is no value."""
    lines = _lines(file, digest, empty=True)
    _, header = next(lines, (0, ""))
    tabs = file.uri.endswith((".tsv", ".tsv.gz"))
    delimiter = "\t" if tabs else max(DELIMITERS, key=header.count)
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(
        itertools.chain([header], (line for _, line in lines)), delimiter=delimiter, strict=True
    )
    names: list[str] = []
    try:
        for cells in reader:
            place = f"{file.name}:{reader.line_num}"
            if not names:
                names = [name.strip() for name in cells]
                if repeated := [name for name, times in Counter(names).items() if name and times > 1]:
                    raise ValueError(f"{place}: the first line names the column `{repeated[0]}` twice")
            elif len(cells) > len(names):
                raise ValueError(
                    f"{place}: {len(cells)} cells, and the first line names {len(names)} columns"
                )
            elif any(cells):
                yield place, {name: cell for name, cell in zip(names, cells, strict=False) if name and cell}
    except csv.Error as error:
        raise ValueError(f"{file.name}:{reader.line_num}: not CSV ({error})") from error


def _parquet_rows(file: File, digest: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    with fsspec.open(file.uri, "rb") as stream:
        if digest is not None:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            stream.seek(0)
        try:
            parquet = pq.ParquetFile(stream)
        except ValueError as error:  # pyarrow's own errors are ValueErrors
            raise ValueError(f"{file.name}: not a Parquet file ({error})") from error
        number = 0
        for batch in parquet.iter_batches(batch_size=1024):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                number += 1
                yield f"{file.name} row {number}", row


def _document(place: str, row: dict[str, Any], columns: Columns) -> RawDocument:
    fields = {name: columns.get(name, name) for name in ("text", "title", "language")}
    ids = ID_FIELDS if "id" not in columns else tuple(filter(None, [columns["id"]]))
    optional = {}
    for name in ("title", "language"):
        value = row.get(fields[name] or "")
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{place}: `{fields[name]}` is {type(value).__name__}, it must be a string")
        optional[name] = value.strip() if value else None
    known = {*fields.values(), "metadata", *ids}
    rest = {name: value for name, value in row.items() if name not in known}
    given = row.get("metadata")
    rest |= given if isinstance(given, dict) else {"metadata": given}
    return RawDocument(
        place=place,
        document_id=_identifier(place, row, ids),
        text=_text(place, row, "document", fields["text"] or ""),
        title=optional["title"] or None,
        language=optional["language"] or None,
        metadata={name: _as_string(value) for name, value in sorted(rest.items()) if value is not None},
    )


def _identifier(place: str, row: dict[str, Any], fields: Sequence[str] = ID_FIELDS) -> str | None:
    for name in fields:
        value = row.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(
                f"{place}: `{name}` is {type(value).__name__}, it must be a string or a whole number"
            )
        return str(value)
    return None


def _text(place: str, row: dict[str, Any], kind: str, field: str = "text") -> str:
    text = row.get(field)
    if text is None:
        raise ValueError(
            f"{place}: the {kind} has no `{field}`; its fields are {', '.join(row) or 'none'}"
            + ("; `documents.columns` says which holds what" if row and kind == "document" else "")
        )
    if not isinstance(text, str):
        raise ValueError(f"{place}: `{field}` is {type(text).__name__}, it must be a string")
    if not text.strip():
        raise ValueError(f"{place}: the {kind}'s `{field}` is empty")
    return text


def _as_string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
