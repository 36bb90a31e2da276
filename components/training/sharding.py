"""FSDP2: the model sharded over the workers, its optimizer, and its weights in one piece again."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from components.model.backbone import transformer_blocks
from components.model.embedder import Embedder
from components.training.gradient_cache import GradientSync

Precision = Literal["bfloat16", "float32"]


def loss_parameters(model: Embedder | PreTrainedModel) -> dict[str, nn.Parameter]:
    """By name those that the loss of an embedder takes, not its forward pass: they stay whole on every worker."""
    if not isinstance(model, Embedder):
        return {}  # a reranker's head, which may be called classifier, is part of its forward pass
    beginnings = ("log_temperature", "classifier.")
    return {name: each for name, each in model.named_parameters() if name.startswith(beginnings)}


def shard_model(
    model: Embedder | PreTrainedModel,
    mesh: DeviceMesh,
    precision: Precision,
    gradient_sync: GradientSync = "micro_batch",
    root: nn.Module | None = None,
) -> None:
    """Shard in place: every transformer block, an embedder's pooling, then the root.

    The parameters of the loss (`loss_parameters`) stay whole on every worker.

    Args:
        root: what is called forward, with the model inside; None: the model itself.

    Weights stay in their own dtype (float32), and so does the computation of the pooling's.

    With `bfloat16` the blocks compute in bfloat16 on gathered copies; gradients are reduced in float32 and
    the optimizer steps on the float32 weights. With the gradient sync `step` gathered weights are kept from
    the first micro-batch of a global batch to its last backward.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bfloat16" else None, reduce_dtype=torch.float32
    )
    for block in model.blocks() if isinstance(model, Embedder) else transformer_blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=gradient_sync == "micro_batch")
    if isinstance(model, Embedder) and any(True for _ in model.pooling.parameters()):
        exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        fully_shard(model.pooling, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
    # What the root holds itself is needed first in a forward pass and soon in a backward pass: it stays.
    whole = replace(policy, output_dtype=torch.float32)
    outside = set(loss_parameters(model).values())
    root = model if root is None else root
    fully_shard(root, mesh=mesh, mp_policy=whole, reshard_after_forward=False, ignored_params=outside)


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW. Biases and norms (tensors of one dimension) and what is not sharded, the loss's own, are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    groups = [
        {"params": [p for p in sharded if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in sharded if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in parameters if not isinstance(p, DTensor)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def full_weights(model: nn.Module) -> dict[str, Any]:
    """The unsharded weights on the CPU of rank 0; empty on the other workers. A collective."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
