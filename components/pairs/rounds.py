"""Rounds of mining: negatives that a model has outgrown are replaced, the others stay (Conan-embedding).

Conan-embedding (arXiv 2408.15710, 3.2.1) records the mean score of a row's negatives when they were found, and
replaces them once 1.15 times their present mean score is below it while the present one is below 0.8.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests
from components.corpus.tables import read_batches
from components.storage import Folder

FIRST_SCORES_FILE = "negative_scores.parquet"
FIRST_SCORES = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("first_score", pa.float32()),  # mean cosine of query and negatives when they were found
    ]
)


@dataclass(frozen=True)
class Outgrown:
    """When a row's negatives are replaced: `factor` times their score is below the first, and it is below
    `below`."""

    factor: float = 1.15
    below: float = 0.8

    def __call__(self, present_B: np.ndarray, first_B: np.ndarray) -> np.ndarray:
        """bool [B]; never where there is no first score (NaN)."""
        return (self.factor * present_B < first_B) & (np.abs(present_B) < self.below)


def read_first_scores(pairs: Folder | None, pair_ids: Iterator[list[str]], count: int) -> np.ndarray:
    """First scores of the rows of a pair table, float32 [N]; NaN where none was recorded.

    Args:
        pairs: a folder with `pairs.parquet` and, if mining wrote it, FIRST_SCORES_FILE beside it; None: they are
            not asked for.
        pair_ids: ids of its rows, piece by piece.
        count: N.

    Raises:
        ValueError: the scores are those of other rows.
    """
    if pairs is None or not pairs.exists(FIRST_SCORES_FILE):
        return np.full(count, np.nan, dtype=np.float32)
    found, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for batch in read_batches(pairs, FIRST_SCORES_FILE):
        found.append(digests(batch["pair_id"].to_pylist()))
        scores.append(batch["first_score"].to_numpy(zero_copy_only=False))
    if not np.array_equal(np.concatenate(found), np.concatenate([digests(ids) for ids in pair_ids])):
        raise ValueError(
            f"mine: {FIRST_SCORES_FILE} in {pairs.uri} is not of the rows of pairs.parquet; delete it or mine anew"
        )
    return np.concatenate(scores).astype(np.float32)
