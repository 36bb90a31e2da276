"""Scores of a pair table; the cut in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.schema import PAIRS_FILE
from components.corpus.tables import pieces_of
from components.monitor import Monitor
from components.pairs.piecewise import Load, compute_pieces
from components.search.workers import Workers
from components.storage import Folder


@dataclass(frozen=True)
class Cut:
    """Where to cut: at a score, or so that a share is dropped.

    Attributes:
        threshold: the least score that is kept.
        quantile: in its place the share of scored pairs to drop, the lowest; equal ones at the cut stay.

    Raises:
        ValueError: not exactly one of them, or a quantile outside [0, 1).
    """

    threshold: float | None
    quantile: float | None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.quantile is None):
            raise ValueError("filter: give either threshold or quantile, not both and not neither")
        if self.quantile is not None and not 0 <= self.quantile < 1:
            raise ValueError(f"filter: quantile must be in [0, 1); it is {self.quantile}")

    def of(self, score_N: np.ndarray) -> float:
        """The least score that is kept; NaN counts for nothing.

        Raises:
            ValueError: every score is NaN.
        """
        known = score_N[~np.isnan(score_N)]
        if not len(known):
            raise ValueError(f"filter: none of {len(score_N)} pairs could be scored")
        return (
            float(np.quantile(known, self.quantile))
            if self.quantile is not None
            else float(self.threshold or 0)
        )


def score_pairs(pairs: Folder, load: Load, state: Folder, monitor: Monitor, workers: Workers) -> np.ndarray:
    """Scores of all pairs, float32 [N], by a pool of workers.

    NaN where query or positive is empty: such pairs are not shown to the scorer.

    Args:
        state: what survives an attempt; pieces that stand there are not scored again.

    Raises:
        ValueError: there are no pairs.
    """
    pieces = pieces_of(pairs, PAIRS_FILE)
    if not pieces:
        raise ValueError("filter: there are no pairs to filter")
    scores = compute_pieces(pieces, partial(_load, load), state / "scores", monitor, workers)
    return np.concatenate(list(scores))


def _load(load: Load, device: str) -> Callable[[pa.Table], np.ndarray]:
    score = load(device)

    def score_full(table: pa.Table) -> np.ndarray:
        score_N = np.full(table.num_rows, np.nan, dtype=np.float32)
        rows = np.flatnonzero([reason is None for reason in empty_side(table)])
        if len(rows):
            score_N[rows] = score(table.take(rows))
        return score_N

    return score_full


def check_numbers(score_N: np.ndarray, queries: Sequence[str], whose: str) -> np.ndarray:
    """The scores of as many pairs, where one that is no number would decide what it must not.

    Raises:
        ValueError: one is NaN.
    """
    nan_N = np.isnan(score_N)
    if nan_N.any():
        raise ValueError(
            f"{whose} gives {nan_N.sum()} of {len(score_N)} pairs a score that is no number, the first with the "
            f"query {queries[int(nan_N.argmax())][:80]!r}; its weights may be damaged, or `precision` too low for it"
        )
    return score_N


def empty_side(piece: pa.Table) -> list[str | None]:
    """`empty_query` or `empty_positive` for each pair that lacks a text; None for the others."""
    blank = {side: pc.equal(pc.utf8_trim_whitespace(piece[side]), "") for side in ("query", "positive")}
    return pc.case_when(
        pc.make_struct(*blank.values()), *(pa.scalar(f"empty_{side}") for side in blank)
    ).to_pylist()
