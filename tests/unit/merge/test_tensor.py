"""The merge of one tensor, against closed forms and the same done with everything in memory."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.merge.tensor import HELD, Granularity, Method, TensorMerge, merge_tensor


def merge(
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    shares: Sequence[float] | np.ndarray,
    method: Method = "karcher",
    per: Granularity = "tensor",
) -> tuple[torch.Tensor, TensorMerge]:
    def reader(tensor: torch.Tensor):
        return lambda start, stop: tensor.flatten()[start:stop]

    written: list[torch.Tensor] = []
    report = merge_tensor(
        "w", tuple(tensors[0].shape), tensors[0].dtype, [reader(tensor) for tensor in tensors],
        None if base is None else reader(base), np.asarray(shares, dtype=np.float64), method, per,
        lambda piece: written.append(piece.clone()),
    )  # fmt: skip
    return torch.cat(written).reshape(tensors[0].shape), report


def slerp(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    angle = torch.arccos((first.flatten() @ second.flatten()) / (first.norm() * second.norm()))
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.25, 0.5])
def test_two_tensors_of_one_norm_give_slerp_around_the_base(t: float) -> None:
    base, first, second = randn(7, 5, seed=0), randn(7, 5, seed=1), randn(7, 5, seed=2)
    second = second * first.norm() / second.norm()
    merged, report = merge([base + first, base + second], base, [1 - t, t])
    torch.testing.assert_close(merged, base + slerp(first, second, t), rtol=0, atol=1e-12)
    angle = np.degrees(np.arccos(float((first * second).sum() / (first.norm() * second.norm()))))
    assert report.angles == (pytest.approx(angle),)
    assert report.norm_ratio == pytest.approx(1)
    average = (1 - t) * first + t * second
    gap = float((merged - base - average).norm())
    assert report.from_average == pytest.approx(gap / float(average.norm()))
    assert report.of_spread == pytest.approx(gap / max(float((x - average).norm()) for x in (first, second)))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("spread", [1e-4, 0.1, 3.0])
def test_slerp_is_its_closed_form_on_tensors_of_any_norms(t: float, spread: float) -> None:
    first = randn(40, 30, seed=3)
    second = 1.3 * (first + spread * randn(40, 30, seed=4))
    merged, _ = merge([first, second], None, [1 - t, t], method="slerp")
    torch.testing.assert_close(merged, slerp(first, second, t), rtol=0, atol=1e-12)


def test_rows_are_merged_by_themselves() -> None:
    first, second, third = (randn(6, 8, seed=seed) for seed in range(3))
    first[2] = 0
    shares = [0.5, 0.2, 0.3]
    merged, report = merge([first, second, third], None, shares, per="row")
    for row in range(6):
        alone, _ = merge([first[row], second[row], third[row]], None, shares)
        torch.testing.assert_close(merged[row], alone, rtol=0, atol=1e-12)
    whole, of_whole = merge([first, second, third], None, shares)
    assert (merged - whole).abs().max() > 1e-3
    assert report.angles == pytest.approx(of_whole.angles)
    vector, _ = merge([first[0], second[0]], None, [0.5, 0.5], per="row")
    torch.testing.assert_close(vector, merge([first[0], second[0]], None, [0.5, 0.5])[0])


def test_linear_is_the_weighted_average() -> None:
    base, first, second = (randn(5, 5, seed=seed) for seed in range(3))
    merged, report = merge([first, second], base, [0.25, 0.75], method="linear")
    torch.testing.assert_close(merged, 0.25 * first + 0.75 * second, rtol=0, atol=1e-12)
    assert (report.from_average, report.of_spread) == (0, 0)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000), count=st.integers(2, 5), per=st.sampled_from(["tensor", "row"]), data=st.data()
)
def test_order_does_not_matter_and_norms_are_averaged(
    seed: int, count: int, per: Granularity, data: st.DataObject
) -> None:
    centre = randn(6, 4, seed=seed)
    tensors = [centre + 0.8 * randn(6, 4, seed=seed + 1 + i) for i in range(count)]
    shares = np.random.default_rng(seed).dirichlet(np.ones(count))
    order = data.draw(st.permutations(range(count)))
    merged, report = merge(tensors, None, shares, per=per)
    permuted, _ = merge([tensors[i] for i in order], None, shares[list(order)], per=per)
    torch.testing.assert_close(merged, permuted, rtol=0, atol=1e-6)
    if not report.is_average and per == "tensor":
        norms = np.array([float(tensor.norm()) for tensor in tensors])
        assert float(merged.norm()) == pytest.approx(shares @ norms)


def test_tensors_without_a_direction() -> None:
    zero, moved = torch.zeros(4), torch.tensor([3.0, 0.0, 4.0, 0.0])
    shares = [0.25, 0.75]
    assert torch.equal(merge([zero, zero], None, shares)[0], zero)
    # the direction of the one that has one, the mean of the norms
    torch.testing.assert_close(merge([zero, moved], None, shares)[0], 0.75 * moved)
    torch.testing.assert_close(merge([zero, moved], None, shares, method="slerp")[0], 0.75 * moved)
    for method in ("karcher", "slerp"):
        merged, report = merge([moved, -moved], None, shares, method=method)
        assert report.is_average
        torch.testing.assert_close(merged, -0.5 * moved)


def test_tensors_larger_than_what_is_held_at_once() -> None:
    first, second = (randn(4200, 2000, seed=seed).float() for seed in range(2))
    assert first.numel() > HELD
    merged, _ = merge([first, second], None, [0.5, 0.5])
    first, second = first.double(), second.double()
    direction = slerp(first / first.norm(), second / second.norm(), 0.5)
    expected = direction * (first.norm() + second.norm()) / 2
    torch.testing.assert_close(merged.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), ()])
def test_shapes_without_extent(shape: tuple[int, ...]) -> None:
    tensors = [torch.ones(shape), 3 * torch.ones(shape)]
    merged: list[torch.Tensor] = []
    merge_tensor(
        "w", shape, torch.float32, [lambda a, b, t=t: t.flatten()[a:b] for t in tensors], None,
        np.array([0.5, 0.5]), "karcher", "row", merged.append,
    )  # fmt: skip
    total = sum(float(piece.sum()) for piece in merged)
    assert total == pytest.approx(2.0 if shape == () else 0.0)


def test_what_is_not_finite_is_refused() -> None:
    broken = torch.tensor([1.0, float("nan")])
    with pytest.raises(ValueError, match="the tensor w holds NaN or infinity"):
        merge([broken, torch.ones(2)], None, [0.5, 0.5])
