"""Linear layers by oneDNN, against float64."""

import pytest
import torch
from torch import nn

from components.model.linear import Linear, use_onednn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (1, 24), (3, 5, 24), (2, 0, 24)])
def test_values_and_gradients_are_those_of_the_product(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    exact = nn.Linear(24, 40, bias=bias).double()
    model = nn.Sequential(nn.Linear(24, 40, bias=bias))
    model[0].load_state_dict(exact.state_dict())
    use_onednn(model)
    assert isinstance(model[0], Linear)
    # Not contiguous, as after attention.
    values = torch.randn(*shape[:-1], 48)[..., ::2].requires_grad_()
    output_grad = torch.randn(*shape[:-1], 40)
    found = model(values)
    found.backward(output_grad)
    exact_values = values.detach().double().requires_grad_()
    expected = exact(exact_values)
    expected.backward(output_grad.double())
    pairs = [(found, expected), (values.grad, exact_values.grad)]
    pairs += [(mine.grad, its.grad) for mine, its in zip(model.parameters(), exact.parameters(), strict=True)]
    for mine, its in pairs:
        torch.testing.assert_close(mine.double(), its, rtol=1e-5, atol=1e-5)


def test_other_dtypes_stay_with_torch() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    use_onednn(model)
    for dtype in (torch.float64, torch.bfloat16):
        values = torch.randn(3, 8, dtype=dtype)
        expected = nn.functional.linear(values, model[0].weight.to(dtype), model[0].bias.to(dtype))
        torch.testing.assert_close(model.to(dtype)(values), expected, rtol=0, atol=0)
