"""A training stage, the step that the workflow calls: Ray Train starts workers and keeps checkpoints."""

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch
import torch.distributed as dist
from ray import cloudpickle
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer

# What Ray Train notes of its checkpoints; the file has no public name in Ray 2.60.
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from components.monitor import Monitor
from components.objective.judging import Judging
from components.objective.kinds import AnyObjective, Classification, Regression, any_objective_from
from components.objective.pairs import check_scores
from components.storage import Folder
from components.training.loop import DivergenceError, export_name, run_steps
from components.training.micro_batches import MicroBatching
from components.training.network import NodeNetwork
from components.training.plan_folder import read_plan
from components.training.schedule import export_steps
from components.training.settings import Resources, StageExecution, StageSettings, read_options
from components.training.stream import planned_scores
from components.training.tokens import encoding_digest

FINISHED = "finished.json"
FAILED_BATCH = "failed_batch.json"
TRAINER = "train"
"""Folder of Ray Train's checkpoints, in the stage's state."""


def train_stage(
    *,
    batches: Folder,
    model: Folder,
    objective: dict[str, Any],
    output: Folder,
    monitor: Monitor,
    state: Folder,
    checkpoints: int = 0,
    checkpoints_from: float = 0.5,
    **options: Any,
) -> dict[str, float]:
    """Train an embedding model on planned batches over Ray Train workers with FSDP2.

    Called again with the same `state` after its process died, it goes on from the last checkpoint there and
    ends, on the same number of workers, in the same bits as if it had not died.

    Args:
        batches: what `plan_batches` wrote.
        model: the model directory to start from.
        objective: what it is trained by (`components.objective.kinds`): a `kind` and its fields; without one those of
            `components.objective.objective.Objective`, and `preset`. `reconstruction` pre-trains on the positives
            of the pairs alone.
        checkpoints, checkpoints_from: how many sets of weights are kept for the merge, evenly spread over
            what follows the share `checkpoints_from` of the steps, the last one at the end.
        output: takes `model/`, for each kept set of weights `checkpoints/step-000123/`, and `history.parquet`
            (what each step reported).
        state: what must outlive this call: checkpoints, kept weights.
        options: the fields of `settings.Hyperparameters` and `settings.Resources`; `learning_rate` must be given.

    Returns:
        steps, rows, data_wait_share (of the time of all steps, on the first worker), final_loss.

    Raises:
        TypeError: an option that there is not.
        ValueError: an argument out of range, batches of another tokenizer or with fewer rows than there are
            workers, a score that the objective cannot use, more workers than the cluster has, or a loss that is
            not a number (the pair ids of that batch are then in `failed_batch.json` of `state` and among the
            artifacts).
    """
    reading = any_objective_from(objective)
    if isinstance(reading, Classification | Regression):
        for score_N in planned_scores(batches):
            check_scores(torch.from_numpy(score_N), reading)
    with model.local() as directory:
        encoding = encoding_digest(directory)
    return run_stage(
        reading, encoding, batches=batches, model=model, output=output, monitor=monitor, state=state,
        checkpoints=checkpoints, checkpoints_from=checkpoints_from, options=options,
    )  # fmt: skip


def run_stage(
    objective: AnyObjective | Judging,
    encoding: str,
    *,
    batches: Folder,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    checkpoints: int,
    checkpoints_from: float,
    options: Mapping[str, Any],
) -> dict[str, float]:
    """What `train_stage` does, for whatever its objective trains.

    Args:
        encoding: digest of tokenizer and templates of the model; the plan must be made with the same.
    """
    learning, resources = read_options(options)
    plan = read_plan(batches)
    _check_workers(plan.smallest_batch, resources)
    if encoding != plan.encoding:
        raise ValueError(
            "the batches were tokenised for a model with another tokenizer or other templates; plan them "
            "with the model that is trained"
        )
    steps = math.ceil(plan.steps / learning.accumulate_steps)
    kept = export_steps(steps, checkpoints, checkpoints_from)
    settings = StageSettings(
        **vars(learning), objective=objective, batches=plan.fingerprint, steps=steps,
        export_steps=tuple(sorted({*kept, steps})),
    )  # fmt: skip
    execution = StageExecution(
        batches=batches, model=model, exports=state / "exports", history=state / "history",
        micro_batching=MicroBatching(
            resources.micro_batch_tokens, resources.graph_tokens, resources.gradient_sync
        ),
        activation_checkpointing=resources.activation_checkpointing,
        checkpoint_every_s=resources.checkpoint_every_s, threads=resources.cpus_per_worker,
        device="cuda" if resources.use_gpu else "cpu",
    )  # fmt: skip
    monitor.params({"rows": plan.rows, "steps": steps, "workers": resources.num_workers})

    if not state.exists(FINISHED):
        drop_unreadable_checkpoints(state)
        _fit(settings, execution, monitor, state, resources)
    _deliver(execution.exports, kept, steps, output)
    reports = [json.loads(execution.history.read(name)) for name in execution.history.names("*.json")]
    output.write_table("history.parquet", pa.Table.from_pylist(reports))
    summary = json.loads(state.read(FINISHED))
    seconds = sum(report["step_seconds"] for report in reports)
    waited = sum(report["step_seconds"] * report["data_wait_share"] for report in reports)
    return {
        "rows": float(plan.rows),
        "steps": float(steps),
        "data_wait_share": waited / seconds,
        "final_loss": summary["loss"],
    }


