"""Work spread over the cluster: calls of a function, or of actors that keep what is dear to load."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from components.ray_data import data_context

WAIT_FOR_WORKER = 1200  # seconds until workers that do not start are given up


@dataclass(frozen=True)
class Workers:
    """How many work at once, and what each has."""

    count: int = 1
    cpus: float = 1
    gpus: float = 0


def spread(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], count: int, workers: int
) -> Iterator[tuple[int, Any]]:
    """Results of a function with the number of their call, as they come.

    Each call is a Ray task of one CPU, which Ray repeats if its process or node is lost. Where there is one
    call, or one worker for them all, they are made here, one after the other.

    Args:
        calls: arguments; drawn when a worker is free, so that they and the results need not fit in memory.
        count: how many calls there are.
        workers: calls at once.
    """
    if count == 1 or workers == 1:
        for number, arguments in enumerate(calls):
            yield number, function(*arguments)
        return
    task = ray.remote(num_cpus=1)(function)
    running: dict[ray.ObjectRef, int] = {}
    for number, arguments in enumerate(calls):
        running[task.remote(*arguments)] = number
        if len(running) >= workers:
            yield from _finished(running)
    while running:
        yield from _finished(running)


def _finished(running: dict[ray.ObjectRef, int]) -> Iterator[tuple[int, Any]]:
    for reference in ray.wait(list(running))[0]:
        yield running.pop(reference), ray.get(reference)


def over_shards(
    worker: type, settings: Mapping[str, Any], shards: Sequence[int], workers: Workers
) -> Iterator[int]:
    """Files as they are finished by workers that are made once and called with one file's number at a time.

    The workers are an actor pool of Ray Data. Where there is one file, or one worker without a GPU of its own,
    it works here.

    Args:
        worker: made with `settings` and `device`; called with a number, it does that file and returns nothing.
    """
    if not workers.gpus and (len(shards) == 1 or workers.count == 1):
        work = worker(**settings, device="cpu")
        for shard in shards:
            work(shard)
            yield shard
        return
    if not shards:
        return
    with data_context(WAIT_FOR_WORKER):
        dataset = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            _PoolWorker,
            fn_constructor_args=(worker, dict(settings), "cuda" if workers.gpus else "cpu"),
            batch_size=1,
            concurrency=min(workers.count, len(shards)),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus or None,
        )
        for row in dataset.iter_rows():
            yield int(row["shard"])


class _PoolWorker:
    """A worker as Ray Data calls it: with batches of one row."""

    def __init__(self, worker: type, settings: dict[str, Any], device: str) -> None:
        self._work = worker(**settings, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for shard in batch["shard"]:
            self._work(int(shard))
        return batch
