"""What a stage trains, and one optimizer step of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from components.model.embedder import Embedder
from components.training.batch import WorkerBatch
from components.training.flops import TrainingFlops, count_flops
from components.training.prepare import prepare_model
from components.training.schedule import learning_rate_share
from components.training.settings import StageExecution, StageSettings
from components.training.sharding import make_optimizer, shard_model
from components.training.step import accumulate_gradients
from components.training.temperature import add_log_temperature, average_gradient


@dataclass(frozen=True)
class Trainee:
    """A sharded model and its optimizer.

    Attributes:
        log_temperature: among the embedder's parameters where the objective's temperature is learnt.
        flops: what forward and backward of a text cost.
    """

    embedder: Embedder
    optimizer: torch.optim.Optimizer
    log_temperature: nn.Parameter | None
    flops: TrainingFlops


def make_trainee(
    embedder: Embedder, settings: StageSettings, execution: StageExecution, group: dist.ProcessGroup
) -> Trainee:
    """Prepare an embedder for training and shard it over the workers, in place. A collective."""
    torch.manual_seed(settings.seed)  # every worker draws the same adapters
    prepare_model(
        embedder, settings.trainable, settings.dropout, execution.activation_checkpointing, settings.lora
    )
    flops = count_flops(embedder.backbone)
    log_temperature = None
    if settings.objective.learnable_temperature:
        log_temperature = add_log_temperature(embedder, settings.objective.temperature)
    mesh = DeviceMesh.from_group(group, embedder.device.type)
    shard_model(embedder, mesh, settings.precision, execution.micro_batching.gradient_sync)
    optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay, settings.betas)
    return Trainee(embedder, optimizer, log_temperature, flops)


def compute_gradients(
    trainee: Trainee,
    batches: Sequence[WorkerBatch],
    step: int,
    settings: StageSettings,
    execution: StageExecution,
    group: dist.ProcessGroup,
) -> dict[str, float]:
    """Leave the mean gradient of some global batches, scaled to the norm's bound, in the parameters.

    A collective.

    Args:
        batches: this worker's shares.
        step: number of the optimizer step; with the seed and the rank it makes the draw of dropout.

    Returns:
        the means of the loss's statistics, the gradient's norm before it was scaled, the temperature where it
        is learnt.
    """
    seeds = np.random.SeedSequence([settings.seed, step, dist.get_rank(group)])
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
    found = [
        accumulate_gradients(
            trainee.embedder, batch, settings.objective, execution.micro_batching, group,
            weight=1 / len(batches), log_temperature=trainee.log_temperature,
        )
        for batch in batches
    ]  # fmt: skip
    names = dict.fromkeys(name for each in found for name in each)  # a task may have losses of its own
    statistics = {name: fmean(each[name] for each in found if name in each) for name in names}
    if trainee.log_temperature is not None:
        average_gradient(trainee.log_temperature, group)
        statistics["temperature"] = float(trainee.log_temperature.detach().exp())
    return statistics | {"gradient_norm": _clip(trainee.embedder, settings.max_gradient_norm)}


def update_weights(trainee: Trainee, step: int, settings: StageSettings) -> float:
    """Step by the gradients and clear them; returns the learning rate that it was done with."""
    share = learning_rate_share(step, settings.steps, settings.warmup_share, settings.schedule)
    learning_rate = settings.learning_rate * share
    for parameters in trainee.optimizer.param_groups:
        parameters["lr"] = learning_rate
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    return learning_rate


def _clip(embedder: Embedder, max_norm: float) -> float:
    """Scale what is sharded, which is all but a learnt temperature, to the norm; return what the norm was."""
    sharded = [parameter for parameter in embedder.parameters() if isinstance(parameter, DTensor)]
    norm = nn.utils.clip_grad_norm_(sharded, max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
