"""The transformer under an embedding model: loading it, its blocks, its attention."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel
from transformers.utils import logging as transformers_logging

from components.model.linear import outruns_mkl, use_onednn
from components.model.spec import Attention

SWITCHABLE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
"""Decoders whose attention can be made bidirectional: they take `is_causal` from their config, which tests verify."""
PLAIN_ATTENTION = frozenset(
    {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "llama", "mistral", "qwen2", "qwen3"}
)
"""Model types whose attention is the softmax of scaled products and a mask, with nothing else in it."""
ENCODER_DECODERS = frozenset({"t5", "mt5", "umt5"})
"""Of these the encoder is the backbone."""


def load_backbone(directory: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The base transformer, without a language-model head, from a directory of config.json and safetensors.

    Of an encoder-decoder its encoder.

    Raises:
        ValueError: no such files, or tensors of the architecture are missing from them.
    """
    backbone, missing = load_pretrained(_auto_class(directory), directory, dtype)
    if missing and all(name.startswith("pooler.") for name in missing):
        # BERT's next-sentence head, which embeddings do not use: better none than a random one.
        backbone.pooler = None  # type: ignore[assignment]
    elif missing:
        raise ValueError(f"the weights in {directory} lack {len(missing)} tensors, the first is {missing[0]}")
    backbone.config.use_cache = False
    return backbone.eval()


def _auto_class(directory: str | Path) -> type:
    try:
        kind = AutoConfig.from_pretrained(str(directory), local_files_only=True).model_type
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory} holds no model that can be loaded: {_first_line(error)}") from error
    return AutoModelForTextEncoding if kind in ENCODER_DECODERS else AutoModel


def load_pretrained(
    auto: type, directory: str | Path, dtype: torch.dtype, **config: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A model by one of transformers' Auto classes, and the names of the tensors that the files lack.

    Args:
        config: fields of the model's config, in place of what it says.

    Raises:
        ValueError: the directory holds no such model.
    """
    try:
        with quiet_loading():
            model, report = auto.from_pretrained(  # type: ignore[attr-defined]
                str(directory),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **config,
            )
    except OSError as error:
        raise ValueError(f"{directory} holds no model that can be loaded: {_first_line(error)}") from error
    if outruns_mkl():
        use_onednn(model)
    return model, sorted(report["missing_keys"])


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' report on tensors, which is read and judged here, and without its bars."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def transformer_blocks(backbone: PreTrainedModel) -> nn.ModuleList:
    """The backbone's layers, first to last.

    Raises:
        ValueError: there is no list of `num_hidden_layers` modules in it.
    """
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == backbone.config.num_hidden_layers:
            return module
    raise ValueError(f"{type(backbone).__name__} has no list of {backbone.config.num_hidden_layers} layers")


def keep_layers(backbone: PreTrainedModel, layers: int) -> None:
    """Leave out all but the first `layers` layers, in place. A final norm behind them stays.

    Raises:
        ValueError: `layers` is below 1 or above what there is.
    """
    blocks = transformer_blocks(backbone)
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"layers must be between 1 and {len(blocks)}, what the backbone has; it is {layers}")
    del blocks[layers:]
    backbone.config.num_hidden_layers = layers
    if getattr(backbone.config, "layer_types", None):
        backbone.config.layer_types = backbone.config.layer_types[:layers]


def is_causal(backbone: PreTrainedModel) -> bool:
    """Whether a position sees only itself and what stands before it."""
    return getattr(backbone.config, "is_causal", True) and any(
        getattr(module, "is_causal", False) for module in transformer_blocks(backbone).modules()
    )


def attends_plainly(backbone: PreTrainedModel) -> bool:
    """Whether every layer's attention is plain (`PLAIN_ATTENTION`), and no window slides over its positions."""
    config = backbone.config
    layers = getattr(config, "layer_types", None)
    slides = (
        any(kind != "full_attention" for kind in layers)
        if layers
        else bool(getattr(config, "sliding_window", None))
    )
    return config.model_type in PLAIN_ATTENTION and not slides


def set_attention(backbone: PreTrainedModel, attention: Attention) -> None:
    """Have every position see what `attention` says, in place; the config keeps it.

    A sliding window stays one, to both sides where attention is bidirectional.

    Raises:
        ValueError: this architecture cannot.
    """
    config = backbone.config
    bidirectional = not is_causal(backbone) if attention == "own" else attention == "bidirectional"
    if config.model_type in SWITCHABLE:
        # The mask goes by the config; without padding there is none, and the kernel goes by the module.
        if bidirectional or hasattr(config, "is_causal"):
            config.is_causal = not bidirectional
        for module in transformer_blocks(backbone).modules():
            if hasattr(module, "is_causal"):
                module.is_causal = not bidirectional  # type: ignore[assignment]
    elif bidirectional and is_causal(backbone):
        raise ValueError(
            f"attention is 'bidirectional' but {type(backbone).__name__} is causal and cannot be switched; those "
            f"that can: {', '.join(sorted(SWITCHABLE))}"
        )
    elif not bidirectional and not is_causal(backbone):
        raise ValueError(
            f"attention is 'causal' but {type(backbone).__name__} attends both ways; use 'own' or a decoder"
        )


def positions_from_mask(attention_mask_BT: Tensor) -> Tensor:
    """Position ids that start at 0 with the first real token, wherever the padding stands [B, T]."""
    return (attention_mask_BT.long().cumsum(1) - 1).clamp(min=0)


def first_position(backbone: PreTrainedModel) -> int:
    """Of a text's first token: 0, but RoBERTa and its kin count from behind the id of the padding."""
    padding_id = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return 0 if padding_id is None else padding_id + 1


def longest_text(backbone: PreTrainedModel) -> int | None:
    """Tokens that the positions are enough for; None where there is no such limit."""
    positions = getattr(backbone.config, "max_position_embeddings", None)
    return positions - first_position(backbone) if positions and positions > 0 else None


def has_relative_positions(backbone: PreTrainedModel) -> bool:
    """Whether positions count from one token to another alone, so that padding moves nothing."""
    return hasattr(backbone.config, "relative_attention_num_buckets")


def takes_position_ids(backbone: PreTrainedModel) -> bool:
    """Whether positions have to be told. RoBERTa and its kin count them from the padding id themselves."""
    counts_itself = hasattr(getattr(backbone, "embeddings", None), "padding_idx")
    return can_be_told_positions(backbone) and not counts_itself


def can_be_told_positions(backbone: PreTrainedModel) -> bool:
    """Whether it takes positions, even if it would count them itself."""
    return "position_ids" in inspect.signature(backbone.forward).parameters


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
