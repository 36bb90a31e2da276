"""A reranker as a stage trains it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from components.model.reranker import Reranker, YesNoReranker, load_reranker
from components.model.reranker_export import save_reranker
from components.objective.judging import Judging
from components.storage import Folder
from components.training.flops import count_flops
from components.training.judged import stream_judged
from components.training.lora import merged_weights
from components.training.prepare import prepare_model
from components.training.reranker_plan import read_labels
from components.training.reranker_step import accumulate_judged_gradients, label_weights
from components.training.settings import StageExecution, StageSettings
from components.training.sharding import make_optimizer, shard_model
from components.training.trainee import Trainee


def make_reranker_trainee(
    settings: StageSettings, execution: StageExecution, group: dist.ProcessGroup
) -> Trainee:
    """Load a reranker, prepare it for training and shard it over the workers. A collective."""
    assert isinstance(settings.objective, Judging)
    with execution.model.local() as directory:
        reranker = load_reranker(directory, device=execution.device)
    if isinstance(reranker, YesNoReranker):
        reranker.padding_side = "left"  # all texts end at one position, and the head looks at no other
    torch.manual_seed(settings.seed)  # every worker draws the same adapters
    prepare_model(
        reranker, settings.trainable, settings.dropout, execution.activation_checkpointing, settings.lora
    )
    flops = count_flops(reranker.model)
    mesh = DeviceMesh.from_group(group, reranker.device.type)
    # The transformer with its head is the root: what a loss needs of it is asked of it alone.
    shard_model(reranker.model, mesh, settings.precision, execution.micro_batching.gradient_sync)
    optimizer = make_optimizer(reranker.model, settings.learning_rate, settings.weight_decay, settings.betas)
    rank, workers = dist.get_rank(group), dist.get_world_size(group)
    labels = read_labels(execution.batches)
    accumulate = partial(
        accumulate_judged_gradients, reranker, judging=settings.objective,
        weights=label_weights(settings.objective, labels.yes, labels.no),
        micro_batching=execution.micro_batching, group=group,
    )  # fmt: skip
    return Trainee(
        model=reranker.model,
        kept=reranker.model,
        optimizer=optimizer,
        of_the_loss={},
        flops=flops,
        stream=lambda start: stream_judged(execution.batches, start, rank, workers),
        accumulate=lambda batch, weight: accumulate(batch, weight=weight),
        save=partial(_save, reranker, settings, execution.model),
    )


def _save(
    reranker: Reranker, settings: StageSettings, start: Folder, directory: Path, weights: Mapping[str, Tensor]
) -> None:
    if settings.lora is not None:
        with start.local() as source:
            weights = merged_weights(load_reranker(source).model, settings.lora, weights)
    save_reranker(directory, reranker.model.config, weights, reranker.pair_spec, reranker.tokenizer)
