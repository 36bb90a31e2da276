"""A training stage, the step that the workflow calls: Ray Train starts workers and keeps checkpoints."""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import ray
import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from components.model.embedder import Embedder
from components.monitor import Monitor
from components.objective.objective import objective_from
from components.storage import Folder
from components.training.loop import (
    DivergenceError,
    StageExecution,
    StageSettings,
    export_name,
    run_steps,
)
from components.training.schedule import Schedule, export_steps
from components.training.sharding import Precision
from components.training.tokens import read_training_rows, tokenise_pairs

FINISHED = "finished.json"
FAILED_BATCH = "failed_batch.json"


def train_stage(
    *,
    pairs: Folder,
    model: Folder,
    objective: dict[str, Any],
    batch_size: int,
    learning_rate: float,
    output: Folder,
    monitor: Monitor,
    state: Folder,
    extra_pairs: Folder | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    warmup_share: float = 0.1,
    schedule: Schedule = "linear",
    weight_decay: float = 0.01,
    betas: tuple[float, float] | list[float] = (0.9, 0.999),
    max_gradient_norm: float = 1.0,
    dropout: float | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
    negatives_per_query: int = 0,
    precision: Precision = "bfloat16",
    seed: int = 0,
    checkpoints: int = 0,
    checkpoints_from: float = 0.5,
    num_workers: int = 2,
    cpus_per_worker: int = 1,
    use_gpu: bool = False,
    micro_batch_tokens: int = 2048,
    checkpoint_every_s: float = 60.0,
    max_failures: int = 3,
) -> dict[str, float]:
    """Train an embedding model on pairs by Eq. 1 over `num_workers` Ray Train workers with FSDP2.

    Called again with the same `state` after its process died, it goes on from the last checkpoint there and
    ends, on the same number of workers, in the same bits as if it had not died.

    Args:
        pairs, extra_pairs: folders with a `pairs.parquet` (pair table); the rows of both are mixed.
        model: the model directory to start from.
        objective: fields of `components.objective.contrastive.Objective`, and `preset`.
        batch_size: rows of a global batch, over all workers. Rows that do not fill a batch sit out an epoch.
        epochs, steps: how long; exactly one of them. `epochs` counts full batches and may be a fraction.
        learning_rate, warmup_share, schedule: peak, share of the steps that rise to it, and what follows.
        dropout: in the backbone; None leaves what the model's config says.
        query_length, document_length: tokens of the longest text in training; None: those of the
            EncodingSpec.
        negatives_per_query: the first so many hard negatives of a row.
        precision: of the computation; weights, gradients' reduction and optimizer state are float32.
        checkpoints, checkpoints_from: how many sets of weights are kept for the merge, evenly spread over
            what follows the share `checkpoints_from` of the steps, the last one at the end.
        output: takes `model/`, for each kept set of weights `checkpoints/step-000123/`, and `history.parquet`
            (what each step reported).
        state: what must outlive this call: token tables, checkpoints, kept weights.
        num_workers, cpus_per_worker, use_gpu: workers of the group; a GPU each with `use_gpu`.
        micro_batch_tokens: most tokens in one forward, padding included.
        checkpoint_every_s: seconds between checkpoints, at least; 0 takes one after every step.
        max_failures: how often workers that died are started again from the last checkpoint.

    Returns:
        steps, rows, texts, final_loss.

    Raises:
        ValueError: an argument out of range, no pairs, more workers than the cluster has, or a loss that is
            not a number (the pair ids of that batch are then in `failed_batch.json` of `state` and among
            the artifacts).
    """
    reading = objective_from(objective)
    _check(batch_size, num_workers, cpus_per_worker, use_gpu, epochs, steps, precision, schedule)
    tokens = state / "tokens"
    if not tokens.exists("rows.parquet"):
        _write_tokens(
            [folder for folder in (pairs, extra_pairs) if folder is not None],
            model, negatives_per_query, query_length, document_length, tokens,
        )  # fmt: skip
    rows = read_training_rows(tokens)
    if len(rows) < batch_size:
        raise ValueError(
            f"{len(rows)} training pairs do not fill one batch; batch_size must be at most {len(rows)}, "
            f"not {batch_size}"
        )
    if steps is None:
        assert epochs is not None
        steps = max(1, round(epochs * (len(rows) // batch_size)))
    kept = export_steps(steps, checkpoints, checkpoints_from)
    settings = StageSettings(
        objective=reading, batch_size=batch_size, steps=steps, learning_rate=learning_rate,
        warmup_share=warmup_share, schedule=schedule, weight_decay=weight_decay, betas=(betas[0], betas[1]),
        max_gradient_norm=max_gradient_norm, dropout=dropout, precision=precision, seed=seed,
        export_steps=tuple(sorted({*kept, steps})),
    )  # fmt: skip
    execution = StageExecution(
        tokens=tokens, model=model, exports=state / "exports", history=state / "history",
        micro_batch_tokens=micro_batch_tokens,
        checkpoint_every_s=checkpoint_every_s, threads=cpus_per_worker, device="cuda" if use_gpu else "cpu",
    )  # fmt: skip
    monitor.params({"rows": len(rows), "texts": len(rows.tokens), "steps": steps, "workers": num_workers})

    if not state.exists(FINISHED):
        _fit(settings, execution, monitor, state, num_workers, cpus_per_worker, use_gpu, max_failures)
    _deliver(execution.exports, kept, steps, output)
    reports = [json.loads(execution.history.read(name)) for name in execution.history.names("*.json")]
    output.write_table("history.parquet", pa.Table.from_pylist(reports))
    summary = json.loads(state.read(FINISHED))
    return {
        "rows": float(len(rows)),
        "texts": float(len(rows.tokens)),
        "steps": float(steps),
        "final_loss": summary["loss"],
    }


def _check(
    batch_size: int,
    num_workers: int,
    cpus_per_worker: int,
    use_gpu: bool,
    epochs: float | None,
    steps: int | None,
    precision: str,
    schedule: str,
) -> None:
    if batch_size < 2 * num_workers:
        raise ValueError(
            f"batch_size is {batch_size}; {num_workers} workers need at least {2 * num_workers}, "
            "two rows each"
        )
    if (epochs is None) == (steps is None):
        raise ValueError(f"give epochs or steps, exactly one of them; epochs is {epochs}, steps is {steps}")
    if not (epochs if steps is None else steps) > 0:  # type: ignore[operator]
        raise ValueError(f"epochs or steps must be above 0; epochs is {epochs}, steps is {steps}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; it must be one of {get_args(Precision)}")
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule is {schedule!r}; it must be one of {get_args(Schedule)}")
    if ray.is_initialized():
        have = ray.cluster_resources()
        wanted = {"CPU": num_workers * cpus_per_worker, "GPU": num_workers if use_gpu else 0}
        for resource, count in wanted.items():
            if have.get(resource, 0) < count:
                raise ValueError(
                    f"{num_workers} training workers need {count} {resource}s; the cluster has "
                    f"{have.get(resource, 0):g}"
                )


def _write_tokens(
    sources: list[Folder],
    model: Folder,
    negatives_per_query: int,
    query_length: int | None,
    document_length: int | None,
    tokens: Folder,
) -> None:
    with model.local() as directory:
        embedder = Embedder.load(directory)
    tables = [source.read_table("pairs.parquet") for source in sources]
    tokenise_pairs(tables, embedder, negatives_per_query, query_length, document_length, tokens)


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


def _save_checkpoint(step: int, fill: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        fill(Path(directory))
        ray.train.report(
            {"step": step},
            checkpoint=Checkpoint.from_directory(directory),
            checkpoint_dir_name=f"checkpoint-{step:06d}",
        )


def _deliver(exports: Folder, kept: list[int], last: int, output: Folder) -> None:
    for source, target in [
        (export_name(last), output / "model"),
        *((export_name(step), output / "checkpoints" / export_name(step)) for step in kept),
    ]:
        with (exports / source).local() as directory:
            target.upload(directory)
