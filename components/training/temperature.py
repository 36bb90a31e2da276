"""The temperature of the objective as a parameter: its logarithm is learnt, as in CLIP (arXiv 2103.00020).

Every worker holds it whole. Checkpoints have it, exported models do not.
"""

import math

import torch
import torch.distributed as dist
from torch import nn

from components.model.embedder import Embedder


def add_log_temperature(embedder: Embedder, temperature: float) -> nn.Parameter:
    """Put the parameter, float32 and 0-dimensional, beside the backbone's, before the embedder is sharded."""
    parameter = nn.Parameter(torch.tensor(math.log(temperature), device=embedder.device))
    embedder.register_parameter("log_temperature", parameter)
    return parameter


def average_gradient(parameter: nn.Parameter, group: dist.ProcessGroup) -> None:
    """Of a parameter of the loss over the workers, in place, as FSDP2 does it for what it shards. A collective."""
    dist.all_reduce(parameter.grad, group=group)
    assert parameter.grad is not None
    parameter.grad /= dist.get_world_size(group)
