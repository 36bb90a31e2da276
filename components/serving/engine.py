"""What computes in a replica, behind one interface: token ids in, rows out.

The torch engines run the model's own `Embedder` and `Reranker`, the code that the evaluator uses, so that what
is served and what was measured are the same.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from components.model.embedder import ComputePrecision
from components.model.reranker_file import scorer_id
from components.model.spec import EncodingSpec
from components.monitor import Silent
from components.serving.calls import Call, EmbedCall, Kind, Refusal, ScoreCall, Served
from components.serving.release import Release, fetch
from components.serving.verify import load_verified, load_verified_reranker

EngineName = Literal["torch", "vllm"]

_CPU_STREAMS = 2
"""Batches that torch computes side by side on a CPU, each on its share of the threads. Two threads with a batch each do
1.1 to 1.3 times what two do on one batch: they need not wait for one another, nor stop while the next batch is made."""


@dataclass(frozen=True)
class EngineOptions:
    """How a replica computes.

    Attributes:
        engine: None: vLLM where there is a GPU and vLLM knows the model, torch else.
        precision: None: bfloat16 on a GPU, float32 on a CPU. int8 is torch's, on a CPU.
        threads: torch threads of the process; 0: one a CPU of the machine.
        tokens_per_pass: padded tokens in one forward pass of the torch engine.
        gpu_memory: share of a GPU's memory that vLLM takes for one version. Embedder, reranker and a version that is
            loaded beside one of them have to fit.
    """

    engine: EngineName | None = None
    precision: ComputePrecision | None = None
    threads: int = 0
    tokens_per_pass: int = 2048
    gpu_memory: float = 0.3


class Engine(Protocol):
    """One loaded model version. `read` and `compute` block.

    `read` is called from one thread at a time, `compute` from as many as there are `streams`.
    """

    served: Served
    streams: int

    def refuse(self, call: Call) -> Refusal | None:
        """Why a call cannot be met by this model; None if it can."""
        ...

    def read(self, call: Call) -> list[Any]:
        """What the model reads of a call, an item a row: templates and special tokens included, cut."""
        ...

    def length(self, item: Any) -> int:
        """Tokens of an item."""
        ...

    def compute(self, items: Sequence[Any]) -> np.ndarray:
        """A row an item: a normalised vector float32 [D], or a probability float32 []."""
        ...


def load_engine(release: Release, options: EngineOptions) -> Engine:
    """Fetch, verify and load a release.

    Raises:
        ModelRefusedError: unsafe files, another digest, or not the golden vectors or scores.
    """
    directory = fetch(release)
    has_gpu = torch.cuda.is_available()
    precision: ComputePrecision = options.precision or ("bfloat16" if has_gpu else "float32")
    in_vllm = options.engine == "vllm" or (
        options.engine is None and has_gpu and find_spec("vllm") is not None
    )
    if in_vllm and precision != "int8":
        # Here, and not above: where it is not used it need not be installed.
        from components.serving import vllm_engine

        if release.kind == "embedding" and vllm_engine.embeds_in_vllm(directory):
            return vllm_engine.VllmEmbedder(release, directory, precision, options)
        if release.kind == "reranker" and vllm_engine.reranks_in_vllm(directory):
            return vllm_engine.VllmReranker(release, directory, precision, options)
    # Also where vLLM was asked for and cannot do it: GET /v1/models says what computes.
    # Ray gives a worker as many threads as it reserves CPUs; a replica may use what the machine has.
    threads = options.threads or os.cpu_count() or 1
    device = "cuda" if has_gpu and precision != "int8" else "cpu"
    streams = min(threads, _CPU_STREAMS) if device == "cpu" else 1
    torch.set_num_threads(ceil(threads / streams))
    if release.kind == "reranker":
        return TorchReranker(release, directory, precision, device, streams, options.tokens_per_pass)
    return TorchEmbedder(release, directory, precision, device, streams, options.tokens_per_pass)


class TorchEmbedder:
    """An embedding model in torch, in this process."""

    def __init__(
        self,
        release: Release,
        directory: Path,
        precision: ComputePrecision,
        device: str,
        streams: int,
        tokens_per_pass: int,
    ) -> None:
        self._embedder = load_verified(directory, release, precision, device)
        self.streams = streams
        self._tokens_per_pass = tokens_per_pass
        self.spec = self._embedder.spec
        self.served = served(
            release,
            "embedding",
            self.spec.space_id(release.digest),
            self.spec.dimensions,
            f"torch {precision}",
        )

    def refuse(self, call: Call) -> Refusal | None:
        return refuse_call(call, self.spec, self._embedder.vocabulary_size)

    def read(self, call: Call) -> list[list[int]]:
        assert isinstance(call, EmbedCall)
        return call.token_ids or self._embedder.tokenize(call.texts, call.side, call.instruction)

    def length(self, item: list[int]) -> int:
        return len(item)

    def compute(self, items: Sequence[list[int]]) -> np.ndarray:
        return self._embedder.encode_tokens(list(items), self._tokens_per_pass)


class TorchReranker:
    """A reranker in torch, in this process."""

    def __init__(
        self,
        release: Release,
        directory: Path,
        precision: ComputePrecision,
        device: str,
        streams: int,
        tokens_per_pass: int,
    ) -> None:
        self._reranker = load_verified_reranker(directory, release, precision, device)
        self.streams = streams
        self._tokens_per_pass = tokens_per_pass
        identity = scorer_id(release.digest, self._reranker.tokenize.digest())
        self.served = served(release, "reranker", identity, None, f"torch {precision}")

    def refuse(self, call: Call) -> Refusal | None:
        return refuse_call(call, None, 0)

    def read(self, call: Call) -> list[Any]:
        assert isinstance(call, ScoreCall)
        instructions = [call.instruction] * len(call.queries)
        return self._reranker.tokenize(call.queries, call.documents, instructions)

    def length(self, item: Any) -> int:
        return len(item.ids)

    def compute(self, items: Sequence[Any]) -> np.ndarray:
        return self._reranker.score_tokens(items, self._tokens_per_pass, Silent())


def served(release: Release, kind: Kind, space_id: str, dimensions: int | None, engine: str) -> Served:
    """What an engine that has just loaded a release answers as."""
    return Served(release.model, release.version, kind, space_id, dimensions, engine, int(time.time()))


def refuse_call(call: Call, spec: EncodingSpec | None, vocabulary_size: int) -> Refusal | None:
    """Why a model cannot meet a call: another kind of call, too many dimensions, token ids that it cannot read.

    Args:
        spec: None for a reranker.
        vocabulary_size: token ids are below it.
    """
    if isinstance(call, EmbedCall) != (spec is not None):
        task = "scores pairs: ask /v1/rerank or /score" if spec is None else "embeds: ask /v1/embeddings"
        return Refusal(400, f"This model {task}.", "invalid_value", "model")
    if isinstance(call, ScoreCall) or spec is None:
        return None
    if call.dimensions and call.dimensions > spec.dimensions:
        message = f"dimensions must be at most {spec.dimensions}, not {call.dimensions}."
        return Refusal(400, message, "invalid_value", "dimensions")
    longest = spec.length(call.side)
    for index, ids in enumerate(call.token_ids):
        if len(ids) > longest:
            message = f"input[{index}] has {len(ids)} tokens; the model reads at most {longest}."
            return Refusal(400, message, "context_length_exceeded", "input")
        if max(ids) >= vocabulary_size:
            message = f"input[{index}] has token id {max(ids)}; the vocabulary ends at {vocabulary_size - 1}."
            return Refusal(400, message, "invalid_value", "input")
    return None
