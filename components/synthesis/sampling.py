"""How the writer draws its words: what every engine understands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Of each call.

    Attributes:
        max_tokens: of one answer.
        seed: of the step; a row has its own, drawn from it.
    """

    temperature: float
    top_p: float
    frequency_penalty: float
    max_tokens: int
    seed: int
