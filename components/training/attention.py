"""Attention for training on a CPU: matrix products whose backward keeps two matrices and overwrites the rest.

torch's fused attention takes 1.6 times as long backward here, and transformers' plain one writes twice as many
matrices of all pairs of positions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from components.training.dropout import keep_mask

CPU_ATTENTION = "embedloom_cpu"
"""The name to give to `set_attn_implementation`."""

PLAIN_ATTENTION = frozenset(
    {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "llama", "mistral", "qwen2", "qwen3"}
)
"""Model types whose attention is the softmax of scaled products and a mask, with nothing else in it."""


class _Attention(torch.autograd.Function):
    """softmax(q k^T scaling + mask), dropout, v; all [B, H, T, d]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, p: float
    ) -> Tensor:
        query = query * scaling
        scores = query @ key.transpose(2, 3)
        if mask is not None:
            scores += mask
        weights = torch.softmax(scores, -1, out=scores)
        keep = keep_mask(weights.shape, p, weights.dtype) if p else None
        ctx.save_for_backward(query, key, value, weights, keep)
        ctx.scaling = scaling
        return (weights if keep is None else weights * keep) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, keep = ctx.saved_tensors
        grad = output_grad @ value.transpose(2, 3)
        if keep is not None:
            grad *= keep
        value_grad = (weights if keep is None else weights * keep).transpose(2, 3) @ output_grad
        scores_grad = torch._softmax_backward_data(grad, weights, -1, weights.dtype)
        return (
            (scores_grad @ key) * ctx.scaling,
            scores_grad.transpose(2, 3) @ query,
            value_grad,
            None,
            None,
            None,
        )


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    p = dropout if module.training else 0.0
    output = _Attention.apply(query, key, value, attention_mask, scaling, p)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(CPU_ATTENTION, cpu_attention)
AttentionMaskInterface.register(CPU_ATTENTION, eager_mask)
