"""Vectors of the texts of a pair table: each text is encoded once, a query with its own instruction."""

from collections.abc import Iterable, Sequence

import numpy as np

from components.model.embedder import Embedder
from components.monitor import Monitor


def encode_queries(
    embedder: Embedder,
    queries: Sequence[str],
    instructions: Sequence[str | None],
    tokens_per_batch: int,
    monitor: Monitor,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode each query and instruction once; where the instruction is None the model's own holds.

    Returns: unit vectors float32 [unique, D] and, for every query, its row in them int64 [N].
    """
    keys = list(zip(queries, instructions, strict=True))
    unique = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    token_ids: list[list[int]] = [[]] * len(unique)
    for instruction in dict.fromkeys(instructions):
        mine = [(text, row) for (text, own), row in unique.items() if own == instruction]
        tokens = embedder.tokenize([text for text, _ in mine], "query", instruction)
        for (_, row), ids in zip(mine, tokens, strict=True):
            token_ids[row] = ids
    vectors_UD = embedder.encode_tokens(token_ids, tokens_per_batch, monitor)
    return _unit(vectors_UD), np.array([unique[key] for key in keys], dtype=np.int64)


def encode_documents(
    embedder: Embedder, texts: Iterable[str], tokens_per_batch: int, monitor: Monitor
) -> tuple[np.ndarray, dict[str, int]]:
    """Encode each text once.

    Returns: unit vectors float32 [unique, D], in the order of the texts, and the row of every text.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors_UD = embedder.encode(list(rows), "document", None, tokens_per_batch, monitor)
    return _unit(vectors_UD), rows


def cosines(left_ND: np.ndarray, right_ND: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors, row by row, float32 [N]."""
    return np.einsum("nd,nd->n", left_ND, right_ND)


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Length 1, also where the model's own vectors are not normalised."""
    norms_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.maximum(norms_N, 1e-12)
