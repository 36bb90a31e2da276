"""A random Llama of three layers with words as its vocabulary: a language model on disk in milliseconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 50
END = "<end>"


def write_decoder(directory: Path, layers: int = 3) -> Path:
    """Words are `w0` to `w49`. The tokenizer appends nothing and has no padding token."""
    vocabulary = {word: i for i, word in enumerate([END, "<unk>", *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            eos_token_id=0,
            bos_token_id=None,
        )
    )
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>").save_pretrained(
        directory
    )
    return directory
