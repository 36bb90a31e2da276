"""Random backbones of each family, small: model directories in milliseconds."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    Gemma2Config,
    Gemma2Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaConfig,
    GemmaModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WORDS = 60
SPECIAL = ["<pad>", "</s>", "<unk>", "[MASK]"]
LAYERS = 3

_SIZES = {
    "vocab_size": len(SPECIAL) + WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.3,
}
_DECODER = _SIZES | {"num_key_value_heads": 2}
_GEMMA = _DECODER | {"head_dim": 8}

DECODERS = {
    "llama": (LlamaModel, LlamaConfig, _DECODER),
    "mistral": (MistralModel, MistralConfig, _DECODER | {"sliding_window": None}),
    "qwen2": (Qwen2Model, Qwen2Config, _DECODER),
    "qwen3": (Qwen3Model, Qwen3Config, _DECODER | {"head_dim": 16}),
    "gemma": (GemmaModel, GemmaConfig, _GEMMA),
    "gemma2": (Gemma2Model, Gemma2Config, _GEMMA | {"sliding_window": 64}),
    "gemma3": (Gemma3TextModel, Gemma3TextConfig, _GEMMA | {"sliding_window": 64}),
}
ENCODERS = {
    "bert": (BertModel, BertConfig, _SIZES),
    "roberta": (RobertaModel, RobertaConfig, _SIZES | {"max_position_embeddings": 98}),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig, _SIZES | {"max_position_embeddings": 98}),
    "electra": (ElectraModel, ElectraConfig, _SIZES | {"embedding_size": 16}),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig,
        {"vocab_size": len(SPECIAL) + WORDS, "dim": 32, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": 4,
         "max_position_embeddings": 96, "pad_token_id": 0, "initializer_range": 0.3},
    ),
    "t5": (
        T5ForConditionalGeneration,
        T5Config,
        {"vocab_size": len(SPECIAL) + WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS,
         "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    ),
}  # fmt: skip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words are `w0` to `w59`, and each ends with `</s>`."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="[MASK]",
    )


def make_backbone(family: str, **changes: Any) -> PreTrainedModel:
    model, config, sizes = (DECODERS | ENCODERS)[family]
    torch.manual_seed(0)
    return model(config(**sizes | changes)).eval()


def write_backbone(directory: Path, family: str) -> Path:
    """What a hub has of it."""
    make_backbone(family).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
