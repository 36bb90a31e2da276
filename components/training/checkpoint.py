"""The checkpoint of a stage: weights, optimizer state and the number of finished steps.

Every worker writes its own shards. They are copied at once and written while training goes on.
"""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

POSITION = "position.json"


def save_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings_digest: str,
    directory: Path,
    group: dist.ProcessGroup,
) -> Future[None]:
    """Copy this worker's part of the state now and write it to `directory` in a thread. A collective.

    Args:
        directory: each worker may have its own; the checkpoint is what stands in all of them together.
        group: a gloo group of all workers that nothing else talks over.

    Returns:
        Done when the checkpoint is complete, which is when every worker has written its part.
    """
    model_state, optimizer_state = get_state_dict(model, optimizer)
    if dist.get_rank(group) == 0:
        (directory / POSITION).write_text(json.dumps({"step": step, "settings": settings_digest}))
    return cast(
        Future[None],
        dcp.async_save(
            {"model": model_state, "optimizer": optimizer_state},
            checkpoint_id=directory,
            process_group=group,
        ),
    )


def saved_step(directory: Path, settings_digest: str) -> int:
    """The number of finished steps in a checkpoint.

    Raises:
        ValueError: other settings made it.
    """
    position = json.loads((directory / POSITION).read_text())
    if position["settings"] != settings_digest:
        raise ValueError(
            f"the checkpoint {directory} was made by other settings of the stage; "
            "resume it with those, or give the stage another state folder"
        )
    return position["step"]


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Read what `save_state` wrote, on any number of workers, into model and optimizer. A collective."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=directory)
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
