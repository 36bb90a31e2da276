"""Checkpoints to merge."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_model import write_tiny_model

from components.storage import Folder


def moved(tensors: dict[str, torch.Tensor], seed: int, scale: float = 0.01) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + scale * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }


def write_stage(directory: Path, count: int, scale: float = 0.01) -> tuple[Folder, Folder]:
    """A base and what a training stage leaves: `count` checkpoints, each moved a little from it."""
    base = write_tiny_model(directory / "base")
    tensors = load_file(base / "model.safetensors")
    for number in range(count):
        checkpoint = directory / "stage" / "checkpoints" / f"step-{number:06d}"
        write_tiny_model(checkpoint)
        save_file(moved(tensors, number, scale), checkpoint / "model.safetensors", metadata={"format": "pt"})
    return Folder(str(directory / "base")), Folder(str(directory / "stage"))
