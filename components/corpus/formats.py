"""Rows of JSONL and Parquet files and of BEIR folders, checked one by one; an error names file and row."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow.parquet as pq

from components.storage import Folder

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
ID_FIELDS = ("document_id", "_id", "id")


@dataclass(frozen=True)
class File:
    """One input file.

    Attributes:
        name: short name, the same wherever the file lies: `documents.jsonl`, `scifact/corpus.jsonl`.
        uri: where it lies.
        holds: "documents", "queries" or "qrels".
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
    """The files of a source: a file, a folder of JSONL and Parquet files, or a BEIR folder.

    Raises:
        ValueError: nothing is there, or it is of no kind that is read.
    """
    filesystem, path = fsspec.url_to_fs(source)
    if not filesystem.exists(path):
        raise ValueError(f"source {source} does not exist")
    stem = path.rstrip("/").rsplit("/", 1)[-1]
    if filesystem.isfile(path):
        if not path.endswith(SUFFIXES):
            raise ValueError(
                f"source {source} is no file that can be read; it must end in {', '.join(SUFFIXES)}"
            )
        return [File(stem, source, "documents")]
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
        if not found:
            raise ValueError(f"folder {source} holds no file that ends in {', '.join(SUFFIXES)}")
    return [File(f"{stem}/{name}", (folder / name).uri, holds) for name, holds in found]


def read_documents_of(file: File, digest: Any = None) -> Iterator[RawDocument]:
    """Stream the documents of a file; `digest` (a hashlib object) is fed its content on the way.

    Raises:
        ValueError: at the first row that is no document, naming file and row.
    """
    for place, row in read_rows_of(file, digest):
        yield _document(place, row)


def read_rows_of(file: File, digest: Any = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (place, row) of a JSONL or Parquet file, whatever its rows hold.

    Raises:
        ValueError: it is neither, naming file and row.
    """
    return _parquet_rows(file, digest) if file.uri.endswith(".parquet") else _jsonl_rows(file, digest)


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


def _lines(file: File, digest: Any) -> Iterator[tuple[int, str]]:
    with fsspec.open(file.uri, "rb", compression="infer") as stream:
        for number, line in enumerate(stream, start=1):
            if digest is not None:
                digest.update(line)
            if line.isspace():
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


def _document(place: str, row: dict[str, Any]) -> RawDocument:
    optional = {}
    for name in ("title", "language"):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{place}: `{name}` is {type(value).__name__}, it must be a string")
        optional[name] = value.strip() if value else None
    known = {"text", "title", "language", "metadata", *ID_FIELDS}
    rest = {name: value for name, value in row.items() if name not in known}
    given = row.get("metadata")
    rest |= given if isinstance(given, dict) else {"metadata": given}
    return RawDocument(
        place=place,
        document_id=_identifier(place, row),
        text=_text(place, row, "document"),
        title=optional["title"] or None,
        language=optional["language"] or None,
        metadata={name: _as_string(value) for name, value in sorted(rest.items()) if value is not None},
    )


def _identifier(place: str, row: dict[str, Any]) -> str | None:
    for name in ID_FIELDS:
        value = row.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(
                f"{place}: `{name}` is {type(value).__name__}, it must be a string or a whole number"
            )
        return str(value)
    return None


def _text(place: str, row: dict[str, Any], kind: str) -> str:
    text = row.get("text")
    if text is None:
        raise ValueError(f"{place}: the {kind} has no `text`; its fields are {', '.join(row) or 'none'}")
    if not isinstance(text, str):
        raise ValueError(f"{place}: `text` is {type(text).__name__}, it must be a string")
    if not text.strip():
        raise ValueError(f"{place}: the {kind}'s `text` is empty")
    return text


def _as_string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
