"""The plan of global batches: which rows stand together, in which order. Arrays of numbers only.

Every batch holds rows of one task. A task is gone through pass after pass; a pass takes each of its rows at
most once. The first pass shuffles all rows of the task, and the token tables are then laid out in its order
(`spool.py`): it is read from front to back. A later pass shuffles in windows: the blocks of the layout come
in another order, and the rows of so many blocks at a time are mixed. So a reader holds one window, and goes
through the disk in runs of a block.

A plan follows from (ids, tasks, batch size, seed) alone. Nothing here knows of workers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 4096
"""Rows of a block, rounded to whole batches; a batch that is larger is a block of its own."""
WINDOW_BLOCKS = 16
"""Blocks whose rows are mixed in a pass after the first."""
TRIES = 32
"""Random places that are tried for a row before all are looked at."""
SCANNED_PLACES = 1_000_000_000
"""Places that are looked at in a pass, or a window, when random ones do not fit: some ten seconds."""


def block_rows(batch_size: int) -> int:
    """Rows of a block: whole batches, so that windows do not cut one."""
    return batch_size * max(1, round(BLOCK_ROWS / batch_size))


@dataclass(frozen=True)
class Pass:
    """One way through rows.

    Attributes:
        batches: numbers of rows, int64 [batch_size] each; with `keep_last` the last may be shorter.
        left: int64, the rows that fill no batch and sit this pass out.
    """

    batches: list[np.ndarray]
    left: np.ndarray


def shuffled_pass(
    rows: np.ndarray,
    query_ids: np.ndarray,
    positive_ids: np.ndarray,
    batch_size: int,
    keep_last: bool,
    rng: np.random.Generator,
) -> Pass:
    """Random batches of `rows` in which no two rows share a query or a positive, where that can be.

    The rows are shuffled and cut into batches. Then each row that stands beside another one with its query
    or its positive changes places with a random row such that neither meets its like. With m batches, at
    most Q rows of a query and P rows of a positive there is always such a place if m >= 2 (Q + P - 2): of
    the m x batch_size places fewer than 2 x batch_size x (Q + P - 2) are barred, half of them because the
    row has its like there, half because the row there has its like here. With fewer batches it is tried,
    and a row that finds no place stays; the objective masks what meets. A query or positive with more than
    2 m rows (a class label, say) is left as it falls.

    Args:
        rows: int64, distinct numbers of rows.
        query_ids, positive_ids: int64, by number of row; equal ids mean the same query, or document.
        batch_size: 2 or more.
        keep_last: rows that fill no batch make a smaller one, if they are two or more.
    """
    order = rng.permutation(rows)
    full = len(order) // batch_size
    rest = len(order) - full * batch_size
    last = keep_last and rest > 1
    order = _apart(order, query_ids[order], positive_ids[order], batch_size, full + last, rng)
    cut = len(order) if last else full * batch_size
    return Pass([order[at : min(at + batch_size, cut)] for at in range(0, cut, batch_size)], order[cut:])


def _apart(
    order: np.ndarray,
    query_ids: np.ndarray,
    positive_ids: np.ndarray,
    batch_size: int,
    batches: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """`order` with places changed until no batch holds a query or a positive twice, where that can be.

    Place s belongs to batch s // batch_size. Places behind the last batch are free: what stands there sits
    out.
    """
    kinds = [_Kind(ids, batch_size, batches) for ids in (query_ids, positive_ids)]
    batch_of = np.arange(len(order)) // batch_size
    again = kinds[0].again(batch_of) | kinds[1].again(batch_of)
    item = np.arange(len(order))  # the one at each place; an item is a position of `order` as it came in
    scans = SCANNED_PLACES // len(order)
    for here in np.flatnonzero(again[: batches * batch_size]).tolist():
        moving, batch = int(item[here]), here // batch_size
        if all(kind.in_batch(moving, batch) < 2 for kind in kinds):
            continue  # its like has moved away, or cannot be kept apart

        found = None
        for there in rng.integers(0, len(order), TRIES).tolist():
            other, its_batch = int(item[there]), there // batch_size
            if not any(kind.in_batch(moving, its_batch) or kind.in_batch(other, batch) for kind in kinds):
                found = there
                break
        if found is None and scans:
            scans -= 1
            fitting = kinds[0].fitting(item, moving, batch) & kinds[1].fitting(item, moving, batch)
            found = int(rng.choice(np.flatnonzero(fitting))) if fitting.any() else None
        if found is not None:
            other, its_batch = int(item[found]), found // batch_size
            for kind in kinds:
                kind.move(moving, batch, its_batch)
                kind.move(other, its_batch, batch)
            item[here], item[found] = other, moving
    return order[item]


class _Kind:
    """Which batches hold a query; or a positive. A query with too many rows counts as held by none."""

    def __init__(self, ids: np.ndarray, batch_size: int, batches: int) -> None:
        self._batch_size, self._batches = batch_size, batches
        _, self.number, counts = np.unique(ids, return_inverse=True, return_counts=True)
        self._hopeless = counts > 2 * batches
        self._sorted = np.argsort(self.number, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._counters: dict[int, Counter[int]] = {}

    def again(self, batch_of: np.ndarray) -> np.ndarray:
        """bool by item: whether its like stands before it in its batch."""
        return _again(batch_of, self.number) & ~self._hopeless[self.number]

    def in_batch(self, item: int, batch: int) -> int:
        """How many items of the batch are like this one; 0 for the free places."""
        return self._counter(int(self.number[item]))[batch] if batch < self._batches else 0

    def move(self, item: int, source: int, target: int) -> None:
        number = int(self.number[item])
        if not self._hopeless[number]:
            counter = self._counter(number)
            counter[source] -= 1
            counter[target] += 1

    def fitting(self, item: np.ndarray, moving: int, batch: int) -> np.ndarray:
        """bool by place: the item `moving` of `batch` may go there, and the one there come here."""
        batch_of = np.arange(len(item)) // self._batch_size
        held = [
            b for b, count in self._counter(int(self.number[moving])).items() if count and b < self._batches
        ]
        beside = np.unique(self.number[item[batch * self._batch_size : (batch + 1) * self._batch_size]])
        beside = beside[(beside != self.number[moving]) & ~self._hopeless[beside]]
        return ~np.isin(batch_of, held) & ~np.isin(self.number[item], beside)

    def _counter(self, number: int) -> Counter[int]:
        """Batch -> items of this number in it; made at the first question, before any of them has moved."""
        if number not in self._counters:
            items = self._sorted[self._starts[number] : self._starts[number + 1]]
            held = [] if self._hopeless[number] else (items // self._batch_size).tolist()
            self._counters[number] = Counter(held)
        return self._counters[number]


def _again(batch_of: np.ndarray, number: np.ndarray) -> np.ndarray:
    """bool: whether an earlier place of the same batch holds the same number."""
    _, first = np.unique(batch_of * (int(number.max()) + 1) + number, return_index=True)
    again = np.ones(len(number), dtype=bool)
    again[first] = False
    return again


def rows_beside_their_like(query_ids: np.ndarray, positive_ids: np.ndarray) -> int:
    """How many rows of one batch have a query or a positive that stands before them in it."""
    one_batch = np.zeros(len(query_ids), dtype=np.int64)
    kinds = (np.unique(ids, return_inverse=True)[1] for ids in (query_ids, positive_ids))
    again = [_again(one_batch, number) for number in kinds]
    return int((again[0] | again[1]).sum())


@dataclass(frozen=True)
class Laid:
    """The rows of one task as they are laid out: `first`, `first` + 1, ... in the order of the first pass.

    Attributes:
        query_ids, positive_ids: int64 [rows of the task].
        per_pass: batches of a pass, the same for every pass.
    """

    first: int
    query_ids: np.ndarray
    positive_ids: np.ndarray
    per_pass: int


def task_batches(laid: Laid, batch_size: int, keep_last: bool, seed: int, task: int) -> Iterator[np.ndarray]:
    """Batches of a task without end, as numbers of rows: the first pass, then windowed ones."""
    rows = len(laid.query_ids)
    for start in range(0, laid.per_pass * batch_size, batch_size):
        yield laid.first + np.arange(start, min(start + batch_size, rows))
    passed = 0
    while True:
        passed += 1
        rng = np.random.default_rng([seed, passed, task])
        for window in windows(rows, block_rows(batch_size), rng):
            batches = shuffled_pass(
                window, laid.query_ids, laid.positive_ids, batch_size, keep_last, rng
            ).batches
            yield from (laid.first + batch for batch in batches)


def windows(rows: int, block: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows 0 to rows - 1, each once, in groups of WINDOW_BLOCKS blocks in random order."""
    order = rng.permutation(-(-rows // block))
    for start in range(0, len(order), WINDOW_BLOCKS):
        blocks = np.sort(order[start : start + WINDOW_BLOCKS])
        yield np.concatenate([np.arange(at * block, min((at + 1) * block, rows)) for at in blocks])


def drawn_tasks(per_pass: Sequence[int], weights: Sequence[float] | None, seed: int) -> Iterator[np.ndarray]:
    """For epoch after epoch the tasks of its batches, as numbers; an epoch has sum(per_pass) batches.

    Without weights every task gives one pass an epoch, in random order. With weights the share of a task is
    its weight's, to within one batch an epoch (systematic sampling, unbiased); a task that is drawn more
    often than it has batches starts over.
    """
    total, epoch = sum(per_pass), 0
    while True:
        rng = np.random.default_rng([seed, epoch, len(per_pass)])
        if weights is None:
            drawn = np.repeat(np.arange(len(per_pass)), per_pass)
        else:
            upto = np.cumsum(np.asarray(weights, dtype=float) / sum(weights))
            at = (rng.random() + np.arange(total)) / total
            drawn = np.searchsorted(upto[:-1], at, side="right")
        yield rng.permutation(drawn)
        epoch += 1


def worker_rows(batch: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """The rows of a global batch that one worker takes: every workers-th, from its rank on."""
    return batch[rank::workers]
