"""A training stage, the step that the workflow calls: Ray Train starts workers and keeps checkpoints."""

import json
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import ray
import ray.train
import torch.distributed as dist
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchConfig, TorchTrainer

from components.monitor import Monitor
from components.objective.objective import objective_from
from components.storage import Folder
from components.training.gradient_cache import GradientSync
from components.training.loop import DivergenceError, export_name, run_steps
from components.training.lora import Lora
from components.training.plan_folder import read_plan
from components.training.prepare import Trainable
from components.training.schedule import Schedule, export_steps
from components.training.settings import StageExecution, StageSettings
from components.training.sharding import Precision
from components.training.step import MicroBatching
from components.training.tokens import encoding_digest

FINISHED = "finished.json"
FAILED_BATCH = "failed_batch.json"


def train_stage(
    *,
    batches: Folder,
    model: Folder,
    objective: dict[str, Any],
    learning_rate: float,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    warmup_share: float = 0.1,
    schedule: Schedule = "linear",
    weight_decay: float = 0.01,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    max_gradient_norm: float = 1.0,
    dropout: float | None = None,
    trainable: Trainable = "all",
    lora: dict[str, Any] | None = None,
    accumulate_steps: int = 1,
    precision: Precision = "bfloat16",
    seed: int = 0,
    checkpoints: int = 0,
    checkpoints_from: float = 0.5,
    num_workers: int = 2,
    cpus_per_worker: int = 1,
    use_gpu: bool = False,
    micro_batch_tokens: int = 2048,
    graph_tokens: int = 16384,
    gradient_sync: GradientSync = "micro_batch",
    activation_checkpointing: bool = False,
    checkpoint_every_s: float = 60.0,
    max_failures: int = 3,
) -> dict[str, float]:
    """Train an embedding model on planned batches by Eq. 1 over `num_workers` Ray Train workers with FSDP2.

    Called again with the same `state` after its process died, it goes on from the last checkpoint there and
    ends, on the same number of workers, in the same bits as if it had not died.

    Args:
        batches: what `plan_batches` wrote.
        model: the model directory to start from.
        objective: fields of `components.objective.contrastive.Objective`, and `preset`.
        learning_rate, warmup_share, schedule: peak, share of the steps that rise to it, and what follows.
        dropout: in the backbone; None leaves what the model's config says.
        trainable: `all`, or `without_embeddings`: the embedding tables stay as they are.
        lora: fields of `components.training.lora.Lora`: adapters are trained and nothing else, and merged into
            what is exported.
        accumulate_steps: batches whose mean gradient an optimizer step takes, each with its own negatives.
        precision: of the computation; weights, gradients' reduction and optimizer state are float32.
        checkpoints, checkpoints_from: how many sets of weights are kept for the merge, evenly spread over
            what follows the share `checkpoints_from` of the steps, the last one at the end.
        output: takes `model/`, for each kept set of weights `checkpoints/step-000123/`, and `history.parquet`
            (what each step reported).
        state: what must outlive this call: checkpoints, kept weights.
        num_workers, cpus_per_worker, use_gpu: workers of the group; a GPU each with `use_gpu`.
        micro_batch_tokens: most tokens in one forward, padding included.
        graph_tokens: most tokens, padding included, whose graph a worker keeps from encoding to backward; what
            a global batch has above that is encoded twice (`gradient_cache`).
        gradient_sync: `micro_batch` keeps weights and gradients sharded, `step` talks less between workers.
        activation_checkpointing: keep blocks' inputs alone and compute the blocks again in backward.
        checkpoint_every_s: seconds between checkpoints, at least; 0 takes one after every step.
        max_failures: how often workers that died are started again from the last checkpoint.

    Returns:
        steps, rows, data_wait_share (of the time of all steps, on the first worker), final_loss.

    Raises:
        ValueError: an argument out of range, batches of another tokenizer or with fewer rows than there are
            workers, more workers than the cluster has, or a loss that is not a number (the pair ids of that
            batch are then in `failed_batch.json` of `state` and among the artifacts).
    """
    reading = objective_from(objective)
    adapters = Lora(**{**lora, "layers": tuple(lora.get("layers", ()))}) if lora else None
    if adapters and trainable != "all":
        raise ValueError("with `lora` nothing but the adapters is trained; leave out `trainable`")
    plan = read_plan(batches)
    _check_workers(plan.smallest_batch, num_workers, cpus_per_worker, use_gpu)
    for name, value, choice in (
        ("precision", precision, Precision), ("schedule", schedule, Schedule),
        ("trainable", trainable, Trainable), ("gradient_sync", gradient_sync, GradientSync),
    ):  # fmt: skip
        if value not in get_args(choice):
            raise ValueError(f"{name} is {value!r}; it must be one of {get_args(choice)}")
    for name, count, least in (
        ("accumulate_steps", accumulate_steps, 1), ("micro_batch_tokens", micro_batch_tokens, 1),
        ("graph_tokens", graph_tokens, 0),
    ):  # fmt: skip
        if count < least:
            raise ValueError(f"{name} is {count}; it must be at least {least}")
    with model.local() as directory:
        if encoding_digest(directory) != plan.encoding:
            raise ValueError(
                "the batches were tokenised for a model with another tokenizer or other templates; plan them "
                "with the model that is trained"
            )
    steps = math.ceil(plan.steps / accumulate_steps)
    kept = export_steps(steps, checkpoints, checkpoints_from)
    settings = StageSettings(
        objective=reading, batches=plan.fingerprint, accumulate_steps=accumulate_steps, steps=steps,
        learning_rate=learning_rate, warmup_share=warmup_share, schedule=schedule,
        weight_decay=weight_decay, betas=(betas[0], betas[1]), max_gradient_norm=max_gradient_norm,
        dropout=dropout, trainable=trainable, lora=adapters, precision=precision, seed=seed,
        export_steps=tuple(sorted({*kept, steps})),
    )  # fmt: skip
    execution = StageExecution(
        batches=batches, model=model, exports=state / "exports", history=state / "history",
        micro_batching=MicroBatching(micro_batch_tokens, graph_tokens, gradient_sync),
        activation_checkpointing=activation_checkpointing,
        checkpoint_every_s=checkpoint_every_s, threads=cpus_per_worker, device="cuda" if use_gpu else "cpu",
    )  # fmt: skip
    monitor.params({"rows": plan.rows, "steps": steps, "workers": num_workers})

    if not state.exists(FINISHED):
        _fit(settings, execution, monitor, state, num_workers, cpus_per_worker, use_gpu, max_failures)
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


