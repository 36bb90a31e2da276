"""The embedding service: a Ray Serve deployment that holds one model version and computes its vectors.

The version stands in Serve's `user_config`, so that another one can be loaded without a new replica:
`reconfigure` loads it beside the old one in a thread and swaps when it has reproduced its golden vectors.
Requests that are under way finish with the version they started with.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from components.serving.batcher import QueueFullError, TokenBatcher
from components.serving.calls import EmbedCall, Refusal, Served, Vectors
from components.serving.release import Release

if TYPE_CHECKING:
    from components.serving.engine import Engine


class EmbeddingService:
    """One replica, one model version.

    Args:
        threads: torch threads; 0: one a CPU of the machine.
        tokens_per_batch: tokens computed together.
        max_waiting_tokens: waiting tokens above which requests are turned away with 429.
    """

    def __init__(self, threads: int, tokens_per_batch: int, max_waiting_tokens: int) -> None:
        self._threads = threads
        # A fast tokenizer keeps its truncation in itself and must not be called from two threads at once.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._batcher = TokenBatcher(self._computing, tokens_per_batch, max_waiting_tokens)
        self._engine: Engine | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the version of `user_config`, the fields of a `Release`; raises if it is refused."""
        # Here, and not above: Serve imports this module to build the application, which needs no torch.
        from components.serving.engine import TorchEngine

        release = Release(**user_config)
        if self._engine is None or self._engine.release != release:
            self._engine = await asyncio.to_thread(TorchEngine, release, self._threads)

    def check_health(self) -> None:
        if self._engine is None:
            raise RuntimeError("no model is loaded")

    async def served(self) -> Served:
        return _served(self._loaded())

    async def embed(self, call: EmbedCall) -> Vectors | Refusal:
        engine = self._loaded()
        served = _served(engine)
        if refusal := _refuse(call, served, engine):
            return refusal
        token_ids = call.token_ids
        if call.texts:
            loop = asyncio.get_running_loop()
            token_ids = await loop.run_in_executor(
                self._tokenizing, engine.tokenize, call.texts, call.side, call.instruction
            )
        try:
            vectors_ND = await self._batcher.encode(engine.encode, token_ids)
        except QueueFullError as error:
            message = f"The service is busy: {error}. Try again in a second."
            return Refusal(429, message, "rate_limit_exceeded")
        if call.dimensions and call.dimensions < served.dimensions:
            vectors_ND = vectors_ND[:, : call.dimensions]
            vectors_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True).clip(min=1e-12)
        return Vectors(vectors_ND, sum(map(len, token_ids)), served)

    def _loaded(self) -> "Engine":
        if self._engine is None:
            raise RuntimeError("no model is loaded")
        return self._engine


def _served(engine: "Engine") -> Served:
    release = engine.release
    return Served(
        model=release.model,
        version=release.version,
        space_id=engine.space_id,
        dimensions=engine.spec.dimensions,
        created=int(engine.loaded_at),
    )


def _refuse(call: EmbedCall, served: Served, engine: "Engine") -> Refusal | None:
    if call.model not in (served.model, f"{served.model}/{served.version}"):
        return Refusal(
            404,
            f"The model '{call.model}' does not exist here; this service answers as '{served.model}'.",
            "model_not_found",
            "model",
        )
    if call.dimensions and call.dimensions > served.dimensions:
        message = f"dimensions must be at most {served.dimensions}, not {call.dimensions}."
        return Refusal(400, message, "invalid_value", "dimensions")
    spec, vocabulary_size = engine.spec, engine.vocabulary_size
    max_tokens = spec.length(call.side)
    for index, ids in enumerate(call.token_ids):
        if len(ids) > max_tokens:
            message = f"input[{index}] has {len(ids)} tokens; the model reads at most {max_tokens}."
            return Refusal(400, message, "context_length_exceeded", "input")
        if max(ids) >= vocabulary_size:
            message = f"input[{index}] has token id {max(ids)}; the vocabulary ends at {vocabulary_size - 1}."
            return Refusal(400, message, "invalid_value", "input")
    return None
