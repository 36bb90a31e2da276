"""Attention for training on a CPU: no matrix of all pairs of positions is kept for backward or leaves the cache."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from components.training.dropout import draw, keep_mask, keep_scale

PIECE = 2**19
"""Cells of the matrices of a piece: 2 MiB in float32."""

CPU_ATTENTION = "embedloom_cpu"
"""The name to give to `set_attn_implementation`."""


class _Attention(torch.autograd.Function):
    """softmax(q k^T scaling + mask), dropout, v; all [B, H, T, d], one matrix of heads after the other.

    Goes through the heads in pieces whose matrices of all pairs of positions stay in the processor's cache, and
    keeps none of them: backward computes each again. What dropout drew is kept, two bytes a cell.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, p: float
    ) -> Tensor:
        B, H, T, d = query.shape
        query, key, value = (each.reshape(B * H, -1, d) for each in (query, key, value))
        draws = draw(torch.Size((B * H, T, key.shape[1]))) if p else None
        ctx.save_for_backward(query, key, value, mask, draws)
        ctx.scaling, ctx.p = scaling, p
        output = torch.empty_like(query)
        for heads, texts in _pieces(B, H, T):
            weights = _weights(query[heads], key[heads], mask, texts, scaling)
            if draws is not None:
                weights.mul_(keep_mask(draws[heads], p, weights.dtype))
            torch.bmm(weights, value[heads], out=output[heads])
        return output.mul_(keep_scale(p)).view(B, H, T, d)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, draws = ctx.saved_tensors
        B, H, T, _ = output_grad.shape
        output_grad = output_grad.reshape(query.shape) * keep_scale(ctx.p)
        query_grad, key_grad, value_grad = (torch.empty_like(each) for each in (query, key, value))
        for heads, texts in _pieces(B, H, T):
            weights = kept = _weights(query[heads], key[heads], mask, texts, ctx.scaling)
            grad = torch.bmm(output_grad[heads], value[heads].transpose(1, 2))
            if draws is not None:
                keep = keep_mask(draws[heads], ctx.p, weights.dtype)
                grad.mul_(keep)
                kept = keep.mul_(weights)
            torch.bmm(kept.transpose(1, 2), output_grad[heads], out=value_grad[heads])
            grad = torch._softmax_backward_data(grad, weights, -1, weights.dtype)
            torch.bmm(grad, key[heads], out=query_grad[heads])
            torch.bmm(grad.transpose(1, 2), query[heads], out=key_grad[heads])
        grads = (query_grad.mul_(ctx.scaling), key_grad.mul_(ctx.scaling), value_grad)
        return *(each.view(B, H, -1, each.shape[-1]) for each in grads), None, None, None


def _pieces(B: int, H: int, T: int) -> Iterator[tuple[slice, slice]]:
    """What to take at once of B * H heads, and the texts that they are of: some of one, or all of several."""
    most = max(1, PIECE // T**2)
    if most >= H:
        for text in range(0, B, most // H):
            end = min(B, text + most // H)
            yield slice(text * H, end * H), slice(text, end)
        return
    most = math.ceil(H / math.ceil(H / most))  # the last piece is not a small rest
    for text in range(B):
        for head in range(0, H, most):
            yield slice(text * H + head, text * H + min(H, head + most)), slice(text, text + 1)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, texts: slice, scaling: float) -> Tensor:
    """The attention weights of a piece, before dropout."""
    if mask is None:
        scores = torch.bmm(query * scaling, key.transpose(1, 2))
    else:
        mask = mask[texts]
        heads = len(query) // len(mask)
        # Of one text the mask is a view; of several it is small, as T is.
        each = mask[0].expand(heads, -1, -1) if len(mask) == 1 else mask.repeat(1, heads, 1, 1).flatten(0, 1)
        scores = torch.baddbmm(each, query, key.transpose(1, 2), alpha=scaling)
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
