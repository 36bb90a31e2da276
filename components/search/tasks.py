"""Calls of a function spread over the cluster, so many at once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray


def spread(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], count: int, workers: int
) -> Iterator[tuple[int, Any]]:
    """Results with the number of their call, as they come.

    Each call is a Ray task of one CPU, which Ray repeats if its process or node is lost. Where there is one
    call, or one worker for them all, they are made here, one after the other.

    Args:
        calls: arguments; they are drawn when a worker is free, so their results and they need not fit in memory.
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
