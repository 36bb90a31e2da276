"""FSDP2: the model sharded over the workers, its optimizer, and its weights in one piece again."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from components.model.embedder import Embedder
from components.training.gradient_cache import GradientSync

Precision = Literal["bfloat16", "float32"]


def shard_model(
    model: Embedder, mesh: DeviceMesh, precision: Precision, gradient_sync: GradientSync = "micro_batch"
) -> None:
    """Shard in place: every transformer block, then the root; a scalar stays whole on every worker.

    Weights stay in their own dtype (float32).

    With `bfloat16` the blocks compute in bfloat16 on gathered copies; gradients are reduced in float32 and
    the optimizer steps on the float32 weights. With the gradient sync `step` gathered weights are kept from
    the first micro-batch of a global batch to its last backward.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bfloat16" else None, reduce_dtype=torch.float32
    )
    for block in model.blocks():
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=gradient_sync == "micro_batch")
    # What the root holds itself is needed first in a forward pass and soon in a backward pass: it stays.
    whole = replace(policy, output_dtype=torch.float32)
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    fully_shard(model, mesh=mesh, mp_policy=whole, reshard_after_forward=False, ignored_params=scalars)


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW. Biases and norms (tensors of one dimension) and scalars are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in parameters if p.ndim == 0], "weight_decay": 0.0},  # not sharded: apart
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def full_weights(model: nn.Module) -> dict[str, Any]:
    """The unsharded weights on the CPU of rank 0; empty on the other workers. A collective."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
