"""Queries and judgements that lie beside documents, taken along when documents go or are replaced.

Of each judgement and each query a few numbers are held, of the rest nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests, find
from components.corpus.schema import QRELS, QUERIES, conform, rejected_schema
from components.corpus.tables import TableWriter, has_table, read_batches
from components.storage import Folder

_REJECTED_QRELS = rejected_schema(QRELS)
_REJECTED_QUERIES = rejected_schema(QUERIES)


def judged_documents(documents: Folder) -> np.ndarray:
    """Digests of the ids of documents that stand in qrels.parquet, ascending, int64; none if there is no such table."""
    if not has_table(documents, "qrels.parquet"):
        return np.empty(0, dtype=np.int64)
    found = [digests(batch["document_id"].to_pylist()) for batch in read_batches(documents, "qrels.parquet")]
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def carry_judgements(
    documents: Folder,
    output: Folder,
    moved: Mapping[str, Sequence[str]],
    refused: Mapping[str, tuple[str, str]],
) -> dict[str, float]:
    """Write queries.parquet and qrels.parquet of a folder as they are after some of its documents moved.

    A judgement of a document that moved becomes one of each document that stands for it. Judgements without a document
    (`no_such_document`) or without their query (`no_such_query`) are rejected, so are those that stand there already
    (`repeated`), and queries that are left without any (`no_relevant_document`).

    Args:
        moved: for a document's id those that stand for it, as far as it is judged.
        refused: for each id of a query that is to go, reason and detail.

    Returns:
        queries, qrels and rejected_<reason>; nothing if the folder has no such tables.
    """
    if not has_table(documents, "qrels.parquet") or not has_table(documents, "queries.parquet"):
        return {}
    keys, asked = [], []
    for _, after in _moved_qrels(documents, moved, refused):
        keys.append(digests(["\x1f".join((r["query_id"], r["document_id"], r["split"])) for r in after]))
        asked.append(digests([row["query_id"] for row in after]))
    key_J = np.concatenate([np.empty(0, dtype=np.int64), *keys])
    _, first = np.unique(key_J, return_index=True)
    is_first_J = np.zeros(len(key_J), dtype=bool)
    is_first_J[first] = True
    asked_Q = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *asked]))

    counts: Counter[str] = Counter()
    with (
        TableWriter(output, "qrels.parquet", QRELS) as kept,
        TableWriter(output, "rejected/qrels.parquet", _REJECTED_QRELS) as rejected,
    ):
        kept.write(QRELS.empty_table())
        done = 0
        for gone, after in _moved_qrels(documents, moved, refused):
            is_first = is_first_J[done : done + len(after)]
            done += len(after)
            turned_away = gone + [
                row | {"reason": "repeated"} for row, new in zip(after, is_first, strict=True) if not new
            ]
            kept.write(
                pa.Table.from_pylist([r for r, new in zip(after, is_first, strict=True) if new], schema=QRELS)
            )
            _reject(rejected, turned_away, _REJECTED_QRELS, counts)
        num_qrels = kept.rows
    with (
        TableWriter(output, "queries.parquet", QUERIES) as kept,
        TableWriter(output, "rejected/queries.parquet", _REJECTED_QUERIES) as rejected,
    ):
        kept.write(QUERIES.empty_table())
        for rows in read_batches(documents, "queries.parquet"):
            batch = conform(rows, QUERIES)
            _, judged = find(asked_Q, digests(batch["query_id"].to_pylist()))
            kept.write(batch.filter(pa.array(judged)))
            turned_away = []
            for row in batch.filter(pa.array(~judged)).to_pylist():
                reason, detail = refused.get(row["query_id"], ("no_relevant_document", None))
                turned_away.append(row | {"reason": reason, "detail": detail})
            _reject(rejected, turned_away, _REJECTED_QUERIES, counts)
        num_queries = kept.rows
    numbers = {"queries": float(num_queries), "qrels": float(num_qrels)}
    return numbers | {f"rejected_{reason}": float(count) for reason, count in sorted(counts.items())}


def _moved_qrels(
    documents: Folder, moved: Mapping[str, Sequence[str]], refused: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[list[dict], list[dict]]]:
    """Batch by batch the judgements that go, with a reason, and the others with the documents they are of now."""
    for batch in read_batches(documents, "qrels.parquet"):
        gone: list[dict] = []
        after: list[dict] = []
        for row in conform(batch, QRELS).to_pylist():
            standing = moved.get(row["document_id"], [row["document_id"]])
            if row["query_id"] in refused:
                gone.append(row | {"reason": "no_such_query"})
            elif not standing:
                gone.append(row | {"reason": "no_such_document"})
            else:
                after += [row | {"document_id": document_id} for document_id in standing]
        yield gone, after


def _reject(writer: TableWriter, rows: list[dict], schema: pa.Schema, counts: Counter[str]) -> None:
    counts.update(row["reason"] for row in rows)
    if rows:
        writer.write(pa.Table.from_pylist(rows, schema=schema))
