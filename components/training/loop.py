"""The loop that one worker runs over the steps of a stage.

Knows of torch.distributed and of nothing above it: who starts the workers and where a checkpoint goes is the
caller's (`components/training/stage.py`). Everything that a step does follows from (settings, step, rank,
number of workers), dropout included, so a checkpoint is weights, optimizer state and the step; from there
on the run is bit-identical to one that was never stopped.
"""

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist

from components.model.embedder import DTYPES
from components.monitor import Monitor
from components.objective.judging import Judging
from components.storage import Folder
from components.training.checkpoint import load_state, save_state, saved_step
from components.training.collectives import sum_over_workers
from components.training.flops import matrix_product_rate
from components.training.memory import keep_freed_memory
from components.training.reranker_trainee import make_reranker_trainee
from components.training.settings import StageExecution, StageSettings
from components.training.sharding import full_weights
from components.training.stream import pair_ids
from components.training.trainee import Trainee, compute_gradients, make_embedder_trainee, update_weights

SaveCheckpoint = Callable[[int, Callable[[Path], Future[None]]], Future[None]]
"""Called by all workers after the same step, with the number of finished steps and a function that begins to
write this worker's part of the checkpoint into a directory. Hands on that function's Future: it is done when
the checkpoint is complete, and training goes on meanwhile."""


class DivergenceError(Exception):
    """The loss or the gradient is no longer a number. `pair_ids` are those of the step's global batches."""

    def __init__(self, step: int, what: str, pair_ids: list[str]) -> None:
        super().__init__(f"{what} at step {step} is not a finite number")
        self.step, self.pair_ids = step, pair_ids


WHOLE = ".whole"
"""Behind the name of an export: the file that is written once the export is."""


def export_name(step: int) -> str:
    return f"step-{step:06d}"


def run_steps(
    settings: StageSettings,
    execution: StageExecution,
    monitor: Monitor,
    group: dist.ProcessGroup,
    resume_from: Path | None,
    save_checkpoint: SaveCheckpoint,
) -> dict[str, float]:
    """Train to the last step. A collective: every worker of `group` calls it with the same settings.

    Args:
        resume_from: directory of a checkpoint, the same one on every worker; None starts at step 0.

    Returns:
        what the last step reported, on every worker; `data_wait_share` is the part of the step's time in
        which this worker waited for its rows, `mfu` the model-FLOPs utilisation (`flops`).

    Raises:
        DivergenceError: on every worker alike.
        ValueError: the checkpoint was made by other settings.
    """
    torch.set_num_threads(execution.threads)
    if execution.device == "cpu":
        keep_freed_memory()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A guard against reading such memory, paid for in time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    rank = dist.get_rank(group)
    make = make_reranker_trainee if isinstance(settings.objective, Judging) else make_embedder_trainee
    trainee = make(settings, execution, group)
    device = torch.device(execution.device)
    possible_flops = matrix_product_rate(DTYPES[settings.precision], device, group)
    # Checkpoints are agreed on in a thread of their own, which must not talk in between the training's words.
    checkpoint_group = dist.new_group(dist.get_process_group_ranks(group), backend="gloo")

    start = 0
    if resume_from is not None:
        start = saved_step(resume_from, settings.digest())
        load_state(trainee.model, trainee.optimizer, resume_from)

    report: dict[str, float] = {}
    saving: Future[None] | None = None
    last_checkpoint = time.monotonic()
    stream = trainee.stream(start * settings.accumulate_steps)
    for step in range(start, settings.steps):
        began, done = time.monotonic(), step + 1
        batches = list(islice(stream, settings.accumulate_steps))
        waited = time.monotonic() - began
        statistics = compute_gradients(trainee, batches, step, settings, group)
        for what in ("loss", "gradient_norm"):
            if not math.isfinite(statistics[what]):
                first = step * settings.accumulate_steps
                numbers = range(first, first + len(batches))
                failed = [pair_id for number in numbers for pair_id in pair_ids(execution.batches, number)]
                raise DivergenceError(done, f"the {what.replace('_', ' ')}", failed)
        learning_rate = update_weights(trainee, step, settings)
        own_flops = sum(trainee.flops.of(batch.tokens.lengths) for batch in batches)
        needed_flops = sum_over_workers(own_flops, device, group)

        seconds = time.monotonic() - began
        del statistics["rows"]  # the batch size, every time
        report = {
            **statistics,
            "learning_rate": learning_rate,
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
            _export(trainee, execution, export_name(done), rank)
        if done < settings.steps and _agreed(time.monotonic() - last_checkpoint, execution, group):
            if saving is not None:
                saving.result()  # one at a time: each holds a copy of the state
            save = partial(
                save_state, trainee.model, trainee.optimizer, done, settings.digest(), group=checkpoint_group
            )
            saving = save_checkpoint(done, save)
            last_checkpoint = time.monotonic()
    return report


def _tell(report: dict[str, float], done: int, steps: int, monitor: Monitor, history: Folder) -> None:
    monitor.metrics(report, step=done)
    history.write(f"{export_name(done)}.json", json.dumps({"step": done, **report}).encode())
    shown = {name: report[name] for name in ("loss", "tokens_per_second")}
    monitor.progress(done, steps, "step", **shown)


def _agreed(elapsed: float, execution: StageExecution, group: dist.ProcessGroup) -> bool:
    """Whether a checkpoint is due by the clock of rank 0: the clocks differ, the answer must not."""
    due = torch.tensor(int(elapsed >= execution.checkpoint_every_s), device=execution.device)
    dist.broadcast(due, group=group, group_src=0)
    return bool(due)


def _export(trainee: Trainee, execution: StageExecution, name: str, rank: int) -> None:
    """Write the present weights as a model directory, adapters merged. A collective; rank 0 writes."""
    weights = full_weights(trainee.kept)
    if rank != 0:
        return
    target = execution.exports / name
    target.delete()
    with target.writable() as directory:
        trainee.save(directory, weights)
    execution.exports.write(f"{name}{WHOLE}", b"")
