"""What a stage may be trained by, as plain values: without torch, so that a recipe can be checked against them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from components.objective.objective import Objective, objective_from


@dataclass(frozen=True)
class Classification:
    """Sentence-BERT's softmax over (u, v, |u - v|) (arXiv 1908.10084, 3, classification objective).

    Attributes:
        classes: how many. The class of a query and its positive is the pair's score, a number from 0; without one it is
            1. Query and hard negative are of class 0.
    """

    classes: int = 2

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"objective.classes is {self.classes}; it must be at least 2")


@dataclass(frozen=True)
class Regression:
    """Sentence-BERT's regression of the cosine on a score (arXiv 1908.10084, 3, regression objective).

    Attributes:
        lowest, highest: scores whose cosines are to be 0 and 1. A pair without a score has the highest, query and hard
            negative the lowest.
    """

    lowest: float = 0.0
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise ValueError(f"objective.lowest is {self.lowest}; it must be below highest, {self.highest}")


@dataclass(frozen=True)
class Reconstruction:
    """RetroMAE (arXiv 2205.12035): the text is rebuilt from its vector and from a masked copy of itself.

    Attributes:
        encoder_masked: share of the tokens that the encoder does not see and is trained to tell.
        decoder_masked: share of the other tokens that the decoder does not see when it tells one.
    """

    encoder_masked: float = 0.3
    decoder_masked: float = 0.5

    def __post_init__(self) -> None:
        for name in ("encoder_masked", "decoder_masked"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; it must lie between 0 and 1")


AnyObjective = Objective | Classification | Regression | Reconstruction

KINDS: dict[str, type] = {
    "contrastive": Objective,
    "classification": Classification,
    "regression": Regression,
    "reconstruction": Reconstruction,
}


def any_objective_from(config: Mapping[str, Any]) -> AnyObjective:
    """What a recipe names: a `kind` (default `contrastive`) and its fields.

    Raises:
        ValueError: an unknown kind or field, or a value out of range.
    """
    values = dict(config)
    kind = values.pop("kind", "contrastive")
    if kind not in KINDS:
        raise ValueError(f"objective.kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if kind == "contrastive":
        return objective_from(values)
    known = [field.name for field in fields(KINDS[kind])]
    for name in values:
        if name not in known:
            raise ValueError(f"objective.{name} is not a field of {kind}; the fields are {known}")
    return KINDS[kind](**values)
