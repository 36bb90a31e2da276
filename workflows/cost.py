"""What a run of an embedding model will take on this machine: an estimate from arithmetic and a measured rate."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.model.size import model_size

EFFICIENCY = 0.6
"""Share of the matrix-product rate that training reaches on a CPU, and encoding is taken to: all-MiniLM-L6-v2 came to
127 (512 tokens) and 135 GFLOP/s (256) on two CPUs (docs/performance.md, medquad-nih), whose products give 101 to
119 each."""
STEP_SECONDS = 6.0
"""Assumed, of each step beside its arithmetic: a process that imports torch, files, the tracking server."""
DOCUMENTS_A_SECOND = 2000.0
"""Read, compared with one another and split, at least."""
MATRIX, TRIES = 1024, 8


@dataclass(frozen=True)
class Backbone:
    """The size of a model, read from its files without loading it.

    Attributes:
        weights: in the matrices of its layers (`ModelSize.in_products`).
        layers, width: for attention.
        longest: tokens that it takes at most; None: it does not say.
    """

    weights: int
    layers: int
    width: int
    longest: int | None

    def flops(self, tokens: float, length: float) -> float:
        """Of a forward pass over so many tokens, in texts of about this length."""
        return tokens * (2 * self.weights + 4 * self.layers * self.width * length)


@dataclass(frozen=True)
class Work:
    """What a run computes.

    Attributes:
        documents: that are read.
        encoded: texts that are encoded, to mine and to judge.
        encoded_tokens: of them.
        trained: rows of the stages, over all epochs.
        trained_tokens: of their texts.
        length: tokens of a text, about.
        steps: of the DAG.
    """

    documents: int
    encoded: int
    encoded_tokens: float
    trained: int
    trained_tokens: float
    length: float
    steps: int


@dataclass(frozen=True)
class Cost:
    """The estimate, and what it assumes."""

    work: Work
    minutes: float
    gigaflops: float
    """A second, of a matrix product in float32 on all CPUs, measured."""
    cpus: int


def read_backbone(directory: Path) -> Backbone:
    """The size of a transformer by its config.json and the headers of its safetensors files."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    size = model_size(str(directory))
    assert size is not None  # it is on this machine
    return Backbone(
        size.in_products,
        config["num_hidden_layers"],
        config["hidden_size"],
        config.get("max_position_embeddings"),
    )


def matrix_product_rate() -> float:
    """FLOPs a second of a square matrix product in float32, on all CPUs: the best of a few."""
    matrix = np.random.default_rng(0).standard_normal((MATRIX, MATRIX), dtype=np.float32)
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * MATRIX**3 / min(seconds)


def estimate(work: Work, backbone: Backbone, rate: float) -> Cost:
    """A forward pass for a text that is encoded; for one that is trained on backward too, which is two more."""
    tokens = work.encoded_tokens + 3 * work.trained_tokens
    arithmetic = backbone.flops(tokens, work.length) / (rate * EFFICIENCY)
    beside = work.steps * STEP_SECONDS + work.documents / DOCUMENTS_A_SECOND
    return Cost(work, (arithmetic + beside) / 60, rate / 1e9, len(os.sched_getaffinity(0)))
