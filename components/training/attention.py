"""Attention for training on a CPU: no matrix of all pairs of positions is kept for backward or leaves the cache."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from components.training.dropout import draw, keep_mask

PIECE = 2**19
"""Cells of the matrices of a piece: 2 MiB in float32."""

CPU_ATTENTION = "embedloom_cpu"
"""The name to give to `set_attn_implementation`."""

PLAIN_ATTENTION = frozenset(
    {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "llama", "mistral", "qwen2", "qwen3"}
)
"""Model types whose attention is the softmax of scaled products and a mask, with nothing else in it."""


class _Attention(torch.autograd.Function):
    """softmax(q k^T scaling + mask), dropout, v; all [B, H, T, d].

    Goes through the heads in pieces whose matrices of all pairs of positions stay in the processor's cache, and
    keeps none of them: backward computes each again. What dropout drew is kept, two bytes a cell.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, p: float
    ) -> Tensor:
        draws = draw(torch.Size((*query.shape[:3], key.shape[2]))) if p else None
        ctx.save_for_backward(query, key, value, mask, draws)
        ctx.scaling, ctx.p = scaling, p
        output = torch.empty_like(query)
        for at in _pieces(query):
            weights = _weights(query[at], key[at], mask, at, scaling)
            if draws is not None:
                weights.mul_(keep_mask(draws[at], p, weights.dtype))
            output[at] = weights @ value[at]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, draws = ctx.saved_tensors
        query_grad, key_grad, value_grad = (torch.empty_like(each) for each in (query, key, value))
        for at in _pieces(query):
            weights = kept = _weights(query[at], key[at], mask, at, ctx.scaling)
            grad = output_grad[at] @ value[at].transpose(2, 3)
            if draws is not None:
                keep = keep_mask(draws[at], ctx.p, weights.dtype)
                grad.mul_(keep)
                kept = keep.mul_(weights)
            value_grad[at] = kept.transpose(2, 3) @ output_grad[at]
            grad = torch._softmax_backward_data(grad, weights, -1, weights.dtype)
            query_grad[at] = (grad @ key[at]).mul_(ctx.scaling)
            key_grad[at] = (grad.transpose(2, 3) @ query[at]).mul_(ctx.scaling)
        return query_grad, key_grad, value_grad, None, None, None


def _pieces(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Texts and heads to take at once."""
    B, H, T, _ = query.shape
    heads = min(H, max(1, PIECE // T**2))
    texts = max(1, PIECE // (H * T**2))
    for text in range(0, B, texts):
        for head in range(0, H, heads):
            yield slice(text, text + texts), slice(head, head + heads)


def _weights(
    query: Tensor, key: Tensor, mask: Tensor | None, at: tuple[slice, slice], scaling: float
) -> Tensor:
    """The attention weights of a piece, before dropout."""
    scores = (query * scaling) @ key.transpose(2, 3)
    if mask is not None:
        scores += mask[at[0]]
    return torch.softmax(scores, -1, out=scores)


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
