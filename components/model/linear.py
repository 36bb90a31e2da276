"""Linear layers in float32 on a CPU: products by oneDNN in place of MKL, on processors that are not Intel's.

torch multiplies float32 matrices by MKL, which takes 512-bit instructions on Intel's processors alone; oneDNN, which
torch has too and uses for bfloat16, takes them wherever they are. On an AMD EPYC that computes 512 bits at once that is
twice the rate; on one that takes such an instruction in two halves (Zen 4) a tenth more. On Intel's own MKL is the
faster one, by a tenth forward and by 1.3 to 1.6 times with the backward pass (Cascade Lake).
Nothing is rounded but float32's own sums, which run in another order.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUActivation

from components.processor import is_intel, multiplies_bfloat16

Then = Literal["none", "gelu"]
"""What becomes of a product while it is in the processor's cache; GELU by the error function."""

_TOKENS = 256
"""In a product, about; by it oneDNN may choose how a weight lies in memory."""


class Linear(nn.Linear):
    """`nn.Linear`, the same to the last name and weight, with oneDNN's products where they apply."""

    def forward(self, values: Tensor) -> Tensor:
        applies = values.device.type == "cpu" and values.dtype == torch.float32 and values.numel()
        if not applies or torch.compiler.is_compiling():
            return super().forward(values)
        return _Linear.apply(values, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    """values [..., I], weight [O, I], bias [O] or none -> [..., O]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return _product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        by_values, by_weight, by_bias = ctx.needs_input_grad
        rows_grad_NO = output_grad.flatten(0, -2)
        return (
            _product(output_grad, weight.t()) if by_values else None,
            _product(rows_grad_NO.t(), values.flatten(0, -2).t()) if by_weight else None,
            rows_grad_NO.sum(0) if by_bias else None,
        )


def _product(values: Tensor, weight: Tensor, bias: Tensor | None = None, then: Then = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, then, [], "none")


class PackedLinear(nn.Module):
    """A `Linear` for inference: its weight lies in memory as oneDNN reads it, and is not laid out so for every product.

    In float32 the same numbers to the last bit. On a Zen 4 MiniLM takes 0.75 of the time for a query alone, 0.9 for
    sixteen; with GELU in the product 0.96 of that.
    """

    def __init__(self, linear: Linear, then: Then = "none") -> None:
        super().__init__()
        self._then: Then = then
        weight_OI = linear.weight.detach()
        self.weight = weight_OI.to("meta")  # for those who ask for its type
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, _TOKENS)
        self._bias_O = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: Tensor) -> Tensor:
        return _product(values, self._packed, self._bias_O, self._then)


def replace_linear(model: nn.Module, kind: type[nn.Linear], make: Callable[[Any], nn.Module]) -> None:
    """Put what `make` makes of them in the place of a model's linear layers, in place."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kind):
                setattr(parent, name, make(layer))


def pack_linear(blocks: nn.ModuleList) -> None:
    """Pack the layers that compute by oneDNN, in place, where it can; for inference alone."""
    weight = next(blocks.parameters())
    packable = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and multiplies_bfloat16())
    if weight.device.type == "cpu" and packable:
        for module in list(blocks.modules()):
            dense = getattr(module, "dense", None)
            if isinstance(dense, Linear) and isinstance(
                getattr(module, "intermediate_act_fn", None), GELUActivation
            ):
                # BERT and its kin: a layer with GELU behind it.
                module.dense, module.intermediate_act_fn = PackedLinear(dense, "gelu"), nn.Identity()
        replace_linear(blocks, Linear, PackedLinear)


def use_onednn(model: nn.Module) -> None:
    """Have the linear layers of a model compute by oneDNN wherever they stand on a CPU in float32, in place."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def outruns_mkl() -> bool:
    """Whether oneDNN is here, and the faster one on this machine's processor."""
    return torch.backends.mkldnn.is_available() and not is_intel()
