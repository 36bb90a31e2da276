"""The pieces of a table, each through a function, by a pool of workers on Ray Data."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from components.corpus.tables import Piece
from components.ray_data import data_context

FEW_ROWS = 1024
"""Workers take some seconds to start, which so few rows are not worth."""

Columns = dict[str, np.ndarray]
Work = Callable[[Piece], Columns]


def over_pieces(
    pieces: Sequence[Piece], prepare: Callable[[], Work], num_workers: int, name: str
) -> Iterator[Columns]:
    """What the function makes of each piece, in the order in which they are done: columns of equal length.

    A small table is worked on here, without workers.

    Args:
        prepare: makes the function, once a worker: it may load what is large. Travels by cloudpickle.
        num_workers: at most so many at once, one CPU each.
        name: of the work, in the Ray dashboard.
    """
    if sum(piece.rows for piece in pieces) <= FEW_ROWS:
        yield from map(prepare(), pieces)
        return
    import ray  # `plan` looks at this package and loads nothing heavy
    from ray.data import ActorPoolStrategy, from_items

    # in the object store arrays that `prepare` brings along are there once a node
    shared = ray.put(prepare)
    with data_context():
        numbers = [{"piece": piece.number} for piece in pieces]
        dataset = from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            _Worker,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=(shared, list(pieces)),
            compute=ActorPoolStrategy(
                min_size=1, max_size=num_workers, initial_size=min(num_workers, len(pieces))
            ),
            num_cpus=1,
        )
        dataset.set_name(name)
        yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


class _Worker:
    def __init__(self, shared: Any, pieces: list[Piece]) -> None:
        import ray

        # One CPU each; tokenizers and lingua start their threads at the first call.
        os.environ["RAYON_NUM_THREADS"] = "1"
        self._work: Work = ray.get(shared)()
        self._pieces = {piece.number: piece for piece in pieces}

    def __call__(self, batch: Columns) -> Columns:
        [number] = batch["piece"]
        return self._work(self._pieces[int(number)])
