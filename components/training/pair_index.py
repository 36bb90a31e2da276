"""Pair tables read once, piece by piece: tokens to a spool file, and of every row a few numbers in memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.corpus.spool import write_spool
from components.corpus.tables import TableWriter, count_rows, read_batches
from components.monitor import Monitor
from components.storage import Folder
from components.training.identities import number_identities
from components.training.tokens import Digests, Tokeniser

READ_ROWS = 4096
"""Rows that are read, tokenised and handed on at a time."""
PAIRS = "pairs.parquet"
REJECTED = "rejected/rejected.parquet"


@dataclass(frozen=True)
class PairIndex:
    """What is held of the rows that can be trained on. R rows in the order of the tables, M hard negatives.

    Attributes:
        tasks: names, sorted.
        task_R: int64, number of the row's task.
        tokens_R: int64, tokens of all texts of the row.
        negatives_R: int64, hard negatives of the row.
        query_R, positive_R, negative_M: int64 identities; equal ones mean the same query, or document.
        rejected: rows that cannot be trained on, by reason.
    """

    tasks: list[str]
    task_R: np.ndarray
    tokens_R: np.ndarray
    negatives_R: np.ndarray
    query_R: np.ndarray
    positive_R: np.ndarray
    negative_M: np.ndarray
    rejected: Counter[str]

    def __len__(self) -> int:
        return len(self.task_R)


def index_pairs(
    sources: Sequence[Folder], tokenizer: Tokeniser, spool: Path, output: Folder, monitor: Monitor
) -> PairIndex:
    """Tokenise the `pairs.parquet` of each source, one after the other.

    Args:
        spool: takes the token ids, in the tokenizer's schema, of the rows of the index in their order.
        output: takes `rejected/rejected.parquet`, if there is such a row.

    Raises:
        ValueError: no row is left, or one is malformed.
    """
    numbers: dict[str, int] = {}
    task, tokens, negatives, digests = [], [], [], []
    rejected: Counter[str] = Counter()
    total = sum(count_rows(folder, PAIRS) for folder in sources)
    rejected_rows = pa.schema([*tokenizer.reads, pa.field("reason", pa.string())])
    with TableWriter(output, REJECTED, rejected_rows) as turned_away:

        def tokenised() -> Iterator[pa.Table]:
            done = 0
            for piece in _pieces(sources, tokenizer.reads.names):
                pairs = tokenizer(piece)
                task.append(
                    np.array([numbers.setdefault(name, len(numbers)) for name in pairs.tasks], dtype=np.int64)
                )
                tokens.append(pairs.tokens_R)
                negatives.append(pairs.negatives_R)
                digests.append(pairs.digests)
                if pairs.rejected.num_rows:
                    turned_away.write(pairs.rejected)
                rejected.update(pairs.rejected.column("reason").to_pylist())
                done += piece.num_rows
                monitor.progress(done, total, "pairs")
                yield pairs.rows

        write_spool(spool, tokenizer.schema, tokenised())
    if not numbers:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
        raise ValueError(
            f"no training pairs: none of {total} rows can be trained on ({counts})" if total
            else "no training pairs: every pair table of the stage is empty"
        )  # fmt: skip
    names = sorted(numbers)
    rank = np.array([names.index(name) for name in numbers], dtype=np.int64)
    rows = Digests.join(digests)
    document_N = number_identities(
        np.concatenate([rows.positive_text_R, rows.negative_text_M]),
        np.concatenate([rows.positive_id_R, rows.negative_id_M]),
    )
    positive_R, negative_M = np.split(document_N, [len(rows.positive_text_R)])
    return PairIndex(
        tasks=names,
        task_R=rank[np.concatenate(task)],
        tokens_R=np.concatenate(tokens),
        negatives_R=np.concatenate(negatives),
        query_R=number_identities(rows.query_text_R, rows.query_id_R),
        positive_R=positive_R,
        negative_M=negative_M,
        rejected=rejected,
    )


def _pieces(sources: Sequence[Folder], columns: Sequence[str]) -> Iterator[pa.Table]:
    for folder in sources:
        yield from read_batches(folder, PAIRS, columns, READ_ROWS)
