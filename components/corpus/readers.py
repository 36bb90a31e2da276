"""Documents in: JSONL, Parquet, BEIR folders, docstrings of installed libraries, to one document table.

A file that cannot be what it says (no text, invalid UTF-8, no JSON) is an error that names file and line,
raised when the plan is made. A sound row that the recipe does not want (too short, too long, an id that
stands for another text already) is kept under `rejected/` with its reason.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from components.corpus import docstrings, formats
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform, content_id
from components.monitor import Monitor, Silent
from components.storage import Folder

_REASON = pa.field("reason", pa.string(), nullable=False)
_SHOWN_CHANGES = 3


def read_documents(
    *,
    sources: list[str],
    language: str,
    min_characters: int,
    max_characters: int | None,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Read every source into documents.parquet, queries.parquet and qrels.parquet.

    A document keeps the id that its row gives it (`document_id`, `_id` or `id`); without one the id is the
    hash of title and text. A docstring gives a document (title: dotted name, text: body) and a query (the
    summary line); a summary that several objects share is one query with several relevant documents, in the
    split "all".

    Args:
        sources: paths or URIs of `*.jsonl`, `*.jsonl.gz` and `*.parquet`, of folders of those, of BEIR
        folders
            (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), or `docstrings://numpy,scipy`.
        language: of documents whose row names none.
        min_characters: a shorter text is rejected (`too_short`).
        max_characters: a longer text is rejected (`too_long`); None: no limit.

    Returns:
        rows_in, documents, queries, qrels and one `rejected_<reason>` for each reason that occurred.

    Raises:
        ValueError: a source is missing, empty or malformed, or nothing is left of all of them.
    """
    found = _Collection(language, min_characters, max_characters)
    _read_files(found, _files(sources), monitor)
    _read_docstrings(found, _libraries(sources), monitor)
    tables = found.tables()
    documents, queries, qrels = tables["documents"], tables["queries"], tables["qrels"]
    reasons = Counter(f"rejected_{reason}" for rows in found.rejected.values() for reason in _reasons(rows))
    if not documents.num_rows:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(reasons.items()))
        raise ValueError(f"no document is left of the {found.rows_in} rows of {', '.join(sources)}: {counts}")

    for name, table in tables.items():
        output.write_table(f"{name}.parquet", table)
    for name, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS)):
        if found.rejected[name]:
            fields = [field.with_nullable(True) for field in schema]
            table = pa.Table.from_pylist(found.rejected[name], schema=pa.schema([*fields, _REASON]))
            output.write_table(f"rejected/{name}.parquet", table)
    numbers = {
        "rows_in": float(found.rows_in),
        "documents": float(documents.num_rows),
        "queries": float(queries.num_rows),
        "qrels": float(qrels.num_rows),
    } | {name: float(count) for name, count in sorted(reasons.items())}
    monitor.metrics(numbers)
    return numbers


def source_digests(sources: list[str]) -> dict[str, str]:
    """SHA-256 (hex) of each file by its short name, and of each library as `docstrings://NAME`.

    Reads and checks each file once, as `check_sources`; of a library only that it is installed.

    Raises:
        ValueError: as `check_sources`.
    """
    digests: dict[str, str] = {}
    if not sources:
        raise ValueError("`sources` is empty; name at least one file, folder or docstrings://LIBRARY")
    for file in _files(sources):
        digest = hashlib.sha256()
        rows = 0
        for _ in _rows(file, digest):
            rows += 1
        if not rows:
            raise ValueError(f"{file.name}: no {file.holds} in it; the file is empty ({file.uri})")
        digests[file.name] = digest.hexdigest()
    for library in _libraries(sources):
        digests[f"{docstrings.SCHEME}{library}"] = docstrings.library_digest(library)
    return digests


def check_sources(sources: list[str]) -> None:
    """Raise one clear sentence if a source is missing, empty, or holds a row that is no document.

    Raises:
        ValueError: names the file and the line (`documents.jsonl:12: ...`).
    """
    source_digests(sources)


def changed_documents(
    previous: Folder, sources: list[str], language: str, min_characters: int, max_characters: int | None
) -> str:
    """One sentence that names the documents which differ from an earlier output of `read_documents`.

    Files are read again; of libraries the versions are compared.

    Raises:
        ValueError: as `read_documents`.
    """
    now = _Collection(language, min_characters, max_characters)
    _read_files(now, _files(sources), Silent())
    table = previous.read_table(
        "documents.parquet", columns=["document_id", "text", "title", "source", "metadata"]
    )
    before, versions = {}, {}
    for row in table.to_pylist(maps_as_pydicts="strict"):
        if row["source"].startswith(docstrings.SCHEME):
            versions[row["source"]] = row["metadata"]["version"]
        else:
            before[row["document_id"]] = (row["title"], row["text"])
    after = {key: (row["title"], row["text"]) for key, row in now.documents.items()}

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


