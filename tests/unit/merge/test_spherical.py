"""The merge of tensors and of whole model directories."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_model import write_tiny_model

from components.merge.spherical import merge_checkpoints, merge_tensor
from components.model.embedder import Embedder
from components.model.export import check_golden, weights_digest
from components.monitor import Silent
from components.storage import Folder


def slerp(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    angle = torch.arccos((first.flatten() @ second.flatten()) / (first.norm() * second.norm()))
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.25, 0.5])
def test_two_tensors_of_one_norm_give_slerp_around_the_base(t: float) -> None:
    base, first, second = randn(7, 5, seed=0), randn(7, 5, seed=1), randn(7, 5, seed=2)
    second = second * first.norm() / second.norm()
    merged, report = merge_tensor("w", [base + first, base + second], base, np.array([1 - t, t]))
    torch.testing.assert_close(merged, base + slerp(first, second, t), rtol=0, atol=1e-12)
    angle = np.degrees(np.arccos(float((first * second).sum() / (first.norm() * second.norm()))))
    assert report.angles == (pytest.approx(angle),)
    assert report.norm_ratio == pytest.approx(1)
    average = (1 - t) * first + t * second
    assert report.from_average == pytest.approx(float((merged - base - average).norm() / average.norm()))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 5), data=st.data())
def test_order_does_not_matter_and_norms_are_averaged(seed: int, count: int, data: st.DataObject) -> None:
    centre = randn(6, 4, seed=seed)
    tensors = [centre + 0.8 * randn(6, 4, seed=seed + 1 + i) for i in range(count)]
    shares = np.random.default_rng(seed).dirichlet(np.ones(count))
    order = data.draw(st.permutations(range(count)))
    merged, report = merge_tensor("w", tensors, None, shares)
    permuted, _ = merge_tensor("w", [tensors[i] for i in order], None, shares[list(order)])
    torch.testing.assert_close(merged, permuted, rtol=0, atol=1e-6)
    if not report.is_average:
        norms = np.array([float(tensor.norm()) for tensor in tensors])
        assert float(merged.norm()) == pytest.approx(shares @ norms)


def test_tensors_without_a_direction() -> None:
    zero, moved = torch.zeros(4), torch.tensor([3.0, 0.0, 4.0, 0.0])
    shares = np.array([0.25, 0.75])
    assert torch.equal(merge_tensor("w", [zero, zero], None, shares)[0], zero)
    # the direction of the one that has one, the mean of the norms
    torch.testing.assert_close(merge_tensor("w", [zero, moved], None, shares)[0], 0.75 * moved)
    merged, report = merge_tensor("w", [moved, -moved], None, shares)
    assert report.is_average
    torch.testing.assert_close(merged, -0.5 * moved)


def test_large_tensors_go_through_in_blocks() -> None:
    first, second = (randn(2500, 2000, seed=seed).float() for seed in range(2))
    merged, _ = merge_tensor("w", [first, second], None, np.array([0.5, 0.5]))
    first, second = first.double(), second.double()
    direction = slerp(first / first.norm(), second / second.norm(), 0.5)
    expected = direction * (first.norm() + second.norm()) / 2
    torch.testing.assert_close(merged.double(), expected, rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Kept(Silent):
    names: list[str] = field(default_factory=list)

    def figure(self, name: str, figure: object) -> None:
        self.names.append(name)


def stage_output(directory: Path, count: int) -> tuple[Folder, Folder]:
    """A base and `count` checkpoints that were each moved a little from it."""
    base = write_tiny_model(directory / "base")
    tensors = load_file(base / "model.safetensors")
    for number in range(count):
        checkpoint = directory / "stage" / "checkpoints" / f"step-{number:06d}"
        write_tiny_model(checkpoint)
        generator = torch.Generator().manual_seed(number)
        moved = {
            name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in tensors.items()
        }
        save_file(moved, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return Folder(str(directory / "base")), Folder(str(directory / "stage"))


@pytest.mark.parametrize("space", ["task", "weight"])
def test_a_merged_directory_is_a_model(tmp_path: Path, space: str) -> None:
    base, stage = stage_output(tmp_path, 3)
    monitor = Kept()
    target = tmp_path / "merged"
    report = merge_checkpoints(
        checkpoints=stage, base=base, space=space, output=Folder(str(target)), monitor=monitor  # type: ignore[arg-type]
    )  # fmt: skip
    # random moves stand at right angles to one another, the weights themselves nearly in line
    assert report["angle_mean"] == pytest.approx(90, abs=5) if space == "task" else report["angle_mean"] < 80
    assert report["checkpoints"] == 3
    assert monitor.names == ["merge_angles.png"]
    assert check_golden(Embedder.load(target), target) < 1e-6
    encoding = json.loads((target / "encoding.json").read_text())
    assert encoding["weights_digest"] == weights_digest(target)
    inputs = sorted((tmp_path / "stage" / "checkpoints").iterdir())
    assert encoding["weights_digest"] not in {weights_digest(path) for path in [*inputs, tmp_path / "base"]}
    # one tensor by hand
    name = "encoder.layer.0.intermediate.dense.weight"
    start = load_file(tmp_path / "base" / "model.safetensors")[name]
    tensors = [load_file(path / "model.safetensors")[name] for path in inputs]
    expected, _ = merge_tensor(name, tensors, start if space == "task" else None, np.full(3, 1 / 3))
    assert torch.equal(load_file(target / "model.safetensors")[name], expected)


def test_one_checkpoint_is_itself(tmp_path: Path) -> None:
    base, stage = stage_output(tmp_path, 1)
    merge_checkpoints(checkpoints=stage, base=base, output=Folder(str(tmp_path / "merged")), monitor=Silent())
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "stage/checkpoints/step-000000/model.safetensors").items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-7)


def test_refusals(tmp_path: Path) -> None:
    base, stage = stage_output(tmp_path, 2)
    output = Folder(str(tmp_path / "merged"))
    with pytest.raises(ValueError, match=r"weights are \[1.0\]; they must be 2 numbers"):
        merge_checkpoints(checkpoints=stage, base=base, weights=[1.0], output=output, monitor=Silent())
    with pytest.raises(ValueError, match="has no checkpoints to merge"):
        merge_checkpoints(checkpoints=base, base=base, output=output, monitor=Silent())
    with pytest.raises(ValueError, match="space is 'sphere'"):
        merge_checkpoints(checkpoints=stage, base=base, space="sphere", output=output, monitor=Silent())  # type: ignore[arg-type]
    path = tmp_path / "stage/checkpoints/step-000000/model.safetensors"
    tensors = load_file(path)
    name = "embeddings.word_embeddings.weight"
    save_file(tensors | {name: tensors[name][:-1].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"the tensor {name} has shape"):
        merge_checkpoints(checkpoints=stage, base=base, output=output, monitor=Silent())
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"the tensor {name} of .* is missing in .*step-000000"):
        merge_checkpoints(checkpoints=stage, base=base, output=output, monitor=Silent())
