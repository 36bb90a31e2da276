"""Numbers of a table, computed piece by piece by a pool of workers and kept where they survive a crash."""

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from components.corpus.tables import Piece, read_piece
from components.monitor import Monitor
from components.pairs.table import gather_pairs
from components.search.workers import Workers, over_shards
from components.storage import Folder

ROWS_AT_ONCE = 8192
"""Pairs that are read and scored together."""

Load = Callable[[str], Callable[[pa.Table], np.ndarray]]
"""A device in, a scorer out: pairs in, their numbers out. Travels to the workers."""


def compute_pieces(
    pieces: Sequence[Piece], load: Load, scores: Folder, monitor: Monitor, workers: Workers
) -> Iterator[np.ndarray]:
    """The numbers of each piece of a pair table, in its order.

    Args:
        scores: takes them; pieces that stand there are not computed again.
    """
    there = set(scores.names("*.npy"))
    missing = [piece.number for piece in pieces if _name(piece.number) not in there]
    total = sum(piece.rows for piece in pieces)
    done = total - sum(pieces[number].rows for number in missing)
    settings = {"pieces": pieces, "load": load, "scores": scores}
    for number in over_shards(_Worker, settings, missing, workers) if missing else ():
        done += pieces[number].rows
        monitor.progress(done, total, "pairs")
    for piece in pieces:
        yield np.load(io.BytesIO(scores.read(_name(piece.number))), allow_pickle=False)


class _Worker:
    """One scorer in one process."""

    def __init__(self, pieces: Sequence[Piece], load: Load, scores: Folder, device: str) -> None:
        self._pieces, self._scores = pieces, scores
        self._compute = load(device)

    def __call__(self, number: int) -> None:
        tables = gather_pairs(read_piece(self._pieces[number]), ROWS_AT_ONCE)
        data = io.BytesIO()
        np.save(data, np.concatenate([self._compute(table) for table in tables]))
        self._scores.write(_name(number), data.getvalue())


def _name(number: int) -> str:
    return f"{number:06d}.npy"
