"""Linear layers in int8 on a CPU: about twice as fast as float32, where nothing is trained.

Weights are quantised once, by output channel; what comes in is quantised as it comes, by token, so that no text's
vector hangs on the ranges of what is computed beside it. The products are oneDNN's, in the processor's instructions for
int8 (VNNI); the rest of the model stays float32. Vectors differ a little from the float32 model's: they are good for
search, not for comparing models.
"""

import threading
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from components.model.linear import replace_linear
from components.processor import multiplies_int8

_TOP = 127
_ZERO = 128
"""oneDNN takes what comes in as unsigned bytes, of which this one is zero."""
_ROUNDED = 2.0**23
"""A float32 of this size has no fraction: the sum with a small number is rounded, and that number its last byte."""
_TOKENS = 2048
"""In a product, about; by it oneDNN chooses how the weight lies in memory."""


def use_int8(blocks: nn.ModuleList) -> None:
    """Have the linear layers of a transformer's blocks compute in int8, in place; for inference alone.

    Raises:
        ValueError: the processor has no products in int8, or the model is not in float32 on a CPU.
    """
    if not multiplies_int8():
        raise ValueError("precision int8 needs a CPU with VNNI (avx512_vnni or avx_vnni): take float32")
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in blocks.parameters()):
        raise ValueError("precision int8 is for a model that was loaded in float32 on a CPU")
    for block in blocks:
        rows = _Rows()
        replace_linear(block, nn.Linear, partial(Int8Linear, rows=rows))
        block.register_forward_hook(rows.forget)


class Int8Linear(nn.Module):
    """`nn.Linear` in int8: values [..., I] -> [..., O], float32 both."""

    def __init__(self, linear: nn.Linear, rows: "_Rows") -> None:
        super().__init__()
        weight_OI = linear.weight.detach()
        self.weight = weight_OI.to("meta")  # for those who ask for its type
        self._rows = rows
        self._scale_O = _scale(weight_OI).squeeze(-1)
        quantised_OI = (weight_OI / self._scale_O[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(quantised_OI, [_TOKENS, linear.in_features])
        self._zero_O = torch.zeros(linear.out_features, dtype=torch.int32)
        self._bias_O = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        quantised_NI, scale_N1 = self._rows(values)
        product_NO = torch.ops.onednn.qlinear_pointwise(
            quantised_NI, 1.0, _ZERO, self._packed, self._scale_O, self._zero_O,
            None, 1.0, 0, torch.float32, "none", [], "none",
        )  # fmt: skip
        torch.addcmul(self._bias_O, product_NO, scale_N1, out=product_NO)
        return product_NO.unflatten(0, values.shape[:-1])


class _Rows(threading.local):
    """Quantises what comes into the layers of a block; once where several read the same: query, key and value.

    Each thread that computes has its own.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._quantised: tuple[Tensor, Tensor]

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """values [..., I] -> uint8 [N, I], and what a step of it is worth in each row [N, 1]."""
        if values is not self._values:
            values_NI = values.flatten(0, -2)
            scale_N1 = _scale(values_NI)
            shift_I = torch.full((values_NI.shape[1],), _ROUNDED + _ZERO)
            rounded_NI = torch.addcmul(shift_I, values_NI, 1 / scale_N1)
            self._values, self._quantised = values, (rounded_NI.view(torch.int32).to(torch.uint8), scale_N1)
        return self._quantised

    def forget(self, *_: Any) -> None:
        self._values = None


def _scale(values_NI: Tensor) -> Tensor:
    """What a step of int8 is worth in each row, [N, 1]; never zero."""
    # Two reductions: torch's of both at once is many times slower by row.
    largest_N1 = torch.maximum(values_NI.amax(-1, keepdim=True), values_NI.amin(-1, keepdim=True).neg_())
    return largest_N1.clamp_min_(torch.finfo(torch.float32).tiny * _TOP).div_(_TOP)
