"""What passes between the gateway and a service. Plain values, so that the gateway needs no torch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class EmbedCall:
    """What the gateway asks of the embedding service: `texts` or `token_ids`, one of them empty."""

    model: str
    texts: list[str]
    token_ids: list[list[int]]
    side: Literal["query", "document"]
    instruction: str | None
    dimensions: int | None


@dataclass(frozen=True)
class Served:
    """Which version answers.

    Attributes:
        dimensions: full length of its vectors.
        created: when it was loaded, seconds since the epoch.
    """

    model: str
    version: str
    space_id: str
    dimensions: int
    created: int


@dataclass(frozen=True)
class Vectors:
    """float32 [N, dimensions], normalised; `tokens` is what the model read."""

    vectors_ND: np.ndarray
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
