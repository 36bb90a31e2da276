"""What the steps on documents share: each document kept, changed or turned away, batch by batch, by workers.

The output's documents.parquet has a shard for each piece of the input's, in the input's order, whatever the number of
workers. Queries and judgements that lie beside the documents go along.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests, find
from components.corpus.judgements import carry_judgements, judged_documents
from components.corpus.schema import DOCUMENTS, PAIRS, PAIRS_FILE, conform, rejected_schema
from components.corpus.tables import Piece, TableWriter, count_rows, pieces_of, read_batches, read_piece
from components.corpus.workers import Columns, over_pieces
from components.monitor import Monitor
from components.storage import Folder

DOCUMENTS_TABLE = "documents.parquet"


@dataclass(frozen=True)
class Rewritten:
    """What became of a batch of rows.

    Attributes:
        kept: rows in the table's schema.
        rejected: rows with `reason` and `detail`, as `rejected_rows` makes them.
        moved: for each document id that is no more, the ids of those that stand for it; none: no document does.
        counts: whatever else is to be counted.
    """

    kept: pa.Table
    rejected: pa.Table
    moved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


Rewrite = Callable[[pa.Table], Rewritten]


def rejected_rows(rows: pa.Table, reasons: Sequence[str], details: Sequence[str | None]) -> pa.Table:
    """Rows with the reason why each is turned away."""
    columns = [*rows.columns, pa.array(reasons, pa.string()), pa.array(details, pa.string())]
    return pa.table(columns, schema=rejected_schema(rows.schema))


def rewrite_documents(
    documents: Folder,
    output: Folder,
    prepare: Callable[[], Rewrite],
    num_workers: int,
    name: str,
    monitor: Monitor,
    refused_queries: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, float]:
    """Write documents.parquet and rejected/documents.parquet, and with them queries and qrels if there are any.

    Args:
        prepare: makes the function of a batch, once a worker.
        name: of the work, in the Ray dashboard.
        refused_queries: for each id of a query that is not to be kept, reason and detail.

    Returns:
        rows_in, rows_out, rejected_<reason>, the function's own counts, rows_per_second, and queries and qrels as
        `carry_judgements` counts them.

    Raises:
        ValueError: there is no document, none is kept, or two have one id.
    """
    numbers, moved, id_N = _rewrite(
        documents, DOCUMENTS_TABLE, DOCUMENTS, "document_id", judged_documents(documents), output, prepare,
        num_workers, name, monitor,
    )  # fmt: skip
    refuse_repeated_ids(documents, id_N)
    return numbers | carry_judgements(documents, output, moved, refused_queries or {})


def rewrite_pairs(
    pairs: Folder,
    output: Folder,
    prepare: Callable[[], Rewrite],
    num_workers: int,
    name: str,
    monitor: Monitor,
) -> dict[str, float]:
    """Write pairs.parquet and rejected/pairs.parquet; otherwise as `rewrite_documents`."""
    nobody = np.empty(0, dtype=np.int64)
    numbers, _, _ = _rewrite(
        pairs, PAIRS_FILE, PAIRS, "pair_id", nobody, output, prepare, num_workers, name, monitor
    )
    return numbers


def refuse_repeated_ids(documents: Folder, id_N: np.ndarray) -> None:
    """Raises ValueError, naming one, if two documents have one id. `id_N`: the digests of all ids, any order."""
    ordered = np.sort(id_N)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return
    for batch in read_batches(documents, DOCUMENTS_TABLE, ["document_id"]):
        ids = batch["document_id"].to_pylist()
        found = np.flatnonzero(digests(ids) == repeated[0])
        if len(found):
            raise ValueError(
                f"{DOCUMENTS_TABLE} in {documents.uri} has document id `{ids[found[0]]}` more than once; "
                f"ids must differ (reading documents turns the later ones away)"
            )


def _rewrite(
    folder: Folder,
    table: str,
    schema: pa.Schema,
    id_column: str,
    watched: np.ndarray,
    output: Folder,
    prepare: Callable[[], Rewrite],
    num_workers: int,
    name: str,
    monitor: Monitor,
) -> tuple[dict[str, float], dict[str, list[str]], np.ndarray]:
    """The numbers, what became of the `watched` ids (digests, ascending) that moved, and the digests of all ids."""
    total = count_rows(folder, table)
    if not total:
        raise ValueError(f"{table} in {folder.uri} holds no row")

    def prepare_piece() -> Callable[[Piece], Columns]:
        rewrite = prepare()

        def work(piece: Piece) -> Columns:
            shard = f"{piece.number:05d}.parquet"
            counts: Counter[str] = Counter()
            moved: dict[str, list[str]] = {}
            ids = []
            with (
                TableWriter(output, f"{table}/{shard}", schema) as kept,
                TableWriter(output, f"rejected/{table}/{shard}", rejected_schema(schema)) as rejected,
            ):
                for rows in read_piece(piece):
                    batch = conform(rows, schema)
                    found = rewrite(batch)
                    kept.write(found.kept)
                    if found.rejected.num_rows:
                        rejected.write(found.rejected)
                    counts.update(f"rejected_{reason}" for reason in found.rejected["reason"].to_pylist())
                    counts.update(found.counts)
                    ids.append(digests(batch[id_column].to_pylist()))
                    gone = list(found.moved)
                    _, is_watched = find(watched, digests(gone))
                    moved |= {gone[at]: list(found.moved[gone[at]]) for at in np.flatnonzero(is_watched)}
                counts["rows_in"], counts["rows_out"] = piece.rows, kept.rows
            facts = {
                "counts": json.dumps(counts),
                "moved": json.dumps(moved),
                "ids": np.concatenate(ids).tobytes(),
            }
            return {key: np.array([value], dtype=object) for key, value in facts.items()}

        return work

    counts: Counter[str] = Counter()
    moved: dict[str, list[str]] = {}
    ids = []
    began = time.monotonic()
    for found in over_pieces(pieces_of(folder, table), prepare_piece, num_workers, name):
        for row in range(len(found["counts"])):
            counts.update(json.loads(found["counts"][row]))
            moved |= json.loads(found["moved"][row])
            ids.append(np.frombuffer(found["ids"][row], dtype=np.int64))
        monitor.progress(counts["rows_in"], total, "rows", kept=counts["rows_out"])
    if not counts["rows_out"]:
        reasons = ", ".join(
            f"{count} {key}" for key, count in sorted(counts.items()) if key.startswith("rej")
        )
        raise ValueError(f"{name}: nothing is left of the {total} rows of {table} ({reasons})")
    first = {"rows_in": float(counts.pop("rows_in")), "rows_out": float(counts.pop("rows_out"))}
    rest = {key: float(count) for key, count in sorted(counts.items())}
    speed = {"rows_per_second": total / (time.monotonic() - began)}
    return first | rest | speed, moved, np.concatenate(ids)