def _check_workers(smallest_batch: int, num_workers: int, cpus_per_worker: int, use_gpu: bool) -> None:
    if smallest_batch < num_workers:
        raise ValueError(
            f"the smallest batch of the plan has {smallest_batch} rows; {num_workers} workers need one each"
        )
    if ray.is_initialized():
        have = ray.cluster_resources()
        wanted = {"CPU": num_workers * cpus_per_worker, "GPU": num_workers if use_gpu else 0}
        for resource, count in wanted.items():
            if have.get(resource, 0) < count:
                raise ValueError(
                    f"{num_workers} training workers need {count} {resource}s; the cluster has "
                    f"{have.get(resource, 0):g}"
                )


def _fit(
    settings: StageSettings,
    execution: StageExecution,
    monitor: Monitor,
    state: Folder,
    num_workers: int,
    cpus_per_worker: int,
    use_gpu: bool,
    max_failures: int,
) -> None:
    resources = {"CPU": float(cpus_per_worker)} | ({"GPU": 1.0} if use_gpu else {})
    trainer = TorchTrainer(
        _worker,  # type: ignore[arg-type]  # V2 hands on what rank 0 returns; the annotation is older
        train_loop_config={"settings": settings, "execution": execution, "monitor": monitor, "state": state},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train",
            storage_path=state.uri if not state.is_local else str(Path(state.path()).absolute()),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=max_failures),
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
    settings, execution, state = config["settings"], config["execution"], config["state"]
    checkpoint = ray.train.get_checkpoint()
    group = dist.group.WORLD
    assert group is not None
    run = partial(run_steps, settings, execution, config["monitor"], group, save_checkpoint=_save_checkpoint)
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
