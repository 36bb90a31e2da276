"""The service behind the gateway: a Ray Serve deployment that holds one version of one model.

Every version is a Serve application of its own. So another one is loaded beside it without touching it, and
what cannot be loaded (or takes the memory of its process) takes nothing else with it.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from components.serving.batcher import OverloadedError, TokenBatcher
from components.serving.calls import Call, EmbedCall, Refusal, Reply, Scores, Served, Vectors
from components.serving.release import Release

if TYPE_CHECKING:
    from components.serving.engine import Engine

_READ_ITEMS, _READ_CHARACTERS = 64, 100_000
"""So much of a call is tokenized at once, a few milliseconds."""


class ModelService:
    """One replica of one model version.

    Args:
        release: the fields of a `Release`.
        engine: the fields of `EngineOptions`.
        tokens_per_batch: tokens computed together.
        max_waiting_tokens: waiting tokens above which requests are turned away with 429.
        max_wait_s: so is a request that would wait longer than this.
        max_request_tokens: a request of more is refused, so that what is admitted is computed in time.
        max_memory_gib: what the process may take beside what it holds at its start; 0: no limit. A version that needs
            more to load is refused, in place of the machine killing a neighbour.
    """

    def __init__(
        self,
        release: dict[str, Any],
        engine: dict[str, Any],
        tokens_per_batch: int,
        max_waiting_tokens: int,
        max_wait_s: float,
        max_request_tokens: int,
        max_memory_gib: float = 0.0,
    ) -> None:
        # So long the event loop waits for a thread that computes to let go of the interpreter: a tenth of the default.
        sys.setswitchinterval(0.0005)
        self._max_request_tokens = max_request_tokens
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._engine = _load(release, engine, max_memory_gib)
        self._batcher = TokenBatcher(
            self._engine.compute, self._engine.streams, tokens_per_batch, max_waiting_tokens, max_wait_s
        )

    async def served(self) -> Served:
        return self._engine.served

    async def answer(self, call: Call) -> Reply:
        """Vectors or scores of one request, read in parts so that others have a turn between them."""
        if refusal := self._engine.refuse(call):
            return refusal
        items: list[Any] = []
        for part in _parts(call):
            if refusal := self._refuse():
                return refusal
            items += (await self._read([part]))[0]
        return await self._compute(call, items)

    async def answer_each(self, calls: list[Call]) -> list[Reply]:
        """The replies to small calls that were sent together, read together so that they are computed together."""
        if refusal := self._refuse():
            return [refusal] * len(calls)
        refusals = [self._engine.refuse(call) for call in calls]
        taken = [call for call, refusal in zip(calls, refusals, strict=True) if refusal is None]
        read = await self._read(taken)
        replies = iter(await asyncio.gather(*map(self._compute, taken, read)))
        return [refusal or next(replies) for refusal in refusals]

    def _refuse(self) -> Refusal | None:
        """Before texts are tokenized: an overloaded service says so at once."""
        try:
            self._batcher.check_room()
        except OverloadedError as error:
            return _busy(error)
        return None

    async def _read(self, calls: list[Call]) -> list[list[Any]]:
        """What the model reads of calls, off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, lambda: [self._engine.read(call) for call in calls])

    async def _compute(self, call: Call, items: list[Any]) -> Reply:
        lengths = [self._engine.length(item) for item in items]
        if sum(lengths) > self._max_request_tokens:
            return _too_many(call, sum(lengths), self._max_request_tokens)
        try:
            rows = await self._batcher.run(items, lengths)
        except OverloadedError as error:
            return _busy(error)
        served = self._engine.served
        if isinstance(call, EmbedCall):
            return Vectors(_prefix(rows, call.dimensions), sum(lengths), served)
        return Scores(rows, sum(lengths), served)


def _parts(call: Call) -> Iterator[Call]:
    """A call as several, in order."""
    start = characters = 0
    texts = call.texts if isinstance(call, EmbedCall) else call.documents
    for index, text in enumerate(texts):
        if index > start and (index - start >= _READ_ITEMS or characters + len(text) > _READ_CHARACTERS):
            yield _part(call, slice(start, index))
            start, characters = index, 0
        characters += len(text)
    yield _part(call, slice(start, None))


def _part(call: Call, rows: slice) -> Call:
    if isinstance(call, EmbedCall):
        return replace(call, texts=call.texts[rows], token_ids=call.token_ids[rows])
    return replace(call, queries=call.queries[rows], documents=call.documents[rows])


def _busy(error: OverloadedError) -> Refusal:
    message = f"The service is busy: {error}. Try again later."
    return Refusal(429, message, "rate_limit_exceeded", retry_after_s=error.retry_after_s)


def _too_many(call: Call, tokens: int, limit: int) -> Refusal:
    param = "input" if isinstance(call, EmbedCall) else "documents"
    message = f"The request holds {tokens:,} tokens; at most {limit:,} go into one request. Send fewer texts."
    return Refusal(400, message, "max_tokens_per_request", param)


def _prefix(vectors_ND: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first `dimensions` of each vector, at unit length again."""
    if not dimensions or dimensions >= vectors_ND.shape[1]:
        return vectors_ND
    prefix_ND = vectors_ND[:, :dimensions]
    return prefix_ND / np.linalg.norm(prefix_ND, axis=1, keepdims=True).clip(min=1e-12)


def _load(release: dict[str, Any], engine: dict[str, Any], max_memory_gib: float) -> "Engine":
    # Before torch is there to read it. Each number of tokens has products of its own, some 0.3 MB each, of which oneDNN
    # keeps 1,024 otherwise; a pass needs four.
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")

    # Here, and not above: Serve imports this module to build the application, which needs no torch.
    import resource

    from components.serving.engine import EngineOptions, load_engine

    # After torch is imported: the limit is for the model.
    if max_memory_gib:
        with open("/proc/self/status") as status:
            held_kib = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        limit = held_kib * 1024 + int(max_memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return load_engine(Release(**release), EngineOptions(**engine))
