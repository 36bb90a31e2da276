"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: what a stage trains in place of the backbone's weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import LoraModel


@dataclass(frozen=True)
class Lora:
    """Adapters of a stage.

    Attributes:
        rank: of the two factors.
        alpha: the product of the factors counts alpha / rank times.
        dropout: probability, at the input of an adapter.
        layers: names of the linear layers that get one, as in the backbone (`q_proj`); empty: all of them.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    layers: tuple[str, ...] = ()


def add_adapters(backbone: PreTrainedModel, lora: Lora) -> "LoraModel":
    """Put adapters beside the linear layers, in place; they alone are trained from here on.

    The first factors are drawn from torch's generator, the second ones are zero.

    Raises:
        ValueError: the backbone has no layer of one of the names.
    """
    from peft import LoraConfig, LoraModel  # seconds, which most stages need not wait

    names = {name.rpartition(".")[2] for name, _ in backbone.named_modules()}
    unknown = sorted(set(lora.layers) - names)
    if unknown:
        raise ValueError(f"lora.layers: {type(backbone).__name__} has no layer called {', '.join(unknown)}")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # used as a number alone
        lora_dropout=lora.dropout,
        target_modules=list(lora.layers) or "all-linear",
    )
    return LoraModel(backbone, config, "default")


def merged_weights(backbone: PreTrainedModel, lora: Lora, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes what trained ones compute.

    Args:
        backbone: as it was before adapters were added; it is changed.
        weights: of the backbone with adapters.
    """
    adapted = add_adapters(backbone, lora)
    backbone.load_state_dict(weights)
    return adapted.merge_and_unload().state_dict()
