"""One vector from the hidden states of a text. Padding may stand on either side."""

from collections.abc import Callable

import torch
from torch import Tensor

from components.model.spec import Pooling


def mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the real tokens [B, D]."""
    # where, not a product: a position that attends to nothing may hold NaN, and NaN * 0 is NaN
    kept_BTD = torch.where(mask_BT.bool().unsqueeze(-1), hidden_BTD, 0)
    return kept_BTD.sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)


def cls(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """State of the first real token [B, D]."""
    return _at(hidden_BTD, mask_BT.int().argmax(1))


def last(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """State of the last real token [B, D]: of the end token, where the tokenizer appends one."""
    return _at(hidden_BTD, mask_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(1))


def _at(hidden_BTD: Tensor, position_B: Tensor) -> Tensor:
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), position_B]


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "cls": cls, "last": last}
