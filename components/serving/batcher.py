"""Joins what many requests send into batches of a bounded number of tokens.

`ray.serve.batch` can count tokens too (`batch_size_fn`), but it counts the whole batch anew for every item,
sends the item that did not fit to the end of its queue, and fails on an item above the limit. Here a batch
takes one text of each waiting request in turn, so that a request of 2,000 texts does not hold up a query.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

TokenIds = list[int]


class QueueFullError(Exception):
    """More tokens are waiting than the limit allows."""


@dataclass(eq=False)
class _Work:
    """One request: what of it still waits, and the vectors that are there."""

    encode: Callable[[list[TokenIds]], np.ndarray]
    token_ids: list[TokenIds]
    done: asyncio.Future
    waiting: deque[int] = field(init=False)
    vectors: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.token_ids)))


class TokenBatcher:
    """A queue of requests and one worker that computes batches of at most `tokens_per_batch` tokens.

    Args:
        executor: runs the computation, off the event loop.
        tokens_per_batch: tokens in a batch; a single longer text makes a batch of its own.
        max_waiting_tokens: above this many waiting tokens a request is turned away.
    """

    def __init__(self, executor: Executor, tokens_per_batch: int, max_waiting_tokens: int) -> None:
        self._executor = executor
        self._tokens_per_batch = tokens_per_batch
        self._max_waiting_tokens = max_waiting_tokens
        self._queue: deque[_Work] = deque()
        self._waiting_tokens = 0
        self._worker: asyncio.Task | None = None

    async def encode(
        self, encode: Callable[[list[TokenIds]], np.ndarray], token_ids: list[TokenIds]
    ) -> np.ndarray:
        """Vectors float32 [N, D] of one request, in its order.

        Args:
            encode: token ids to vectors. Requests with different functions (two versions of a model) never
                share a batch.

        Raises:
            QueueFullError: too much is waiting. A request into an empty queue is always taken.
        """
        tokens = sum(map(len, token_ids))
        if self._waiting_tokens and self._waiting_tokens + tokens > self._max_waiting_tokens:
            raise QueueFullError(f"{self._waiting_tokens} tokens are waiting already")
        work = _Work(encode, token_ids, asyncio.get_running_loop().create_future())
        self._queue.append(work)
        self._waiting_tokens += tokens
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        try:
            return await work.done
        finally:
            # The client went away, or an error: what is left of the request is not computed.
            self._waiting_tokens -= sum(len(token_ids[index]) for index in work.waiting)
            work.waiting.clear()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            encode = batch[0][0].encode
            texts = [work.token_ids[index] for work, index in batch]
            try:
                vectors_ND = await loop.run_in_executor(self._executor, encode, texts)
            except Exception as error:
                for work, _ in batch:
                    if not work.done.done():
                        work.done.set_exception(error)
                continue
            for (work, index), vector_D in zip(batch, vectors_ND, strict=True):
                work.vectors[index] = vector_D
                if len(work.vectors) == len(work.token_ids) and not work.done.done():
                    work.done.set_result(np.stack([work.vectors[row] for row in range(len(work.vectors))]))

    def _next_batch(self) -> list[tuple[_Work, int]]:
        """The next texts, one of each request in turn, until the next one would exceed the budget."""
        batch: list[tuple[_Work, int]] = []
        tokens = 0
        others: list[_Work] = []
        while self._queue:
            work = self._queue.popleft()
            if not work.waiting:
                continue
            if batch and work.encode != batch[0][0].encode:
                others.append(work)
                continue
            length = len(work.token_ids[work.waiting[0]])
            if batch and tokens + length > self._tokens_per_batch:
                self._queue.appendleft(work)
                break
            batch.append((work, work.waiting.popleft()))
            tokens += length
            self._waiting_tokens -= length
            self._queue.append(work)
        self._queue.extendleft(reversed(others))
        return batch
