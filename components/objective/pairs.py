"""Losses of single pairs of texts: Sentence-BERT's softmax and its regression of the cosine (arXiv 1908.10084, 3).

Shapes: B rows, M hard negatives of all rows together, N = B + M pairs, D dimensions, C classes.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from components.objective.batch_loss import BatchLoss
from components.objective.kinds import Classification, Regression


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of one batch, and what is known of them.

    Attributes:
        left_ND, right_ND: float vectors of the two texts of a pair.
        score_N: float; NaN where nothing is known but that they belong together.
        negative_N: bool, whether they do not belong together; their score is not looked at.
    """

    left_ND: torch.Tensor
    right_ND: torch.Tensor
    score_N: torch.Tensor
    negative_N: torch.Tensor


def scored_pairs(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    negative_MD: torch.Tensor,
    negative_row_M: torch.Tensor,
    score_B: torch.Tensor,
) -> ScoredPairs:
    """Each query with its positive, and with each of its hard negatives."""
    M = len(negative_MD)
    return ScoredPairs(
        left_ND=torch.cat([query_BD, query_BD[negative_row_M]]),
        right_ND=torch.cat([positive_BD, negative_MD]),
        score_N=torch.cat([score_B, score_B.new_full((M,), float("nan"))]),
        negative_N=torch.arange(len(score_B) + M, device=score_B.device) >= len(score_B),
    )


class PairClassifier(nn.Module):
    """The logits of a pair's class, [N, C]: W (u, v, |u - v|), no bias.

    The vectors come in with length 1; they are scaled to components of mean square 1, as the layer-normalised states
    of a backbone have them, so that the softmax starts where Sentence-BERT's does.
    """

    def __init__(self, dimensions: int, classes: int) -> None:
        super().__init__()
        self.weight_CD = nn.Parameter(torch.empty(classes, 3 * dimensions))
        nn.init.normal_(self.weight_CD, std=0.02)

    def forward(self, left_ND: torch.Tensor, right_ND: torch.Tensor) -> torch.Tensor:
        scale = left_ND.shape[1] ** 0.5
        both = torch.cat([left_ND, right_ND, (left_ND - right_ND).abs()], dim=1)
        return (both * scale) @ self.weight_CD.T


def check_scores(score_N: torch.Tensor, objective: Classification | Regression) -> None:
    """Refuse scores that an objective cannot use; NaN, where there is none, is no such score.

    Raises:
        ValueError: a score is no class, or out of range.
    """
    known_N = score_N[~score_N.isnan()]
    if isinstance(objective, Classification):
        classes = objective.classes
        wrong_N = (known_N != known_N.round()) | (known_N < 0) | (known_N >= classes)
        right = f"with {classes} classes it must be a whole number from 0 to {classes - 1}"
    else:
        low, high = objective.lowest, objective.highest
        wrong_N = (known_N < low) | (known_N > high)
        right = f"it must lie between lowest {low} and highest {high}"
    if wrong_N.any():
        raise ValueError(f"a pair's score is {float(known_N[wrong_N][0])}; {right}")


def classification_loss(
    pairs: ScoredPairs,
    objective: Classification,
    classifier: PairClassifier,
    group: dist.ProcessGroup | None = None,
) -> BatchLoss:
    """Cross-entropy of the pairs' classes, over the workers of `group`.

    Returns:
        statistics: loss, accuracy, rows.

    Raises:
        ValueError: a score is no class.
    """
    check_scores(pairs.score_N[~pairs.negative_N], objective)
    class_N = pairs.score_N.nan_to_num(1.0).masked_fill(pairs.negative_N, 0.0)
    logit_NC = classifier(pairs.left_ND, pairs.right_ND)
    loss_N = cross_entropy(logit_NC, class_N.long(), reduction="none")
    right = (logit_NC.detach().argmax(dim=1) == class_N).sum()
    return _over_workers(loss_N, {"accuracy": right}, group)


def regression_loss(
    pairs: ScoredPairs, objective: Regression, group: dist.ProcessGroup | None = None
) -> BatchLoss:
    """Mean squared difference between cosine and score, the scores brought to 0 to 1; over the workers of `group`.

    Returns:
        statistics: loss, mean_cosine, rows.

    Raises:
        ValueError: a score is out of range.
    """
    check_scores(pairs.score_N[~pairs.negative_N], objective)
    low, high = objective.lowest, objective.highest
    score_N = pairs.score_N.nan_to_num(high).masked_fill(pairs.negative_N, low)
    cosine_N = cosine_similarity(pairs.left_ND, pairs.right_ND)
    loss_N = (cosine_N - (score_N - low) / (high - low)) ** 2
    return _over_workers(loss_N, {"mean_cosine": cosine_N.detach().sum()}, group)


def _over_workers(
    loss_N: torch.Tensor, sums: dict[str, torch.Tensor], group: dist.ProcessGroup | None
) -> BatchLoss:
    own = [torch.tensor(len(loss_N), device=loss_N.device), loss_N.detach().sum(), *sums.values()]
    totals = torch.stack([each.to(torch.float64) for each in own])
    if group is not None:
        dist.all_reduce(totals, group=group)
    rows, loss, *others = totals.tolist()
    means = {name: total / rows for name, total in zip(sums, others, strict=True)}
    return BatchLoss(loss_N.sum() / rows, {"loss": loss / rows, **means, "rows": rows})
