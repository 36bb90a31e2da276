"""The count of FLOPs against torch's own, which counts the products that really run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3Model

from components.model.embedder import Embedder
from components.training.flops import count_flops


def test_encoder(tiny_model: Path) -> None:
    # torch counts neither oneDNN's products in float32 nor its own fused attention.
    backbone = Embedder.load(tiny_model, torch.bfloat16).backbone.train()
    backbone.pooler = None
    backbone.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        backbone(torch.randint(0, 200, (3, 20))).last_hidden_state.sum().backward()
    assert count_flops(backbone).of(np.array([20, 20, 20])) == counter.get_total_flops()


def test_decoder_counts_half_of_the_pairs() -> None:
    config = Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    backbone = Qwen3Model(config).train()
    backbone.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        backbone(torch.randint(0, 50, (2, 24)), use_cache=False).last_hidden_state.sum().backward()
    flops = count_flops(backbone)
    whole = flops.of(np.array([24, 24])) + 2 * flops.a_pair * 24**2  # torch computes the masked pairs as well
    assert whole == pytest.approx(counter.get_total_flops(), rel=1e-2)  # and rotary embeddings, by a product
