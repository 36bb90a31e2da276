"""What passes between the gateway and a service. Plain values, so that the gateway needs no torch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["embedding", "reranker"]


@dataclass(frozen=True)
class EmbedCall:
    """Vectors are wanted of `texts` or of `token_ids`, one of them empty."""

    texts: list[str]
    token_ids: list[list[int]]
    side: Literal["query", "document"]
    instruction: str | None
    dimensions: int | None


@dataclass(frozen=True)
class ScoreCall:
    """Scores are wanted of `queries[i]` with `documents[i]`."""

    queries: list[str]
    documents: list[str]
    instruction: str | None


Call = EmbedCall | ScoreCall


@dataclass(frozen=True)
class Served:
    """Which version answers.

    Attributes:
        space_id: of an embedder's vectors (`EncodingSpec.space_id`), or of a reranker's scores.
        dimensions: full length of an embedder's vectors; None for a reranker.
        engine: what computes, and in which precision.
        created: when it was loaded, seconds since the epoch.
    """

    model: str
    version: str
    kind: Kind
    space_id: str
    dimensions: int | None
    engine: str
    created: int


@dataclass(frozen=True)
class Vectors:
    """float32 [N, dimensions], normalised; `tokens` is what the model read."""

    vectors_ND: np.ndarray
    tokens: int
    served: Served


@dataclass(frozen=True)
class Scores:
    """Probabilities float32 [N]; `tokens` is what the model read."""

    scores_N: np.ndarray
    tokens: int
    served: Served


@dataclass(frozen=True)
class Refusal:
    """A request that cannot be met, as HTTP status and OpenAI's error fields.

    A value and not an exception: it crosses processes without a trace.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None


Reply = Vectors | Scores | Refusal
