"""What computes vectors in a replica, behind one small interface.

`TorchEngine` runs the model's own `Embedder`, the code that the evaluator uses, so that served and offline
vectors are the same. An engine for a GPU (vLLM) is another class with these members.
"""

import os
import time
from typing import Protocol

import numpy as np
import torch

from components.model.spec import EncodingSpec, Side
from components.serving.release import Release, fetch
from components.serving.verify import load_verified


class Engine(Protocol):
    """One loaded model version. `tokenize` and `encode` block; call each from one thread at a time.

    Attributes:
        loaded_at: seconds since the epoch.
        vocabulary_size: token ids are below it.
    """

    release: Release
    spec: EncodingSpec
    space_id: str
    loaded_at: float
    vocabulary_size: int

    def tokenize(self, texts: list[str], side: Side, instruction: str | None) -> list[list[int]]:
        """Token ids, templates and end token included, cut to the side's length."""
        ...

    def encode(self, token_ids: list[list[int]]) -> np.ndarray:
        """Normalised vectors float32 [N, D], in the order of the texts."""
        ...


class TorchEngine:
    """A model in torch, in this process.

    Args:
        release: the version to load; fetched if it is not on this machine.
        threads: torch threads of the whole process; 0: one a CPU of the machine.
        tokens_per_pass: padded tokens in one forward pass.

    Raises:
        ModelRefusedError: its digest or golden vectors differ.
    """

    def __init__(self, release: Release, threads: int = 0, tokens_per_pass: int = 2048) -> None:
        # Ray gives a worker as many threads as it reserves CPUs; a replica may use what the machine has.
        torch.set_num_threads(threads or os.cpu_count() or 1)
        self._embedder = load_verified(fetch(release), release)
        self._tokens_per_pass = tokens_per_pass
        self.release = release
        self.spec = self._embedder.spec
        self.space_id = self.spec.space_id(release.digest)
        self.loaded_at = time.time()
        self.vocabulary_size = self._embedder.vocabulary_size

    def tokenize(self, texts: list[str], side: Side, instruction: str | None) -> list[list[int]]:
        return self._embedder.tokenize(texts, side, instruction)

    def encode(self, token_ids: list[list[int]]) -> np.ndarray:
        return self._embedder.encode_tokens(token_ids, self._tokens_per_pass)
