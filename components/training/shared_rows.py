"""Which documents of a query a decoder reads in one row, behind the prompt and the query that they share.

A row saves the prefix of all its texts but one, and costs attention between tokens that do not see one another, which
is computed and masked. So texts are put together as long as that is less arithmetic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from components.model.pair_tokens import Tokens
from components.model.reranker import Reranker, YesNoReranker
from components.model.shared_prefix import common_prefix


@dataclass(frozen=True)
class Arithmetic:
    """Multiplications of one layer, for a row of T tokens: T * token + T^2 * cell."""

    token: float
    cell: float

    def of(self, tokens: int) -> float:
        return tokens * (self.token + tokens * self.cell)


def arithmetic_of(reranker: Reranker) -> Arithmetic:
    """Of the reranker's layers: each weight once a token; scores and weighted values, each head, once a cell."""
    config = reranker.model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = sum(parameter.numel() for parameter in reranker.blocks()[0].parameters())
    return Arithmetic(float(weights), 2.0 * width * config.num_attention_heads)


def rows_of(reranker: Reranker, pairs: Sequence[Tokens], row_N: np.ndarray, most: int) -> list[np.ndarray]:
    """Numbers of the texts of each row; one text a row where the reranker's attention takes no more.

    Args:
        row_N: the query that a text belongs to, ascending.
        most: tokens of a row; one text may be longer.
    """
    if not (isinstance(reranker, YesNoReranker) and reranker.shares_prefixes):
        return [np.array([text]) for text in range(len(pairs))]
    arithmetic = arithmetic_of(reranker)
    return [
        np.array(texts)
        for query in np.unique(row_N)
        for texts in _together(arithmetic, pairs, np.flatnonzero(row_N == query).tolist(), most)
    ]


def _together(
    arithmetic: Arithmetic, pairs: Sequence[Tokens], texts: list[int], most: int
) -> list[list[int]]:
    rows = [texts[:1]]
    for text in texts[1:]:
        alone, before = len(pairs[text].ids), tokens_of(pairs, rows[-1])
        after = tokens_of(pairs, [*rows[-1], text])
        if after <= most and arithmetic.of(after) < arithmetic.of(before) + arithmetic.of(alone):
            rows[-1].append(text)
        else:
            rows.append([text])
    return rows


def tokens_of(pairs: Sequence[Tokens], texts: Iterable[int]) -> int:
    """Tokens of a row of such texts."""
    ids = [pairs[text].ids for text in texts]
    return sum(map(len, ids)) - (len(ids) - 1) * common_prefix(ids)
