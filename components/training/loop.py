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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from components.model.embedder import DTYPES, Embedder
from components.model.export import save_model
from components.monitor import Monitor
from components.objective.objective import Objective
from components.storage import Folder
from components.training.checkpoint import load_state, save_state, saved_step
from components.training.flops import count_flops, matrix_product_rate
from components.training.prepare import Trainable, prepare_model
from components.training.schedule import Schedule, learning_rate_share
from components.training.sharding import Precision, full_weights, make_optimizer, shard_model
from components.training.step import MicroBatching, accumulate_gradients
from components.training.stream import pair_ids, stream_batches


@dataclass(frozen=True)
class StageSettings:
    """What decides the numbers of a stage, beside the weights that it starts from.

    Attributes:
        batches: fingerprint of the plan.
        accumulate_steps: batches of the plan whose mean gradient an optimizer step takes. Each has its own
            negatives.
        steps: optimizer steps in all; the last one takes the batches that are left.
        learning_rate: the peak; `warmup_share` of the steps rise to it, `schedule` says what follows.
        max_gradient_norm: gradients are scaled down to this global norm.
        dropout: probability in the backbone, attention included; None leaves what its config says.
        precision: of the forward and backward computation; weights and optimizer state are float32.
        export_steps: numbers of finished steps after which the weights are kept.
    """

    objective: Objective
    batches: str
    accumulate_steps: int
    steps: int
    learning_rate: float
    warmup_share: float
    schedule: Schedule
    weight_decay: float
    betas: tuple[float, float]
    max_gradient_norm: float
    dropout: float | None
    trainable: Trainable
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
        activation_checkpointing: blocks are computed again in backward instead of kept.
        checkpoint_every_s: seconds between two checkpoints, or more.
        threads: torch threads of a worker.
    """

    batches: Folder
    model: Folder
    exports: Folder
    history: Folder
    """Takes what each step reported; a step that is repeated after a resume reports the same again."""
    micro_batching: MicroBatching
    activation_checkpointing: bool
    checkpoint_every_s: float
    threads: int
    device: str


class DivergenceError(Exception):
    """The loss or the gradient is no longer a number. `pair_ids` are those of the step's global batches."""

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
    save_checkpoint: Callable[[int, Callable[[Path], Future[None]]], Future[None]],
) -> dict[str, float]:
    """Train to the last step. A collective: every worker of `group` calls it with the same settings.

    Args:
        resume_from: directory of a checkpoint, the same one on every worker; None starts at step 0.
        save_checkpoint: called by all workers after the same step with the number of finished steps and a
            function that begins to write this worker's part of the checkpoint into a directory and returns
            the Future of `checkpoint.save_state`. It hands that on; training goes on meanwhile.

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
    device = embedder.device
    prepare_model(embedder, settings.trainable, settings.dropout, execution.activation_checkpointing)
    flops = count_flops(embedder.backbone)
    shard_model(
        embedder, DeviceMesh.from_group(group, device.type), settings.precision,
        execution.micro_batching.gradient_sync,
    )  # fmt: skip
    optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay, settings.betas)
    # Checkpoints are agreed on in a thread of their own, which must not talk in between the training's words.
    checkpoint_group = dist.new_group(dist.get_process_group_ranks(group), backend="gloo")
    possible_flops = matrix_product_rate(DTYPES[settings.precision], device, group)

    start = 0
    if resume_from is not None:
        start = saved_step(resume_from, settings.digest())
        load_state(embedder, optimizer, resume_from)

    report: dict[str, float] = {}
    saving: Future[None] | None = None
    last_checkpoint = time.monotonic()
    stream = stream_batches(execution.batches, start * settings.accumulate_steps, rank, workers)
    for step in range(start, settings.steps):
        began = time.monotonic()
        batches = list(islice(stream, settings.accumulate_steps))
        waited = time.monotonic() - began
        # The draw of dropout: another one for every step and worker, the same again after a resume.
        torch.manual_seed(
            int(np.random.SeedSequence([settings.seed, step, rank]).generate_state(1, np.uint64)[0])
        )
        statistics = _mean(
            [
                accumulate_gradients(
                    embedder, batch, settings.objective, execution.micro_batching, group,
                    weight=1 / len(batches),
                )
                for batch in batches
            ]
        )  # fmt: skip
        norm = _clip(embedder, settings.max_gradient_norm)
        done = step + 1
        for what, value in (("the loss", statistics["loss"]), ("the gradient norm", norm)):
            if not math.isfinite(value):
                numbers = range(
                    step * settings.accumulate_steps, step * settings.accumulate_steps + len(batches)
                )
                failed = [pair_id for number in numbers for pair_id in pair_ids(execution.batches, number)]
                raise DivergenceError(done, what, failed)
        share = learning_rate_share(step, settings.steps, settings.warmup_share, settings.schedule)
        for parameters in optimizer.param_groups:
            parameters["lr"] = settings.learning_rate * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        needed_flops = _sum(sum(flops.of(batch.tokens.lengths) for batch in batches), device, group)
        seconds = time.monotonic() - began
        del statistics["rows"]  # the batch size, every time
        report = {
            **statistics,
            "learning_rate": settings.learning_rate * share,
            "gradient_norm": norm,
            "tokens_per_second": sum(batch.global_tokens for batch in batches) / seconds,
            "step_seconds": seconds,
            "data_wait_share": waited / seconds,
            "mfu": needed_flops / seconds / possible_flops,
        }
        if device.type == "cuda":
            report["gpu_peak_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        if rank == 0:
            _tell(report, done, settings.steps, monitor, execution.history)
        if done in settings.export_steps:
            _export(embedder, execution.exports / export_name(done), rank)
        if done < settings.steps and _agreed(time.monotonic() - last_checkpoint, execution, group):
            if saving is not None:
                saving.result()  # one at a time: each holds a copy of the state
            save = partial(save_state, embedder, optimizer, done, settings.digest(), group=checkpoint_group)
            saving = save_checkpoint(done, save)
            last_checkpoint = time.monotonic()
    return report


def _mean(statistics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in statistics) / len(statistics) for name in statistics[0]}


def _sum(value: float, device: torch.device, group: dist.ProcessGroup) -> float:
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=group)
    return float(total)


def _tell(report: dict[str, float], done: int, steps: int, monitor: Monitor, history: Folder) -> None:
    monitor.metrics(report, step=done)
    history.write(f"{export_name(done)}.json", json.dumps({"step": done, **report}).encode())
    shown = {name: report[name] for name in ("loss", "tokens_per_second")}
    monitor.progress(done, steps, "step", **shown)


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
