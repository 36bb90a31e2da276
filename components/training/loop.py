"""The loop that one worker runs over the steps of a stage.

Knows of torch.distributed and of nothing above it: who starts the workers and where a checkpoint goes is the
caller's (`components/training/stage.py`). Everything that a step does follows from (settings, step, rank,
number of workers), dropout included, so a checkpoint is weights, optimizer state and the step; from there
on the run is bit-identical to one that was never stopped.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from components.model.embedder import Embedder
from components.model.export import save_model
from components.monitor import Monitor
from components.objective.contrastive import Objective
from components.storage import Folder
from components.training.schedule import Schedule, learning_rate_share
from components.training.sharding import (
    Precision,
    full_weights,
    load_state,
    make_optimizer,
    save_state,
    shard_model,
)
from components.training.step import accumulate_gradients
from components.training.stream import pair_ids, stream_batches

POSITION = "position.json"


@dataclass(frozen=True)
class StageSettings:
    """What decides the numbers of a stage, beside the weights that it starts from.

    Attributes:
        batches: fingerprint of the plan.
        steps: optimizer steps in all, one a batch of the plan.
        learning_rate: the peak; `warmup_share` of the steps rise to it, `schedule` says what follows.
        max_gradient_norm: gradients are scaled down to this global norm.
        dropout: probability in the backbone, attention included; None leaves what its config says.
        precision: of the forward and backward computation; weights and optimizer state are float32.
        export_steps: numbers of finished steps after which the weights are kept.
    """

    objective: Objective
    batches: str
    steps: int
    learning_rate: float
    warmup_share: float
    schedule: Schedule
    weight_decay: float
    betas: tuple[float, float]
    max_gradient_norm: float
    dropout: float | None
    precision: Precision
    seed: int
    export_steps: tuple[int, ...]

    def digest(self) -> str:
        """Of all values: a checkpoint is resumed only by the settings that made it."""
        values = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()


@dataclass(frozen=True)
class StageExecution:
    """Where and with what a stage runs.

    Attributes:
        batches: folder that `plan_batches` wrote.
        model: folder of the model that the stage starts from.
        exports: folder that takes the kept weights, a model directory each (`step-000123`).
        micro_batch_tokens: most tokens of a micro-batch, padding included.
        checkpoint_every_s: seconds between two checkpoints, or more.
        threads: torch threads of a worker.
    """

    batches: Folder
    model: Folder
    exports: Folder
    history: Folder
    """Takes what each step reported; a step that is repeated after a resume reports the same again."""
    micro_batch_tokens: int
    checkpoint_every_s: float
    threads: int
    device: str


class DivergenceError(Exception):
    """The loss or the gradient is no longer a number. `pair_ids` are those of the global batch."""

    def __init__(self, step: int, what: str, pair_ids: list[str]) -> None:
        super().__init__(f"{what} at step {step} is not a finite number")
        self.step, self.pair_ids = step, pair_ids


def export_name(step: int) -> str:
    return f"step-{step:06d}"


def run_steps(
    settings: StageSettings,
    execution: StageExecution,
    monitor: Monitor,
    group: dist.ProcessGroup,
    resume_from: Path | None,
    save_checkpoint: Callable[[int, Callable[[Path], None]], None],
) -> dict[str, float]:
    """Train to the last step. A collective: every worker of `group` calls it with the same settings.

    Args:
        resume_from: directory of a checkpoint, the same one on every worker; None starts at step 0.
        save_checkpoint: called by all workers after the same step with the number of finished steps and a
            function that fills a directory with this worker's part of the checkpoint.

    Returns:
        what the last step reported, on every worker; `data_wait_share` is the part of the step's time in
        which this worker waited for its rows.

    Raises:
        DivergenceError: on every worker alike.
        ValueError: the checkpoint was made by other settings.
    """
    torch.set_num_threads(execution.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A guard against reading such memory, paid for in time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    rank, workers = dist.get_rank(group), dist.get_world_size(group)
    with execution.model.local() as directory:
        embedder = Embedder.load(directory, device=execution.device)
    _prepare(embedder, settings.dropout, execution.device)
    mesh = DeviceMesh.from_group(group, execution.device.split(":")[0])
    shard_model(embedder, mesh, settings.precision)
    optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay, settings.betas)

    start = 0
    if resume_from is not None:
        start = _position(resume_from, settings)
        load_state(embedder, optimizer, resume_from)

    def save_part(directory: Path) -> None:
        save_state(embedder, optimizer, directory)
        if rank == 0:
            position = {"step": done, "settings": settings.digest()}
            (directory / POSITION).write_text(json.dumps(position))

    report: dict[str, float] = {}
    last_checkpoint = time.monotonic()
    batches = stream_batches(execution.batches, start, rank, workers)
    for step in range(start, settings.steps):
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        # The draw of dropout: another one for every step and worker, the same again after a resume.
        torch.manual_seed(
            int(np.random.SeedSequence([settings.seed, step, rank]).generate_state(1, np.uint64)[0])
        )
        statistics = accumulate_gradients(
            embedder, batch, settings.objective, execution.micro_batch_tokens, group
        )
        norm = _clip(embedder, settings.max_gradient_norm)
        done = step + 1
        for what, value in (("the loss", statistics["loss"]), ("the gradient norm", norm)):
            if not math.isfinite(value):
                raise DivergenceError(done, what, pair_ids(execution.batches, step))
        share = learning_rate_share(step, settings.steps, settings.warmup_share, settings.schedule)
        for parameters in optimizer.param_groups:
            parameters["lr"] = settings.learning_rate * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        seconds = time.monotonic() - began
        del statistics["rows"]  # the batch size, every time
        report = {
            **statistics,
            "learning_rate": settings.learning_rate * share,
            "gradient_norm": norm,
            "tokens_per_second": batch.global_tokens / seconds,
            "step_seconds": seconds,
            "data_wait_share": waited / seconds,
        }
        if rank == 0:
            monitor.metrics(report, step=done)
            execution.history.write(
                f"{export_name(done)}.json", json.dumps({"step": done, **report}).encode()
            )
            monitor.progress(
                done,
                settings.steps,
                "step",
                loss=report["loss"],
                tokens_per_second=report["tokens_per_second"],
            )
        if done in settings.export_steps:
            _export(embedder, execution.exports / export_name(done), rank)
        if done < settings.steps and _agreed(time.monotonic() - last_checkpoint, execution, group):
            save_checkpoint(done, save_part)
            last_checkpoint = time.monotonic()
    return report


def _prepare(embedder: Embedder, dropout: float | None, device: str) -> None:
    embedder.train()
    pooler = getattr(embedder.backbone, "pooler", None)
    if pooler is not None:
        # BERT's head, which no vector passes: it would have neither a gradient nor optimizer state to resume.
        pooler.requires_grad_(False)
    if device == "cpu":
        # torch's fused attention on the CPU takes 1.6 times as long backward as plain matrix products
        embedder.backbone.set_attn_implementation("eager")
    if dropout is None:
        return
    for module in embedder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout  # type: ignore[assignment]


def _position(directory: Path, settings: StageSettings) -> int:
    position = json.loads((directory / POSITION).read_text())
    if position["settings"] != settings.digest():
        raise ValueError(
            f"the checkpoint {directory} was made by other settings of the stage; "
            "resume it with those, or give the stage another state folder"
        )
    return position["step"]


def _clip(embedder: Embedder, max_norm: float) -> float:
    norm = nn.utils.clip_grad_norm_(embedder.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _agreed(elapsed: float, execution: StageExecution, group: dist.ProcessGroup) -> bool:
    """Whether a checkpoint is due by the clock of rank 0: the clocks differ, the answer must not."""
    due = torch.tensor(int(elapsed >= execution.checkpoint_every_s), device=execution.device)
    dist.broadcast(due, group=group, group_src=0)
    return bool(due)


def _export(embedder: Embedder, target: Folder, rank: int) -> None:
    """Write the present weights as a model directory. A collective; rank 0 writes."""
    weights = full_weights(embedder)
    if rank != 0:
        return
    prefix = "backbone."
    backbone = {
        name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)
    }
    target.delete()
    with target.writable() as directory:
        save_model(directory, embedder.backbone.config, backbone, embedder.spec, embedder.tokenizer)
