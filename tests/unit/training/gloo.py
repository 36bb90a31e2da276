"""Gloo workers on one machine, for tests. They are forked from a server that has the libraries loaded."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_workers(function: Callable[..., Any], workers: int, directory: Path, *arguments: Any) -> list[Any]:
    """`function(group, *arguments)` on every worker; what each returned, in the order of the ranks."""
    directory.mkdir(parents=True, exist_ok=True)
    multiprocessing.set_forkserver_preload(
        ["components.training.step", "transformers.models.bert.modeling_bert"]
    )
    mp.start_processes(
        _worker, (workers, directory, function, arguments), nprocs=workers, start_method="forkserver"
    )
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(workers)]


def _worker(rank: int, workers: int, directory: Path, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(directory / "store"), workers)
    dist.init_process_group("gloo", rank=rank, world_size=workers, store=store)
    torch.save(function(dist.group.WORLD, *arguments), directory / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
