"""A checkpoint is the state of the moment at which it was asked for, whatever happens while it is written."""

import time
from pathlib import Path

import torch
import torch.distributed as dist
from gloo import run_workers
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from components.model.embedder import Embedder
from components.training.checkpoint import load_state, save_state, saved_step
from components.training.sharding import make_optimizer, shard_model


def saved_and_loaded(group: dist.ProcessGroup, model: Path, directory: Path) -> list[bool]:
    checkpoint_group = dist.new_group(backend="gloo")

    def start() -> tuple[Embedder, torch.optim.AdamW]:
        embedder = Embedder.load(model)
        shard_model(embedder, DeviceMesh.from_group(group, "cpu"), "float32")
        return embedder, make_optimizer(embedder, 1e-2, 0.1, (0.9, 0.999))

    def shards(embedder: Embedder, optimizer: torch.optim.AdamW) -> list[torch.Tensor]:
        states = [value for state in optimizer.state.values() for value in state.values()]
        tensors = [*embedder.parameters(), *states]
        return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]

    embedder, optimizer = start()
    for parameter in embedder.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    expected = [tensor.detach().clone() for tensor in shards(embedder, optimizer)]
    if dist.get_rank(group) == 1:
        time.sleep(0.5)  # worker 0 cannot have begun to write when it overwrites its state
    saved = save_state(embedder, optimizer, 3, "digest", directory, checkpoint_group)
    with torch.no_grad():
        for tensor in shards(embedder, optimizer):
            tensor.fill_(7)
    saved.result()
    embedder, optimizer = start()
    load_state(embedder, optimizer, directory)
    assert saved_step(directory, "digest") == 3
    return [found.equal(tensor) for found, tensor in zip(shards(embedder, optimizer), expected, strict=True)]


def test_what_is_written_is_a_copy(tmp_path: Path, tiny_model: Path) -> None:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    for equal in run_workers(saved_and_loaded, 2, tmp_path / "workers", tiny_model, directory):
        assert len(equal) > 4 * 30
        assert all(equal)
