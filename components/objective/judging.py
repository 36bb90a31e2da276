"""How a reranker is trained: which loss, as plain values (`yes_no.py` computes it)."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

RankingLoss = Literal["full_vocabulary", "two_way", "listwise", "distillation"]
LabelWeights = Literal["balanced", "equal"]


@dataclass(frozen=True)
class Judging:
    """How a reranker is trained.

    Attributes:
        loss:
            `full_vocabulary`: -log p(label | prompt) over the whole vocabulary at the last position, Eq. 2 of the
            Qwen3-Embedding paper (arXiv 2506.05176); of a language model alone.
            `two_way`: the same over yes and no alone, which is the binary cross-entropy of z.
            `listwise`: -log of the positive's share in the softmax of z over the documents of its query
            (localized contrastive estimation, arXiv 2101.08751).
            `distillation`: cross-entropy of that softmax with a teacher's over the same documents (ListNet's
            top-one probabilities, Cao et al. 2007).
        temperature: z, and the teacher's, are divided by it; `listwise` and `distillation`.
        label_weights: of the two losses that go document by document. `balanced`: yes and no count alike
            whatever their numbers; `equal`: every document does.

    Raises:
        ValueError: a value that cannot be used.
    """

    loss: RankingLoss = "full_vocabulary"
    temperature: float = 1.0
    label_weights: LabelWeights = "balanced"

    def __post_init__(self) -> None:
        for name, choice in (("loss", RankingLoss), ("label_weights", LabelWeights)):
            if getattr(self, name) not in get_args(choice):
                raise ValueError(
                    f"objective.{name} is {getattr(self, name)!r}; it must be one of {get_args(choice)}"
                )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"objective.temperature is {self.temperature}; it must be above 0")

    @property
    def is_listwise(self) -> bool:
        """Whether the documents of a query are judged against one another."""
        return self.loss in ("listwise", "distillation")


def judging_from(fields: dict[str, Any]) -> Judging:
    """From the fields of a recipe. Raises ValueError for one that is not known."""
    unknown = sorted(fields.keys() - Judging.__dataclass_fields__.keys())
    if unknown:
        raise ValueError(f"objective.{unknown[0]} is not a field of a reranker's objective")
    return Judging(**fields)
