"""Attention and dropout of training on a CPU against transformers' own attention and torch's gradient check."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedModel, Qwen3Config, Qwen3Model

from components.training.attention import CPU_ATTENTION, cpu_attention
from components.training.dropout import FastDropout, draw, drop, keep_mask, keep_scale

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


def encoder() -> PreTrainedModel:
    return BertModel(BertConfig(**SIZES, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0), False)


def decoder() -> PreTrainedModel:
    return Qwen3Model(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16, use_cache=False))


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("make", [encoder, decoder])
def test_equals_plain_attention(make, padding: str) -> None:
    torch.manual_seed(0)
    model = make().train()
    ids, mask = torch.randint(0, 50, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    if padding != "none":
        mask[1, 7:] = 0
        mask[2, 3:] = 0
    if padding == "left":
        mask = mask.flip(1)

    def run(implementation: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.set_attn_implementation(implementation)
        model.zero_grad()
        hidden = model(ids, attention_mask=mask).last_hidden_state * mask[:, :, None]
        hidden.pow(2).sum().backward()
        return hidden, {name: p.grad.clone() for name, p in model.named_parameters()}

    hidden, gradients = run(CPU_ATTENTION)
    expected, expected_gradients = run("eager")
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)


def test_gradients_with_dropout() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    module = torch.nn.Module().train()

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return cpu_attention(module, *tensors, mask, dropout=0.3)[0]

    assert torch.autograd.gradcheck(attend, (query, key, value))


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mask_is_bernoulli(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = keep_mask(draw(torch.Size((1000, 401))), p, dtype) * keep_scale(p)
    kept = (mask != 0).double()
    error = 5 * math.sqrt(p * (1 - p) / kept.numel())  # five standard deviations
    assert float(kept.mean()) == pytest.approx(1 - p, abs=error)
    assert float(mask[mask != 0].double().mean()) == pytest.approx(1 / (1 - p), rel=4e-3)
    for lag in range(1, 5):  # the four draws of one number, and their neighbours in the next
        together = (kept.flatten()[lag:] * kept.flatten()[:-lag]).mean()
        assert float(together) == pytest.approx((1 - p) ** 2, abs=2 * error)


def test_dropout_follows_seed_and_mode() -> None:
    values = torch.randn(7, 3)
    dropout = FastDropout(0.4)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(values)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(dropout.eval()(values), values)
    assert torch.equal(drop(values, 0.0), values)
