"""The scores of a pair table, computed piece by piece and kept where they survive a crash; the cut in them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.monitor import Monitor
from components.pairs.table import count_pairs, read_pairs
from components.storage import Folder

ROWS_AT_ONCE = 8192
"""Pairs that are scored, and recorded as scored, together: so many are lost in a crash."""

Score = Callable[[pa.Table], np.ndarray]
"""Pairs in, a number each, or several, out: [N] or [N, columns]."""


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


def score_pairs(
    pairs: Folder, score: Score, state: Folder | None, monitor: Monitor, columns: int = 1
) -> np.ndarray:
    """Scores of all pairs, float32 [N, columns].

    NaN where query or positive is empty: such pairs are not shown to `score`.

    Args:
        state: what survives an attempt; pieces that stand there are not scored again.
        columns: numbers a pair that `score` gives.

    Raises:
        ValueError: there are no pairs.
    """
    total = count_pairs(pairs)
    if not total:
        raise ValueError("filter: there are no pairs to filter")
    score_NC = np.full((total, columns), np.nan, dtype=np.float32)
    start = 0
    for number, piece in enumerate(read_pairs(pairs, ROWS_AT_ONCE)):
        rows = start + np.flatnonzero([reason is None for reason in empty_side(piece)])
        if len(rows):
            usable = piece.take(rows - start)
            score_NC[rows] = recorded(state, f"scores/{number:08d}", partial(_score, score, usable, columns))
        start += piece.num_rows
        monitor.progress(start, total, "pairs")
    return score_NC


def recorded(state: Folder | None, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of a name in `state`; computed and put there where it is missing."""
    if state is not None and state.exists(f"{name}.npy"):
        return np.load(io.BytesIO(state.read(f"{name}.npy")))
    values = compute()
    if state is not None:
        data = io.BytesIO()
        np.save(data, values)
        state.write(f"{name}.npy", data.getvalue())
    return values


def empty_side(piece: pa.Table) -> list[str | None]:
    """`empty_query` or `empty_positive` for each pair that lacks a text; None for the others."""
    blank = {side: pc.equal(pc.utf8_trim_whitespace(piece[side]), "") for side in ("query", "positive")}
    return pc.case_when(
        pc.make_struct(*blank.values()), *(pa.scalar(f"empty_{side}") for side in blank)
    ).to_pylist()


def _score(score: Score, piece: pa.Table, columns: int) -> np.ndarray:
    return score(piece).reshape(piece.num_rows, columns)
