"""The plan of global batches: which rows stand together, in which order.

A plan depends on (seed, epoch) and the ids alone, never on the number of workers. Worker r of w takes the
rows r::w of every global batch (`worker_rows`).
"""

from collections.abc import Iterator

import numpy as np


def plan_epoch(
    query_ids: np.ndarray, positive_ids: np.ndarray, batch_size: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """One epoch's global batches as row numbers: floor(rows / batch_size) of them, each full.

    The rows are shuffled, then each goes to the first open batch that holds neither its query nor its
    positive. Rows for which the epoch's end leaves no such batch fill up the last batches in order: there
    the duplicate rule of the objective masks what meets. The rows that do not fill a batch are left out of
    this epoch; another epoch leaves out others.

    Args:
        query_ids, positive_ids: int64 [rows]; equal ids mean the same text.
        batch_size: rows of a global batch, 2 or more.

    Raises:
        ValueError: fewer rows than one batch.
    """
    rows = len(query_ids)
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; in-batch negatives need at least 2 rows")
    if rows < batch_size:
        raise ValueError(
            f"{rows} training pairs do not fill one batch; batch_size must be at most {rows}, "
            f"not {batch_size}"
        )
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    full: list[np.ndarray] = []
    open_batches: list[_OpenBatch] = []
    for row in order.tolist():
        query, positive = int(query_ids[row]), int(positive_ids[row])
        for batch in open_batches:
            if query not in batch.queries and positive not in batch.positives:
                break
        else:
            batch = _OpenBatch()
            open_batches.append(batch)
        batch.rows.append(row)
        batch.queries.add(query)
        batch.positives.add(positive)
        if len(batch.rows) == batch_size:
            full.append(np.array(batch.rows))
            open_batches.remove(batch)
    left = [row for batch in open_batches for row in batch.rows]
    for start in range(0, len(left) - batch_size + 1, batch_size):
        full.append(np.array(left[start : start + batch_size]))
    return full


class _OpenBatch:
    def __init__(self) -> None:
        self.rows: list[int] = []
        self.queries: set[int] = set()
        self.positives: set[int] = set()


def global_batches(
    query_ids: np.ndarray, positive_ids: np.ndarray, batch_size: int, seed: int, start: int, steps: int
) -> Iterator[np.ndarray]:
    """The batches of the steps `start` to `steps` - 1, epoch after epoch. Any step can be the start."""
    batches_per_epoch = len(query_ids) // batch_size
    planned, batches = -1, []
    for step in range(start, steps):
        epoch, position = divmod(step, batches_per_epoch)
        if epoch != planned:
            planned, batches = epoch, plan_epoch(query_ids, positive_ids, batch_size, seed, epoch)
        yield batches[position]


def worker_rows(batch: np.ndarray, rank: int, workers: int) -> np.ndarray:
    """The rows of a global batch that one worker takes: every workers-th, from its rank on."""
    return batch[rank::workers]
