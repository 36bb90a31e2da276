"""Adapters: what is exported computes what was trained."""

from pathlib import Path

import pytest
import torch

from components.model.backbone import load_backbone
from components.training.flops import count_flops
from components.training.lora import Lora, add_adapters, merged_weights


def test_merged_weights_compute_the_same(tiny_model: Path) -> None:
    backbone, lora = load_backbone(tiny_model), Lora(rank=3, alpha=7.0)
    ids = torch.randint(4, 200, (2, 9))
    plain = backbone(ids).last_hidden_state
    add_adapters(backbone, lora)
    torch.testing.assert_close(backbone(ids).last_hidden_state, plain)  # the second factors are zero
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    trained = backbone(ids).last_hidden_state
    assert not torch.allclose(trained, plain, atol=1e-2)
    weights = merged_weights(load_backbone(tiny_model), lora, backbone.state_dict())
    merged = load_backbone(tiny_model)
    merged.load_state_dict(weights)
    torch.testing.assert_close(merged(ids).last_hidden_state, trained, rtol=1e-4, atol=1e-5)


def test_frozen_weights_cost_less(tiny_model: Path) -> None:
    backbone = load_backbone(tiny_model)
    whole = count_flops(backbone).a_token
    matrices = whole / 6
    rank = 2
    add_adapters(backbone, Lora(rank=rank, layers=("query",)))
    adapters = 2 * rank * (32 + 32)  # layers, times a factor on either side
    assert count_flops(backbone).a_token == 4 * matrices + 6 * adapters


def test_unknown_layers(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"lora\.layers: BertModel has no layer called q_proj"):
        add_adapters(load_backbone(tiny_model), Lora(layers=("query", "q_proj")))
