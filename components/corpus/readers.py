"""Documents in: JSONL, CSV, Parquet, BEIR folders, Markdown, HTML, text, docstrings of installed libraries, to one
document table.

A file that cannot be what it says (no text, invalid UTF-8, no JSON) is an error that names file and line,
raised when the plan is made. A sound row that the recipe does not want (too short, too long, an id that
stands for another text already) is kept under `rejected/` with its reason.

Documents pass through: of each two numbers are held, 16 bytes. Queries and judgements are held whole.
"""

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from components.corpus import docstrings, formats
from components.corpus.digests import digests, find
from components.corpus.formats import Columns
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform, content_id, rejected_schema
from components.corpus.tables import BATCH_BYTES, BATCH_ROWS, TableWriter, read_batches
from components.monitor import Monitor
from components.storage import Folder

_SHOWN_CHANGES = 3
_SHOWN_CHARACTERS = 50


def read_documents(
    *,
    sources: list[str],
    language: str,
    min_characters: int,
    max_characters: int | None,
    columns: Columns | None = None,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Read every source into documents.parquet, queries.parquet and qrels.parquet.

    A document keeps the id that its row gives it (`document_id`, `_id` or `id`); without one the id is the
    hash of title and text. A docstring gives a document (title: dotted name, text: body) and a query (the
    summary line); a summary that several objects share is one query with several relevant documents, in the
    split "all".

    Args:
        sources: paths or URIs of tables (`*.jsonl`, `*.csv`, `*.tsv`, each also with `.gz`, `*.parquet`), of folders
            of those, of BEIR folders (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), of pages (`*.md`, `*.html`,
            `*.txt`, `*.rst`) and trees of them, or `docstrings://numpy,scipy`.
        language: of documents whose row names none.
        min_characters: a shorter text is rejected (`too_short`).
        max_characters: a longer text is rejected (`too_long`); None: no limit.
        columns: for `id`, `title`, `text` and `language` the field of a row that holds it, where it is not called so;
            None: the rows have none. Without an id it is the hash of the content.

    Returns:
        rows_in, documents, queries, qrels and one `rejected_<reason>` for each reason that occurred.

    Raises:
        ValueError: a source is missing, empty or malformed, or nothing is left of all of them.
    """
    limits = _Limits(language, min_characters, max_characters)
    with (
        tempfile.TemporaryDirectory(prefix="embedloom-documents-") as scratch,
        _Reading(limits, Folder(scratch), output) as reading,
    ):
        _read_files(reading, _files(sources), columns or {}, monitor)
        _read_docstrings(reading, _libraries(sources), monitor)
        document_ids = reading.write_documents()
        counts = reading.write_judgements(document_ids)
    reasons = {f"rejected_{reason}": float(count) for reason, count in sorted(reading.reasons.items())}
    if not len(document_ids):
        named = ", ".join(f"{count:.0f} {name}" for name, count in reasons.items())
        raise ValueError(
            f"no document is left of the {reading.rows_in} rows of {', '.join(sources)}: {named}"
        )
    numbers = {"rows_in": float(reading.rows_in), "documents": float(len(document_ids)), **counts, **reasons}
    monitor.metrics(numbers)
    return numbers


def source_digests(sources: list[str], columns: Columns | None = None) -> dict[str, str]:
    """SHA-256 (hex) of each file by its short name (of a tree of pages one), and of each library as `docstrings://NAME`.

    Reads and checks each file once; of a library only that it is installed.

    Raises:
        ValueError: a source is missing or empty, or holds a row that is no document; names the file and the line
            (`documents.jsonl:12: ...`).
    """
    digests: dict[str, str] = {}
    if not sources:
        raise ValueError("`sources` is empty; name at least one file, folder or docstrings://LIBRARY")
    for file in _files(sources):
        digest = hashlib.sha256()
        rows = 0
        for _ in _rows(file, columns or {}, digest):
            rows += 1
        if not rows:
            raise ValueError(f"{file.name}: no {file.holds} in it; the file is empty ({file.uri})")
        digests[file.name] = digest.hexdigest()
    for library in _libraries(sources):
        digests[f"{docstrings.SCHEME}{library}"] = docstrings.library_digest(library)
    return digests


def changed_documents(
    previous: Folder,
    sources: list[str],
    language: str,
    min_characters: int,
    max_characters: int | None,
    columns: Columns | None = None,
) -> str:
    """One sentence that names the documents which differ from an earlier output of `read_documents`.

    Files are read again; of libraries the versions are compared.

    Raises:
        ValueError: as `read_documents`.
    """
    limits = _Limits(language, min_characters, max_characters)
    after: dict[str, _Version] = {}
    for file in _files(sources):
        for row in _rows(file, columns or {}) if file.holds in ("documents", "pages") else ():
            if limits.reason(row) is None:
                after.setdefault(_document_id(row), _Version.of(row.title, row.text))
    before: dict[str, _Version] = {}
    versions: dict[str, str] = {}
    compared = ["document_id", "text", "title", "source", "metadata"]
    for batch in read_batches(previous, "documents.parquet", compared):
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            if row["source"].startswith(docstrings.SCHEME):
                versions[row["source"]] = row["metadata"]["version"]
            else:
                before[row["document_id"]] = _Version.of(row["title"], row["text"])

    changes = [
        f"{library} was read at {versions.get(library, 'no version')} and is now {version}"
        for library, version in (
            (f"{docstrings.SCHEME}{name}", _version(name)) for name in _libraries(sources)
        )
        if versions.get(library) != version
    ]
    edited = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
    changes += _listed("changed", edited, after)
    changes += _listed("added", sorted(after.keys() - before.keys()), after)
    changes += _listed("removed", sorted(before.keys() - after.keys()), before)
    if not changes:
        return "no document differs; queries, judgements or other fields do"
    return "; ".join(changes)


@dataclass(frozen=True)
class _Version:
    """A document's content in short: what is shown of it, and what tells it from another."""

    shown: str
    digest: int

    @classmethod
    def of(cls, title: str | None, text: str) -> "_Version":
        shown = title or text[: 8 * _SHOWN_CHARACTERS]
        return cls(" ".join(shown.split())[:_SHOWN_CHARACTERS], _content_digest(title, text))


@dataclass(frozen=True)
class _Limits:
    """What the recipe says of documents."""

    language: str
    min_characters: int
    max_characters: int | None

    def reason(self, raw: formats.RawDocument) -> str | None:
        """Why a document is turned away for its length."""
        if len(raw.text) < max(1, self.min_characters):
            return "too_short"
        if self.max_characters is not None and len(raw.text) > self.max_characters:
            return "too_long"
        return None


def _document_id(raw: formats.RawDocument) -> str:
    return raw.document_id or content_id(raw.title or "", raw.text)


def _content_digest(title: str | None, text: str) -> int:
    return int(digests([f"{title or ''}\x1f{text}"])[0])


class _Reading:
    """What has been read so far: documents in a file, of those turned away another."""

    def __init__(self, limits: _Limits, scratch: Folder, output: Folder) -> None:
        self._limits, self._scratch, self._output = limits, scratch, output
        self._stack = ExitStack()
        self._spool = _Rows(scratch, "documents.parquet", DOCUMENTS, self._stack)
        self._rejected = {
            name: _Rows(output, f"rejected/{name}.parquet", rejected_schema(schema), self._stack)
            for name, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS))
        }
        self._ids, self._contents = array("q"), array("q")
        self._queries: dict[str, str] = {}
        self._collided_queries: set[str] = set()
        self._collided_documents: set[str] = set()
        self._qrels: list[dict[str, Any]] = []
        self.rows_in = 0
        self.documents = 0
        self.reasons: Counter[str] = Counter()

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def reject(self, name: str, row: dict[str, Any], reason: str) -> None:
        self.reasons[reason] += 1
        self._rejected[name].add({**row, "reason": reason})

    def add_document(self, raw: formats.RawDocument, source: str) -> str | None:
        """Take a document in. Returns its id, or None if it was turned away."""
        self.rows_in += 1
        document_id = _document_id(raw)
        row = {
            "document_id": document_id,
            "text": raw.text,
            "title": raw.title,
            "language": raw.language or self._limits.language,
            "source": source,
            "metadata": raw.metadata,
        }
        if reason := self._limits.reason(raw):
            self.reject("documents", row, reason)
            return None
        self.documents += 1
        self._spool.add(row)
        self._ids.append(int(digests([document_id])[0]))
        self._contents.append(_content_digest(raw.title, raw.text))
        return document_id

    def add_query(self, query_id: str, text: str) -> None:
        if self._queries.setdefault(query_id, text) != text:
            self._collided_queries.add(query_id)
            self.reject("queries", {"query_id": query_id, "text": text}, "id_collision")

    def add_judgement(self, query_id: str, document_id: str, score: int, split: str) -> None:
        self._qrels.append({"query_id": query_id, "document_id": document_id, "score": score, "split": split})

    def write_documents(self) -> np.ndarray:
        """Write documents.parquet; of several with one id the first stands. Returns the digests of the ids, sorted."""
        self._spool.close()
        id_N, content_N = np.array(self._ids, dtype=np.int64), np.array(self._contents, dtype=np.int64)
        ids, first, number_N = np.unique(id_N, return_index=True, return_inverse=True)
        is_first_N = np.zeros(len(id_N), dtype=bool)
        is_first_N[first] = True
        is_same_N = content_N == content_N[first[number_N]] if len(first) else is_first_N
        done = 0
        with TableWriter(self._output, "documents.parquet", DOCUMENTS) as writer:
            for batch in read_batches(self._scratch, "documents.parquet") if len(id_N) else ():
                is_first, is_same = (mask[done : done + batch.num_rows] for mask in (is_first_N, is_same_N))
                done += batch.num_rows
                writer.write(conform(batch.filter(pa.array(is_first)), DOCUMENTS))
                repeated = batch.filter(pa.array(~is_first)).to_pylist(maps_as_pydicts="strict")
                for row, same in zip(repeated, is_same[~is_first], strict=True):
                    if not same:
                        self._collided_documents.add(row["document_id"])
                    self.reject("documents", row, "repeated" if same else "id_collision")
        return ids

    def write_judgements(self, document_ids: np.ndarray) -> dict[str, float]:
        """Write queries.parquet and qrels.parquet.

        Judgements without document or query are rejected, and those by an id that stood for two texts, for nobody
        knows which of them was judged; then queries without any.

        Args:
            document_ids: digests of the ids of all documents, sorted.
        """
        _, is_there = find(document_ids, digests([row["document_id"] for row in self._qrels]))
        kept: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row, has_document in zip(self._qrels, is_there, strict=True):
            key = (row["query_id"], row["document_id"], row["split"])
            if row["score"] <= 0:
                self.reject("qrels", row, "not_relevant")
            elif not has_document:
                self.reject("qrels", row, "no_such_document")
            elif row["query_id"] not in self._queries:
                self.reject("qrels", row, "no_such_query")
            elif row["query_id"] in self._collided_queries or row["document_id"] in self._collided_documents:
                self.reject("qrels", row, "id_collision")
            elif key in kept:
                self.reject("qrels", row, "repeated")
            else:
                kept[key] = row
        judged = {row["query_id"] for row in kept.values()}
        queries = []
        for query_id, text in self._queries.items():
            query = {"query_id": query_id, "text": text}
            if query_id in judged:
                queries.append(query)
            else:
                self.reject("queries", query, "no_relevant_document")
        self._output.write_table("queries.parquet", pa.Table.from_pylist(queries, schema=QUERIES))
        self._output.write_table("qrels.parquet", pa.Table.from_pylist(list(kept.values()), schema=QRELS))
        return {"queries": float(len(queries)), "qrels": float(len(kept))}