@dataclass
class _Collection:
    """What has been read so far; the first row of an id stands, later ones are rejected."""

    language: str
    min_characters: int
    max_characters: int | None
    rows_in: int = 0
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    queries: dict[str, dict[str, Any]] = field(default_factory=dict)
    qrels: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"documents": [], "queries": [], "qrels": []}
    )

    def reject(self, name: str, row: dict[str, Any], reason: str) -> None:
        self.rejected[name].append({**row, "reason": reason})

    def add_document(self, raw: formats.RawDocument, source: str) -> str | None:
        """Take a document in. Returns its id, or None if it was turned away."""
        self.rows_in += 1
        document_id = raw.document_id or content_id(raw.title or "", raw.text)
        row = {
            "document_id": document_id,
            "text": raw.text,
            "title": raw.title,
            "language": raw.language or self.language,
            "source": source,
            "metadata": raw.metadata,
        }
        standing = self.documents.get(document_id)
        if len(raw.text) < self.min_characters:
            self.reject("documents", row, "too_short")
        elif self.max_characters is not None and len(raw.text) > self.max_characters:
            self.reject("documents", row, "too_long")
        elif standing is None:
            self.documents[document_id] = row
            return document_id
        elif (standing["title"], standing["text"]) == (raw.title, raw.text):
            self.reject("documents", row, "repeated")
        else:
            self.reject("documents", row, "id_collision")
        return None

    def add_query(self, query_id: str, text: str) -> None:
        row = {"query_id": query_id, "text": text}
        if self.queries.setdefault(query_id, row) != row:
            self.reject("queries", row, "id_collision")

    def tables(self) -> dict[str, pa.Table]:
        """The three tables. Judgements without document or query are rejected, then queries without any."""
        kept: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row in self.qrels:
            key = (row["query_id"], row["document_id"], row["split"])
            if row["score"] <= 0:
                self.reject("qrels", row, "not_relevant")
            elif row["document_id"] not in self.documents:
                self.reject("qrels", row, "no_such_document")
            elif row["query_id"] not in self.queries:
                self.reject("qrels", row, "no_such_query")
            elif key in kept:
                self.reject("qrels", row, "repeated")
            else:
                kept[key] = row
        judged = {row["query_id"] for row in kept.values()}
        for query_id in [query_id for query_id in self.queries if query_id not in judged]:
            self.reject("queries", self.queries.pop(query_id), "no_relevant_document")
        return {
            name: conform(pa.Table.from_pylist(list(rows), schema=schema), schema)
            for name, rows, schema in (
                ("documents", self.documents.values(), DOCUMENTS),
                ("queries", self.queries.values(), QUERIES),
                ("qrels", kept.values(), QRELS),
            )
        }


def _read_files(found: _Collection, files: Sequence[formats.File], monitor: Monitor) -> None:
    for done, file in enumerate(files, start=1):
        for row in _rows(file):
            match row:
                case formats.RawDocument():
                    found.add_document(row, source=file.name)
                case formats.Judgement():
                    found.qrels.append(
                        {
                            "query_id": row.query_id,
                            "document_id": row.document_id,
                            "score": row.score,
                            "split": row.split,
                        }
                    )
                case (_, query_id, text):
                    found.add_query(query_id, text)
        monitor.progress(done, len(files), "files", documents=len(found.documents))


def _read_docstrings(found: _Collection, names: Sequence[str], monitor: Monitor) -> None:
    total = sum(len(docstrings.source_files(name)) for name in names)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done % 100 == 0 or done == total:
            monitor.progress(done, total, "source files", documents=len(found.documents))

    seen: set[str] = set()
    for library in names:
        source, version = f"{docstrings.SCHEME}{library}", _version(library)
        for item in docstrings.read_docstrings(library, on_file=count):
            metadata = {"object": item.name, "kind": item.kind, "file": item.file, "version": version}
            labelled = docstrings.label(item.text)
            reason = (
                labelled if isinstance(labelled, str) else "repeated_docstring" if item.text in seen else None
            )
            seen.add(item.text)
            if isinstance(labelled, str) or reason is not None:
                found.rows_in += 1
                row = {"text": item.text, "title": item.name, "source": source, "metadata": metadata}
                found.reject("documents", row, str(reason))
                continue
            raw = formats.RawDocument(item.name, None, labelled.body, item.name, None, metadata)
            document_id = found.add_document(raw, source)
            if document_id is not None:
                # From the text alone: a summary that several objects share is one query.
                query_id = content_id(labelled.summary)
                found.add_query(query_id, labelled.summary)
                found.qrels.append(
                    {"query_id": query_id, "document_id": document_id, "score": 1, "split": "all"}
                )


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


def _rows(file: formats.File, digest: Any = None) -> Any:
    read = {
        "documents": formats.read_documents_of,
        "queries": formats.read_queries_of,
        "qrels": formats.read_qrels_of,
    }[file.holds]
    return read(file, digest)


def _version(library: str) -> str:
    versions = docstrings.distribution_versions(library)
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "no distribution"


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    return [row["reason"] for row in rows]


def _listed(verb: str, keys: list[str], contents: dict[str, tuple[str | None, str]]) -> list[str]:
    """`2 documents changed: `a` (its title), `b` (its title)`."""
    if not keys:
        return []
    shown = []
    for key in keys[:_SHOWN_CHANGES]:
        title, text = contents[key]
        shown.append(f"`{key}` ({' '.join((title or text).split())[:50]})")
    more = f" and {len(keys) - _SHOWN_CHANGES} more" if len(keys) > _SHOWN_CHANGES else ""
    return [f"{len(keys)} document{'s' * (len(keys) > 1)} {verb}: {', '.join(shown)}{more}"]
