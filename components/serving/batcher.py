"""Joins what many requests send into batches of a bounded number of tokens.

`ray.serve.batch` can count tokens too (`batch_size_fn`), but it counts the whole batch anew for every item,
sends the item that did not fit to the end of its queue, and fails on an item above the limit. Here a batch
takes one text of each waiting request in turn, so that a request of 2,000 texts does not hold up a query.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")

_MEMORY = 0.9
"""Weight of the past in the measured speed, a batch: it follows a change within some ten batches."""
_TELLING = 0.25
"""Share of a full batch from which one tells how fast a long queue is worked off: small ones take more time a token."""
_WORTH_SPLITTING = 128
"""Tokens below which what waits is not shared out among the streams: smaller batches compute slower."""


class OverloadedError(Exception):
    """More is waiting than can be computed in time. `retry_after_s`: when there should be room again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Work(Generic[Item]):
    """One request: what of it still waits, and the rows that are there."""

    items: Sequence[Item]
    lengths: Sequence[int]
    done: asyncio.Future
    waiting: deque[int] = field(init=False)
    rows: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.items)))


class TokenBatcher(Generic[Item]):
    """A queue of requests, and workers that compute batches of at most `tokens_per_batch` tokens side by side.

    Args:
        compute: items to one row each; it runs in threads, off the event loop.
        streams: batches that are computed at the same time.
        tokens_per_batch: tokens in a batch; a single longer text makes a batch of its own.
        max_waiting_tokens: above this many waiting tokens a request is turned away.
        max_wait_s: so is one that would wait longer than this, by the speed of the last batches.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], np.ndarray],
        streams: int,
        tokens_per_batch: int,
        max_waiting_tokens: int,
        max_wait_s: float,
    ) -> None:
        self._compute = compute
        self._streams = streams
        self._executor = ThreadPoolExecutor(streams, thread_name_prefix="compute")
        self._tokens_per_batch = tokens_per_batch
        self._max_waiting_tokens = max_waiting_tokens
        self._max_wait_s = max_wait_s
        self._queue: deque[_Work[Item]] = deque()
        self._waiting_tokens = 0
        self._tokens, self._seconds = 0.0, 0.0
        self._under_way: list[int] = []
        self._workers: set[asyncio.Task[None]] = set()

    def expected_wait_s(self) -> float:
        """How long what waits now will take; 0 before the first batch that tells."""
        if not self._tokens:
            return 0.0
        return self._waiting_tokens * self._seconds / (self._tokens * self._streams)

    def check_room(self, tokens: int = 1) -> None:
        """Raises OverloadedError if so many tokens would be turned away. An empty queue takes any request."""
        wait_s = self.expected_wait_s()
        if self._waiting_tokens and (
            self._waiting_tokens + tokens > self._max_waiting_tokens or wait_s > self._max_wait_s
        ):
            retry_after_s = max(1.0, wait_s - self._max_wait_s / 2)
            raise OverloadedError(
                f"{self._waiting_tokens} tokens are waiting already, about {wait_s:.0f} s of work",
                retry_after_s,
            )

    async def run(self, items: Sequence[Item], lengths: Sequence[int]) -> np.ndarray:
        """The rows of one request, float32 [N, ...], in its order.

        Args:
            lengths: tokens of each item.

        Raises:
            OverloadedError: too much is waiting.
        """
        self.check_room(sum(lengths))
        work = _Work(items, lengths, asyncio.get_running_loop().create_future())
        self._queue.append(work)
        self._waiting_tokens += sum(lengths)
        while len(self._workers) < self._streams:
            self._workers.add(asyncio.create_task(self._work()))
        try:
            return await work.done
        finally:
            # The client went away, or an error: what is left of the request is not computed.
            self._waiting_tokens -= sum(lengths[index] for index in work.waiting)
            work.waiting.clear()

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._run(batch)
        finally:
            # At once: whoever comes next starts another.
            self._workers.discard(asyncio.current_task())

    async def _run(self, batch: list[tuple[_Work[Item], int]]) -> None:
        items = [work.items[index] for work, index in batch]
        tokens = sum(work.lengths[index] for work, index in batch)
        self._under_way.append(tokens)
        began = time.perf_counter()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, items)
        except Exception as error:
            for work, _ in batch:
                if not work.done.done():
                    work.done.set_exception(error)
            return
        finally:
            self._under_way.remove(tokens)
        if tokens >= _TELLING * self._tokens_per_batch:
            self._tokens = _MEMORY * self._tokens + tokens
            self._seconds = _MEMORY * self._seconds + time.perf_counter() - began
        for (work, index), row in zip(batch, rows, strict=True):
            work.rows[index] = row
            if len(work.rows) == len(work.items) and not work.done.done():
                work.done.set_result(np.stack([work.rows[at] for at in range(len(work.items))]))

    def _next_batch(self) -> list[tuple[_Work[Item], int]]:
        """The next texts, one of each request in turn, until the next one would exceed the budget.

        That is a stream's share of what waits, so that a large request that is alone keeps all of them at work, or as
        much as another one has taken.
        """
        batch: list[tuple[_Work[Item], int]] = []
        tokens = 0
        share = self._waiting_tokens // self._streams
        budget = min(self._tokens_per_batch, max(share, _WORTH_SPLITTING, *self._under_way))
        while self._queue:
            work = self._queue.popleft()
            if not work.waiting:
                continue
            length = work.lengths[work.waiting[0]]
            if batch and tokens + length > budget:
                self._queue.appendleft(work)
                break
            batch.append((work, work.waiting.popleft()))
            tokens += length
            self._waiting_tokens -= length
            self._queue.append(work)
        return batch
