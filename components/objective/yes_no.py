"""Losses of a reranker: what it says to a query and each of its documents, against labels or a teacher's scores.

z is the logit of the score, z_yes - z_no of a language model, so that the score is sigmoid(z).
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def full_vocabulary_loss(logits_BV: Tensor, token_B: Tensor) -> Tensor:
    """-log p(token) for each row [B], float32, of the logits at the last position alone."""
    return cross_entropy(logits_BV.float(), token_B, reduction="none")


def two_way_loss(z_B: Tensor, label_B: Tensor) -> Tensor:
    """-log p(label) of yes against no for each row [B], float32; labels in [0, 1]."""
    return binary_cross_entropy_with_logits(z_B.float(), label_B.float(), reduction="none")


def listwise_loss(z_N: Tensor, target_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Cross-entropy of targets with the softmax of z over the documents of each query [groups], float32.

    Args:
        z_N: divided by the temperature.
        target_N: shares of the documents of a query, which add up to 1.
        group_N: int64, the query that a document belongs to, below `groups`; each has at least one.
    """
    log_share_N = _grouped_log_softmax(z_N, group_N, groups)
    return log_share_N.new_zeros(groups).index_add(0, group_N, -target_N * log_share_N)


def softmax_targets(score_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Shares of the documents of each query by a teacher's logits [N], float32."""
    return _grouped_log_softmax(score_N, group_N, groups).exp()


def label_targets(label_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Shares of the documents of each query by their labels [N], float32; one label of each is above 0."""
    label_N = label_N.float()
    return label_N / label_N.new_zeros(groups).index_add(0, group_N, label_N)[group_N]


def _grouped_log_softmax(values_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """log of the shares within each group [N], float32; every group has one value at least."""
    top = torch.full((groups,), -torch.inf, device=values_N.device)
    top = top.scatter_reduce(0, group_N, values_N.detach().float(), "amax")
    below_N = values_N.float() - top[group_N]
    return below_N - below_N.new_zeros(groups).index_add(0, group_N, below_N.exp()).log()[group_N]
