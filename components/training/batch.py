"""A worker's share of one global batch: what the data side hands to the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Lists of integers, end to end.

    Attributes:
        values: all of them, one list after the other.
        offsets: int64 [lists + 1]; list i is values[offsets[i]:offsets[i + 1]].
    """

    values: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, lists: np.ndarray) -> "Ragged":
        """The lists of these numbers, in this order."""
        return Ragged.ranges(self.values, self.offsets[lists], self.lengths[lists])

    @classmethod
    def ranges(cls, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """values[starts[i]:starts[i] + lengths[i]] for each i."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return cls(values[np.repeat(starts, lengths) + within], offsets)


@dataclass(frozen=True)
class WorkerBatch:
    """The rows r::w of a global batch, for worker r of w. B rows with M hard negatives together.

    B is at least 1 and may be another one on every worker, M may be 0.

    Attributes:
        task: of all rows of the global batch.
        rows: int64 [B], numbers of the rows in their plan.
        tokens: 2B + M texts, template and end token included: the queries, then the positives, then the
            negatives row after row.
        identities: int64 [2B + M], of the query or document that a text is. Queries and documents count
            apart; equal ones mean the same query, or the same document.
        negative_rows: int64 [M], which of the B rows a negative belongs to, ascending.
        known_positives: for each of the B rows identities of documents that answer its query besides its own
            positive.
        scores: float32 [B], of query and positive; NaN where there is none.
        global_tokens: tokens of the global batch, over all workers.
    """

    task: str
    rows: np.ndarray
    tokens: Ragged
    identities: np.ndarray
    negative_rows: np.ndarray
    known_positives: Ragged
    scores: np.ndarray
    global_tokens: int

    def __len__(self) -> int:
        return len(self.rows)
