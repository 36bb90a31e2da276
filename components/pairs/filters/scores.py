"""Scores of a pair table, computed piece by piece and kept where they survive a crash; the cut in them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.tables import Piece, pieces_of, read_piece
from components.monitor import Monitor
from components.pairs.table import PAIRS_FILE, gather_pairs
from components.search.workers import Workers, over_shards
from components.storage import Folder

ROWS_AT_ONCE = 8192
"""Pairs that are read and scored together."""

Load = Callable[[str], Callable[[pa.Table], np.ndarray]]
"""A device in, a scorer out: pairs in, a score each out, [N]. Travels to the workers."""


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
    scores = state / "scores"
    there = set(scores.names("*.npy"))
    missing = [piece.number for piece in pieces if _name(piece.number) not in there]
    total = sum(piece.rows for piece in pieces)
    done = total - sum(pieces[number].rows for number in missing)
    settings = {"pieces": pieces, "load": load, "scores": scores}
    for number in over_shards(_Scorer, settings, missing, workers) if missing else ():
        done += pieces[number].rows
        monitor.progress(done, total, "pairs")
    return np.concatenate([np.load(io.BytesIO(scores.read(_name(piece.number)))) for piece in pieces])


class _Scorer:
    """One scorer in one process."""

    def __init__(self, pieces: Sequence[Piece], load: Load, scores: Folder, device: str) -> None:
        self._pieces, self._scores = pieces, scores
        self._score = load(device)

    def __call__(self, number: int) -> None:
        tables = gather_pairs(read_piece(self._pieces[number]), ROWS_AT_ONCE)
        score_N = np.concatenate([self._of(table) for table in tables])
        data = io.BytesIO()
        np.save(data, score_N)
        self._scores.write(_name(number), data.getvalue())

    def _of(self, table: pa.Table) -> np.ndarray:
        score_N = np.full(table.num_rows, np.nan, dtype=np.float32)
        rows = np.flatnonzero([reason is None for reason in empty_side(table)])
        if len(rows):
            score_N[rows] = self._score(table.take(rows))
        return score_N


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


def _name(number: int) -> str:
    return f"{number:06d}.npy"


def empty_side(piece: pa.Table) -> list[str | None]:
    """`empty_query` or `empty_positive` for each pair that lacks a text; None for the others."""
    blank = {side: pc.equal(pc.utf8_trim_whitespace(piece[side]), "") for side in ("query", "positive")}
    return pc.case_when(
        pc.make_struct(*blank.values()), *(pa.scalar(f"empty_{side}") for side in blank)
    ).to_pylist()