def drop_unreadable_checkpoints(state: Folder) -> None:
    """Let the stage begin anew if Ray Train's note of its checkpoints is torn, as a full disk leaves it.

    Ray Train writes the note in place, and none of its controllers starts with one that it cannot read.
    """
    note = f"{TRAINER}/{CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}"
    if not state.exists(note):
        return
    try:
        json.loads(state.read(note))
    except ValueError:
        state.delete(TRAINER)


def _check_workers(smallest_batch: int, resources: Resources) -> None:
    workers = resources.num_workers
    if smallest_batch < workers:
        raise ValueError(
            f"the smallest batch of the plan has {smallest_batch} rows; {workers} workers need one each"
        )
    if ray.is_initialized():
        have = ray.cluster_resources()
        wanted = {"CPU": workers * resources.cpus_per_worker, "GPU": workers if resources.use_gpu else 0}
        for resource, count in wanted.items():
            if have.get(resource, 0) < count:
                raise ValueError(
                    f"{workers} training workers need {count} {resource}s; the cluster has "
                    f"{have.get(resource, 0):g}"
                )


def _fit(
    settings: StageSettings,
    execution: StageExecution,
    monitor: Monitor,
    state: Folder,
    resources: Resources,
) -> None:
    of_worker = {"CPU": float(resources.cpus_per_worker)} | ({"GPU": 1.0} if resources.use_gpu else {})
    trainer = TorchTrainer(
        _worker,  # type: ignore[arg-type]  # V2 hands on what rank 0 returns; the annotation is older
        # As bytes: Ray's controller gets them too, and to read them would import all that trains, for seconds.
        train_loop_config={"stage": cloudpickle.dumps((settings, execution, monitor, state))},
        torch_config=NodeNetwork(backend="nccl" if resources.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers, use_gpu=resources.use_gpu, resources_per_worker=of_worker
        ),
        run_config=RunConfig(
            name=TRAINER,
            storage_path=state.uri if not state.is_local else str(Path(state.path()).absolute()),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    failure = trainer.fit().return_value  # type: ignore[attr-defined]
    if failure is not None:
        pair_ids = json.dumps(failure, indent=2).encode()
        state.write(FAILED_BATCH, pair_ids)
        monitor.artifact(FAILED_BATCH, pair_ids)
        raise ValueError(
            f"{failure['error']}; lower the learning rate or look at the batch's pairs, listed in "
            f"{FAILED_BATCH} of {state.uri}"
        )


def _worker(config: dict[str, Any]) -> dict[str, Any] | None:
    """What Ray Train runs on every worker. A divergence is returned, not raised: retrying would not help."""
    settings, execution, monitor, state = cloudpickle.loads(config["stage"])
    checkpoint = ray.train.get_checkpoint()
    group = dist.group.WORLD
    assert group is not None
    run = partial(run_steps, settings, execution, monitor, group, save_checkpoint=_save_checkpoint)
    try:
        if checkpoint is None:
            report = run(resume_from=None)
        else:
            with checkpoint.as_directory() as directory:
                report = run(resume_from=Path(directory))
    except DivergenceError as divergence:
        return {"error": str(divergence), "pair_ids": divergence.pair_ids}
    if ray.train.get_context().get_world_rank() == 0:
        state.write(FINISHED, json.dumps(report).encode())
    return None


def _save_checkpoint(step: int, save: Callable[[Path], Future[None]]) -> Future[None]:
    """Report a checkpoint to Ray Train, where it counts once every worker has written and uploaded its part."""
    directory = tempfile.mkdtemp()
    written = save(Path(directory))

    def upload(part: Checkpoint, name: str) -> Checkpoint:
        written.result()
        return ray.train.get_context().get_storage().persist_current_checkpoint(part, name)

    ray.train.report(
        {"step": step},
        checkpoint=Checkpoint.from_directory(directory),
        checkpoint_dir_name=f"checkpoint-{step:06d}",
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
        delete_local_checkpoint_after_upload=True,
    )
    return written


def _deliver(exports: Folder, kept: list[int], last: int, output: Folder) -> None:
    for source, target in [
        (export_name(last), output / "model"),
        *((export_name(step), output / "checkpoints" / export_name(step)) for step in kept),
    ]:
        with (exports / source).local() as directory:
            target.upload(directory)
