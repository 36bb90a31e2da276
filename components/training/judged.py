"""What a reranker trains on: pairs as token numbers, and a worker's share of one global batch of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.corpus.schema import conform
from components.model.pair_tokens import Tokens
from components.model.reranker import load_pair_tokens
from components.storage import Folder
from components.training.batch import Ragged
from components.training.batches import worker_rows
from components.training.plan_folder import PlannedBatch
from components.training.stream import Shards, ragged, read_ahead
from components.training.tokens import (
    TRAINED_ON,
    Digests,
    TokenisedPairs,
    first_negatives,
    text_digests,
    token_lists,
)

JUDGED = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("documents", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("query_tokens", pa.list_(pa.int32()), nullable=False),
        pa.field("teacher_scores", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Of a row the positive, then the negatives, each as one text with the query; of a text how many tokens, from the
first, belong to the query (of a decoder all); the teacher's logits, or none."""


class JudgedTokenizer:
    """Tokenises queries with each of their documents, as a reranker reads them.

    Attributes:
        encoding: digest of what the tokens depend on.

    Args:
        model: reranker directory; its weights are not read.
        negatives_per_query: the first so many negatives of a row are taken; None: all of them.
        listwise: rows without a negative are rejected.
        with_teacher: the loss needs the teacher's scores.
    """

    reads = pa.schema([*TRAINED_ON, pa.field("teacher_scores", pa.list_(pa.float32()))])
    schema = JUDGED

    def __init__(
        self, model: Path, negatives_per_query: int | None, listwise: bool, with_teacher: bool
    ) -> None:
        self._tokenize = load_pair_tokens(model)
        self.encoding = self._tokenize.digest()
        self._negatives_per_query = negatives_per_query
        self._listwise, self._with_teacher = listwise, with_teacher

    def __call__(self, table: pa.Table) -> TokenisedPairs:
        """Tokenise rows with the columns of `reads`.

        A row with a text of nothing but white space is rejected (`empty_query`, `empty_positive`,
        `empty_negative`), and where asked one without a negative (`no_negative`) or without a teacher's score for
        each document (`no_teacher_scores`).

        Raises:
            ValueError: a column is missing, or a row has more negatives than ids of them or fewer.
        """
        table = conform(table, self.reads)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        negatives, negative_ids = first_negatives(columns, self._negatives_per_query)
        reasons = [self._reason(columns, row, negatives[row]) for row in range(table.num_rows)]
        kept = [row for row, reason in enumerate(reasons) if not reason]
        count = np.array([len(negatives[row]) for row in kept], dtype=np.int64)
        documents = [[columns["positive"][row], *negatives[row]] for row in kept]
        tokens = self._tokens(columns, kept, documents)
        offsets = pa.array(np.concatenate([[0], np.cumsum(count + 1)]).astype(np.int32))
        length = np.array([len(each.ids) for each in tokens], dtype=np.int64)
        teacher = [
            (columns["teacher_scores"][row] or [])[: 1 + len(negatives[row])] if self._with_teacher else []
            for row in kept
        ]
        rows = pa.table(
            [
                table.column("pair_id").take(pa.array(kept, pa.int64())),
                pa.ListArray.from_arrays(offsets, token_lists([each.ids for each in tokens])),
                pa.ListArray.from_arrays(
                    offsets, pa.array([each.type_ids.count(0) for each in tokens], pa.int32())
                ),
                pa.array(teacher, JUDGED.field("teacher_scores").type),
            ],
            schema=JUDGED,
        )
        chosen = {name: [columns[name][row] for row in kept] for name in TRAINED_ON.names}
        bad = pa.array([bool(reason) for reason in reasons])
        rejected = table.append_column("reason", pa.array(reasons, pa.string())).filter(bad)
        return TokenisedPairs(
            rows=rows,
            tasks=chosen["task"],
            tokens_R=np.add.reduceat(length, offsets.to_numpy()[:-1]) if kept else length,
            negatives_R=count,
            digests=Digests(
                query_text_R=text_digests(chosen["query"]),
                query_id_R=text_digests(chosen["query_id"]),
                positive_text_R=text_digests(chosen["positive"]),
                positive_id_R=text_digests(chosen["positive_id"]),
                negative_text_M=text_digests([text for row in kept for text in negatives[row]]),
                negative_id_M=text_digests([name for row in kept for name in negative_ids[row]]),
            ),
            rejected=rejected,
        )

    def _reason(self, columns: dict[str, list], row: int, negatives: list[str]) -> str | None:
        for side in ("query", "positive"):
            if not columns[side][row].strip():
                return f"empty_{side}"
        if not all(text.strip() for text in negatives):
            return "empty_negative"
        if self._listwise and not negatives:
            return "no_negative"
        if self._with_teacher and len(columns["teacher_scores"][row] or []) < 1 + len(negatives):
            return "no_teacher_scores"
        return None

    def _tokens(self, columns: dict[str, list], kept: list[int], documents: list[list[str]]) -> list[Tokens]:
        queries = [columns["query"][row] for row, found in zip(kept, documents, strict=True) for _ in found]
        instructions = [
            columns["instruction"][row] for row, found in zip(kept, documents, strict=True) for _ in found
        ]
        return self._tokenize(queries, [text for found in documents for text in found], instructions)


@dataclass(frozen=True)
class JudgedBatch:
    """The rows r::w of a global batch, for worker r of w: B queries with N documents together.

    Attributes:
        tokens: N texts, a query with one of its documents each, row after row, the positive first.
        query_tokens: int64 [N], leading tokens of a text that belong to the query.
        label: float32 [N], 1: yes, 0: no.
        row: int64 [N], which of the B rows a text belongs to, ascending.
        teacher_scores: float32 [N], the teacher's logits; empty where there is no teacher.
        global_tokens: tokens of the global batch, over all workers.
    """

    tokens: Ragged
    query_tokens: np.ndarray
    label: np.ndarray
    row: np.ndarray
    teacher_scores: np.ndarray
    global_tokens: int

    def pairs(self) -> list[Tokens]:
        """The texts as a reranker pads them."""
        return [
            Tokens(ids.tolist(), [0] * count + [1] * (len(ids) - count))
            for ids, count in zip(self.tokens, self.query_tokens.tolist(), strict=True)
        ]


def stream_judged(folder: Folder, start: int, rank: int, workers: int) -> Iterator[JudgedBatch]:
    """Worker `rank`'s share of the batches of a reranker's plan, from step `start` (0 is the first) to the end."""
    return read_ahead(folder, start, partial(_share, rank=rank, workers=workers))


def _share(planned: PlannedBatch, shards: Shards, rank: int, workers: int) -> JudgedBatch:
    rows = shards.take(worker_rows(planned.rows, rank, workers), planned.task)
    documents = rows.column("documents").combine_chunks()
    row = np.repeat(np.arange(rows.num_rows), np.diff(documents.offsets.to_numpy()))
    return JudgedBatch(
        tokens=ragged(pa.chunked_array([documents.flatten()])),
        query_tokens=ragged(rows.column("query_tokens")).values.astype(np.int64),
        label=np.diff(row, prepend=-1).astype(np.float32),
        row=row,
        teacher_scores=ragged(rows.column("teacher_scores")).values.copy(),
        global_tokens=planned.tokens,
    )
