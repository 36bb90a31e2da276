"""A worker's share of the batches of a plan, read ahead in the background.

The rows of a batch stand in few shards: in one or two in the first epoch, in those of one window later. So
many are held of each task; the rest is read when it is needed, each shard from front to back.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.storage import Folder
from components.training.batch import Ragged, WorkerBatch
from components.training.batches import worker_rows
from components.training.identities import Answers
from components.training.plan_folder import (
    BatchPlan,
    PlannedBatch,
    read_answers,
    read_plan,
    read_steps,
    shard_name,
)

B = TypeVar("B")

AHEAD_ROWS = 8192
"""Rows of global batches that are read ahead, or two batches where those have more."""


def stream_batches(folder: Folder, start: int, rank: int, workers: int) -> Iterator[WorkerBatch]:
    """Worker `rank`'s share of the batches of a plan, from step `start` (0 is the first) to the end.

    Together the workers have the rows of each batch once, whatever their number. The reading ends with the
    iterator.

    Args:
        folder: what `plan_batches` wrote.
    """
    answers = read_answers(folder)
    return read_ahead(folder, start, partial(_share, answers=answers, rank=rank, workers=workers))


def read_ahead(folder: Folder, start: int, share: Callable[[PlannedBatch, "Shards"], B]) -> Iterator[B]:
    """What `share` makes of each batch of a plan, from step `start` to the end, in a thread of its own."""
    plan = read_plan(folder)
    shards = Shards(folder, plan)
    shares = (share(planned, shards) for planned in read_steps(folder, start))
    reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        ahead = deque(reader.submit(next, shares, None) for _ in range(max(2, AHEAD_ROWS // plan.batch_size)))
        while (found := ahead.popleft().result()) is not None:
            ahead.append(reader.submit(next, shares, None))
            yield found
    finally:
        reader.shutdown(wait=False, cancel_futures=True)


def pair_ids(folder: Folder, step: int) -> list[str]:
    """Of the pairs of the global batch of a step, 0 the first."""
    plan, planned = read_plan(folder), next(read_steps(folder, step))
    shards = Shards(folder, plan, ["pair_id"])
    return shards.take(planned.rows, planned.task).column("pair_id").to_pylist()


def planned_scores(folder: Folder) -> Iterator[np.ndarray]:
    """Of the pairs of a plan, float32, shard by shard; NaN where a pair has none."""
    for shard in range(len(read_plan(folder).shard_starts)):
        with folder.open(shard_name(shard)) as source:
            yield pq.read_table(source, columns=["score"]).column("score").to_numpy().astype(np.float32)


def _share(planned: PlannedBatch, shards: "Shards", answers: Answers, rank: int, workers: int) -> WorkerBatch:
    own = worker_rows(planned.rows, rank, workers)
    rows = shards.take(own, planned.task)
    everything = shards.take(planned.rows, planned.task, ["positive_identity", "negative_identities"])
    negatives = rows.column("negatives").combine_chunks()
    tokens = [rows.column("query"), rows.column("positive"), pa.chunked_array([negatives.flatten()])]
    query, positive = rows.column("query_identity").to_numpy(), rows.column("positive_identity").to_numpy()
    negative = _flat(rows.column("negative_identities"))
    met = np.concatenate(
        [everything.column("positive_identity").to_numpy(), _flat(everything.column("negative_identities"))]
    )
    return WorkerBatch(
        task=planned.task,
        rows=own,
        tokens=_joined([ragged(column) for column in tokens]),
        identities=np.concatenate([query, positive, negative]),
        negative_rows=np.repeat(np.arange(len(own)), np.diff(negatives.offsets.to_numpy())),
        known_positives=answers.known_positives(query, positive, met),
        scores=rows.column("score").to_numpy().astype(np.float32),
        global_tokens=planned.tokens,
    )


class Shards:
    """The shards of a plan; of each task the last used ones are held."""

    def __init__(self, folder: Folder, plan: BatchPlan, columns: list[str] | None = None) -> None:
        self._folder, self._columns = folder, columns
        self._starts = np.asarray(plan.shard_starts)
        self._held = plan.window_shards
        self._readers: dict[str, Callable[[int], pa.Table]] = {}

    def take(self, rows: np.ndarray, task: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of these numbers, all of one task, in this order."""
        read = self._readers.setdefault(task, lru_cache(self._held)(self._read))
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        parts = []
        for shard in np.unique(shard_of).tolist():
            table = read(shard)
            inside = rows[shard_of == shard] - self._starts[shard]
            parts.append((table.select(columns) if columns else table).take(pa.array(inside)))
        back = np.argsort(np.argsort(shard_of, kind="stable"))
        return pa.concat_tables(parts).combine_chunks().take(pa.array(back))

    def _read(self, shard: int) -> pa.Table:
        with self._folder.open(shard_name(shard)) as source:
            return pq.read_table(source, columns=self._columns, use_threads=False).combine_chunks()


def ragged(column: pa.ChunkedArray) -> Ragged:
    """A column of lists."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Ragged(lists.flatten().to_numpy(), offsets - offsets[0])


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return ragged(column).values


def _joined(parts: list[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))
