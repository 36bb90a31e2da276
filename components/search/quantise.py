"""Smaller forms of vectors: fewer dimensions, int8, sign bits; and what a form stands for when it is searched.

The codes are those of sentence-transformers' `quantize_embeddings` ("int8", "ubinary"). A code of int8 stands for the
middle of its step, as in FAISS' 8-bit quantizer; a bit stands for +1 or -1, so that the inner product of two vectors of
bits is dimensions - 2 Hamming distance.

Queries stay float32 where they can: int8 costs little then, and of binary the first results, found by Hamming distance,
are put in order by the query's own vector (`rescore`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Precision = Literal["float32", "int8", "binary"]
_STEPS = 255


@dataclass(frozen=True)
class Ranges:
    """Least and greatest value of each dimension, float32 [D], between which int8 has its steps."""

    low_D: np.ndarray
    high_D: np.ndarray

    def steps(self) -> np.ndarray:
        """Width of the steps, float32 [D]; 1 where all values are one."""
        step_D = (self.high_D - self.low_D) / np.float32(_STEPS)
        return np.where(step_D == 0, np.float32(1), step_D)


def cut(vector_ND: np.ndarray, dimensions: int) -> np.ndarray:
    """The first dimensions of unit vectors, of length 1 again."""
    if dimensions == vector_ND.shape[1]:
        return vector_ND
    cut_ND = vector_ND[:, :dimensions]
    return cut_ND / np.maximum(np.linalg.norm(cut_ND, axis=1, keepdims=True), np.float32(1e-12))


def ranges_of(vectors: Iterable[np.ndarray]) -> Ranges:
    """The ranges of vectors that come [N, D] at a time, at least one."""
    low_D = high_D = None
    for vector_ND in vectors:
        least_D, greatest_D = vector_ND.min(axis=0), vector_ND.max(axis=0)
        low_D = least_D if low_D is None else np.minimum(low_D, least_D)
        high_D = greatest_D if high_D is None else np.maximum(high_D, greatest_D)
    assert low_D is not None
    assert high_D is not None
    return Ranges(low_D, high_D)


def to_int8(vector_ND: np.ndarray, ranges: Ranges) -> np.ndarray:
    """int8 [N, D]: the step of each value, 0 to 255, less 128."""
    step_ND = np.floor((vector_ND - ranges.low_D) / ranges.steps())
    return (np.clip(step_ND, 0, _STEPS) - 128).astype(np.int8)


def from_int8(code_ND: np.ndarray, ranges: Ranges) -> np.ndarray:
    """float32 [N, D], off by half a step at most."""
    return (code_ND.astype(np.float32) + np.float32(128.5)) * ranges.steps() + ranges.low_D


def to_bits(vector_ND: np.ndarray) -> np.ndarray:
    """uint8 [N, D / 8]: a bit a dimension, 1 where it is above 0; the first dimension is the highest bit."""
    return np.packbits(vector_ND > 0, axis=1)


def from_bits(code_NB: np.ndarray) -> np.ndarray:
    """float32 [N, 8 B], +1 and -1."""
    return np.unpackbits(code_NB, axis=1).astype(np.float32) * 2 - 1


def rescore(
    query_ND: np.ndarray, document_MD: np.ndarray, indices_NC: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each query's candidates by inner product, equal ones in the order of the candidates.

    Returns: scores float32 [N, k], falling, and indices int64 [N, k].
    """
    scores_NC = np.stack(
        [document_MD[row_C] @ query_D for query_D, row_C in zip(query_ND, indices_NC, strict=True)]
    )
    best_NK = np.argsort(-scores_NC, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores_NC, best_NK, 1), np.take_along_axis(indices_NC, best_NK, 1)
