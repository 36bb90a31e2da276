"""What a stage trains, and one optimizer step of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from components.model.backbone import load_backbone
from components.model.embedder import Embedder
from components.model.export import save_model
from components.objective.autoencoder import AutoEncoder
from components.objective.judging import Judging
from components.objective.kinds import Classification, Reconstruction
from components.objective.objective import Objective
from components.objective.pairs import PairClassifier
from components.storage import Folder
from components.training.batch import Ragged
from components.training.flops import TrainingFlops, count_flops
from components.training.lora import merged_weights
from components.training.prepare import add_training_parts, prepare_model
from components.training.reconstruction import accumulate_reconstruction
from components.training.schedule import learning_rate_share
from components.training.settings import StageExecution, StageSettings
from components.training.sharding import loss_parameters, make_optimizer, shard_model
from components.training.step import accumulate_gradients
from components.training.stream import stream_batches
from components.training.temperature import add_log_temperature, average_gradient


class Batch(Protocol):
    """A worker's share of one global batch, as far as the loop looks at it."""

    @property
    def tokens(self) -> Ragged:
        """Its texts."""
        ...

    @property
    def global_tokens(self) -> int:
        """Of the global batch, over all workers."""
        ...


@dataclass(frozen=True)
class Trainee:
    """A sharded model, its optimizer, and what is particular to its kind.

    Attributes:
        model: the root that FSDP2 sharded: the embedder, an auto-encoder around it, or a reranker's transformer.
        kept: the part of it whose weights are exported.
        of_the_loss: parameters that the loss takes, by name; they are not sharded.
        flops: what forward and backward of a text cost, in the backbone.
        stream: this worker's share of the batches of a plan, from a step on.
        accumulate: adds the gradient of a batch's loss, times a weight, to that of the parameters; gives the loss's
            statistics, `loss` and `rows` among them. A collective.
        save: writes a model directory from the unsharded weights of `kept`.
    """

    model: nn.Module
    kept: nn.Module
    optimizer: torch.optim.Optimizer
    of_the_loss: dict[str, nn.Parameter]
    flops: TrainingFlops
    stream: Callable[[int], Iterator[Any]]
    accumulate: Callable[[Any, float], dict[str, float]]
    save: Callable[[Path, Mapping[str, Tensor]], None]


def make_embedder_trainee(
    settings: StageSettings, execution: StageExecution, group: dist.ProcessGroup
) -> Trainee:
    """Load an embedder, prepare it for training and shard it over the workers. A collective."""
    objective = settings.objective
    assert not isinstance(objective, Judging)
    with execution.model.local() as directory:
        embedder = Embedder.load(directory, device=execution.device)
    torch.manual_seed(settings.seed)  # every worker draws the same adapters
    prepare_model(
        embedder, settings.trainable, settings.dropout, execution.activation_checkpointing, settings.lora
    )
    add_training_parts(embedder, settings.training_head, settings.template_denoising)
    flops = count_flops(embedder.backbone)
    root: nn.Module = embedder
    accumulate: Callable[..., dict[str, float]]
    match objective:
        case Reconstruction():
            root = autoencoder = AutoEncoder(embedder)
            accumulate = partial(accumulate_reconstruction, autoencoder, objective=objective)
        case Classification(classes=classes):
            embedder.classifier = PairClassifier(embedder.spec.dimensions, classes).to(embedder.device)
            accumulate = partial(accumulate_gradients, embedder, objective=objective)
        case _:
            if isinstance(objective, Objective) and objective.learnable_temperature:
                add_log_temperature(embedder, objective.temperature)
            accumulate = partial(accumulate_gradients, embedder, objective=objective)
    mesh = DeviceMesh.from_group(group, embedder.device.type)
    shard_model(embedder, mesh, settings.precision, execution.micro_batching.gradient_sync, root)
    rank, workers = dist.get_rank(group), dist.get_world_size(group)
    return Trainee(
        model=root,
        kept=embedder,
        optimizer=make_optimizer(root, settings.learning_rate, settings.weight_decay, settings.betas),
        of_the_loss=loss_parameters(embedder),
        flops=flops,
        stream=lambda start: stream_batches(execution.batches, start, rank, workers),
        accumulate=lambda batch, weight: accumulate(
            batch=batch, micro_batching=execution.micro_batching, group=group, weight=weight
        ),
        save=partial(_save_embedder, embedder, settings, execution.model),
    )


def _save_embedder(
    embedder: Embedder,
    settings: StageSettings,
    start: Folder,
    directory: Path,
    weights: Mapping[str, Tensor],
) -> None:
    """Adapters are merged; what is there for training alone stays behind."""
    prefix = "backbone."
    backbone = {
        name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)
    }
    if settings.lora is not None:
        with start.local() as source:
            backbone = merged_weights(load_backbone(source), settings.lora, backbone)
    kept = {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith("pooling.") and not name.startswith("pooling.training_head.")
    }
    kept |= {prefix + name: tensor for name, tensor in backbone.items()}
    config = deepcopy(embedder.backbone.config)
    if isinstance(settings.objective, Objective) and settings.objective.matryoshka_dimensions:
        # vLLM gives no fewer dimensions than all unless the config says which were trained.
        config.matryoshka_dimensions = list(settings.objective.matryoshka_dimensions)
    save_model(directory, config, kept, embedder.spec, embedder.tokenizer)


def compute_gradients(
    trainee: Trainee,
    batches: Sequence[Batch],
    step: int,
    settings: StageSettings,
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
    found = [trainee.accumulate(batch, 1 / len(batches)) for batch in batches]
    names = dict.fromkeys(name for each in found for name in each)  # a task may have losses of its own
    statistics = {name: fmean(each[name] for each in found if name in each) for name in names}
    for parameter in trainee.of_the_loss.values():
        average_gradient(parameter, group)
    if "log_temperature" in trainee.of_the_loss:
        statistics["temperature"] = float(trainee.of_the_loss["log_temperature"].detach().exp())
    return statistics | {"gradient_norm": _clip(trainee.model, settings.max_gradient_norm)}


def update_weights(trainee: Trainee, step: int, settings: StageSettings) -> float:
    """Step by the gradients and clear them; returns the learning rate that it was done with."""
    share = learning_rate_share(step, settings.steps, settings.warmup_share, settings.schedule)
    learning_rate = settings.learning_rate * share
    for parameters in trainee.optimizer.param_groups:
        parameters["lr"] = learning_rate
    trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    return learning_rate


def _clip(model: nn.Module, max_norm: float) -> float:
    """Scale what is sharded, which is all but what the loss has of its own, to the norm; return what the norm was."""
    sharded = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
    norm = nn.utils.clip_grad_norm_(sharded, max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