class _Rows:
    """Rows one by one to a file, which is there once there is a row."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema, stack: ExitStack) -> None:
        self._writer = TableWriter(folder, name, schema)
        self._schema = schema
        self._waiting: list[dict[str, Any]] = []
        self._characters = 0
        stack.callback(self.close)

    def add(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        self._characters += len(row.get("text") or "")
        if len(self._waiting) >= BATCH_ROWS or self._characters >= BATCH_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting, self._characters = [], 0


def _read_files(reading: _Reading, files: Sequence[formats.File], columns: Columns, monitor: Monitor) -> None:
    for done, file in enumerate(files, start=1):
        for row in _rows(file, columns):
            match row:
                case formats.RawDocument():
                    reading.add_document(row, source=file.name)
                case formats.Judgement():
                    reading.add_judgement(row.query_id, row.document_id, row.score, row.split)
                case (_, query_id, text):
                    reading.add_query(query_id, text)
        monitor.progress(done, len(files), "files", documents=reading.documents)


def _read_docstrings(reading: _Reading, names: Sequence[str], monitor: Monitor) -> None:
    total = sum(len(docstrings.source_files(name)) for name in names)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done % 100 == 0 or done == total:
            monitor.progress(done, total, "source files", documents=reading.documents)

    seen: set[int] = set()
    for library in names:
        source, version = f"{docstrings.SCHEME}{library}", _version(library)
        for item in docstrings.read_docstrings(library, on_file=count):
            metadata = {"object": item.name, "kind": item.kind, "file": item.file, "version": version}
            labelled, text = docstrings.label(item.text), int(digests([item.text])[0])
            reason = labelled if isinstance(labelled, str) else "repeated_docstring" if text in seen else None
            seen.add(text)
            if isinstance(labelled, str) or reason is not None:
                reading.rows_in += 1
                row = {"text": item.text, "title": item.name, "source": source, "metadata": metadata}
                reading.reject("documents", row, str(reason))
                continue
            raw = formats.RawDocument(item.name, None, labelled.body, item.name, None, metadata)
            document_id = reading.add_document(raw, source)
            if document_id is not None:
                # From the text alone: a summary that several objects share is one query.
                query_id = content_id(labelled.summary)
                reading.add_query(query_id, labelled.summary)
                reading.add_judgement(query_id, document_id, score=1, split="all")


def _files(sources: list[str]) -> list[formats.File]:
    """The files of all sources; a short name that two of them would share gives way to the URI."""
    files = [file for source in sources if not _is_docstrings(source) for file in formats.find_files(source)]
    times = Counter(file.name for file in files)
    return [
        file if times[file.name] == 1 else formats.File(file.uri, file.uri, file.holds)
        for file in dict.fromkeys(files)
    ]


def _libraries(sources: list[str]) -> list[str]:
    named = [name for source in sources if _is_docstrings(source) for name in docstrings.libraries(source)]
    return list(dict.fromkeys(named))


def _is_docstrings(source: str) -> bool:
    return source.startswith(docstrings.SCHEME)


def _rows(file: formats.File, columns: Columns, digest: Any = None) -> Any:
    match file.holds:
        case "documents":
            return formats.read_documents_of(file, digest, columns)
        case "pages":
            return formats.read_pages_of(file, digest, columns)
        case "queries":
            return formats.read_queries_of(file, digest)
        case _:
            return formats.read_qrels_of(file, digest)


def _version(library: str) -> str:
    versions = docstrings.distribution_versions(library)
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "no distribution"


def _listed(verb: str, keys: list[str], contents: dict[str, _Version]) -> list[str]:
    """`2 documents changed: `a` (its title), `b` (its title)`."""
    if not keys:
        return []
    shown = [f"`{key}` ({contents[key].shown})" for key in keys[:_SHOWN_CHANGES]]
    more = f" and {len(keys) - _SHOWN_CHANGES} more" if len(keys) > _SHOWN_CHANGES else ""
    return [f"{len(keys)} document{'s' * (len(keys) > 1)} {verb}: {', '.join(shown)}{more}"]
