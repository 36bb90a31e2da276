"""The loop over two workers: a stage that was stopped ends in the same bits as one that was not."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import run_workers
from safetensors.torch import load_file
from training_rows import pair_table, write_plan

from components.model.export import weights_digest
from components.monitor import Silent
from components.objective.objective import Objective
from components.storage import Folder
from components.training.loop import DivergenceError, run_steps
from components.training.lora import Lora
from components.training.micro_batches import MicroBatching
from components.training.settings import StageExecution, StageSettings

BATCH_SIZE = 6
SETTINGS = StageSettings(
    objective=Objective(temperature=0.05, learnable_temperature=True),
    batches="",
    accumulate_steps=2,
    steps=7,
    learning_rate=1e-3,
    warmup_share=0.2,
    schedule="cosine",
    weight_decay=0.1,
    betas=(0.9, 0.98),
    max_gradient_norm=1.0,
    dropout=None,
    trainable="without_embeddings",
    lora=None,
    precision="bfloat16",
    seed=5,
    export_steps=(5, 7),
)


class StoppedError(Exception):
    pass


def execution_in(directory: Path, model: Path, batches: Folder, name: str) -> StageExecution:
    return StageExecution(
        batches=batches,
        model=Folder(str(model)),
        exports=Folder(str(directory / name)),
        history=Folder(str(directory / f"{name}-history")),
        micro_batching=MicroBatching(100, 150, "micro_batch"),
        activation_checkpointing=False,
        checkpoint_every_s=0,
        threads=1,
        device="cpu",
    )


def forget(step: int, save: Callable[[Path], Future[None]]) -> Future[None]:
    nothing: Future[None] = Future()
    nothing.set_result(None)
    return nothing


def stopped_and_undisturbed(
    group: dist.ProcessGroup, model: Path, batches: Folder, directory: Path
) -> dict[str, object]:
    execution = partial(execution_in, directory, model, batches)

    def keep(step: int, save: Callable[[Path], Future[None]]) -> Future[None]:
        if step == 5:  # what was saved after step 4 was written while step 5 was taken
            raise StoppedError
        checkpoint = directory / f"checkpoint-{step}"
        checkpoint.mkdir(exist_ok=True)
        return save(checkpoint)

    undisturbed = run_steps(SETTINGS, execution("undisturbed"), Silent(), group, None, forget)
    with pytest.raises(StoppedError):
        run_steps(SETTINGS, execution("stopped"), Silent(), group, None, keep)
    checkpoint = directory / "checkpoint-4"
    stopped = run_steps(SETTINGS, execution("stopped"), Silent(), group, checkpoint, forget)
    with pytest.raises(ValueError, match="other settings of the stage"):
        run_steps(
            replace(SETTINGS, learning_rate=2e-3), execution("other"), Silent(), group, checkpoint, forget
        )
    diverging = replace(SETTINGS, learning_rate=1e30, max_gradient_norm=1e30, warmup_share=0.0)
    with pytest.raises(DivergenceError) as divergence:
        run_steps(diverging, execution("diverged"), Silent(), group, None, forget)
    return {"undisturbed": undisturbed, "stopped": stopped, "pair_ids": divergence.value.pair_ids}


def test_a_stopped_stage_ends_in_the_same_bits(tmp_path: Path, dropout_model: Path) -> None:
    batches = write_plan(
        dropout_model, tmp_path / "data", pair_table(20), batch_size=BATCH_SIZE, steps=2 * SETTINGS.steps - 1
    )  # 3 batches an epoch: into the third
    results = run_workers(stopped_and_undisturbed, 2, tmp_path, dropout_model, batches, tmp_path)
    start = weights_digest(dropout_model)
    for name in ("step-000005", "step-000007"):
        undisturbed = weights_digest(tmp_path / "undisturbed" / name)
        assert weights_digest(tmp_path / "stopped" / name) == undisturbed != start
    for result in results:
        for field in ("loss", "gradient_norm", "positive_cosine", "masked_share", "temperature"):
            assert result["undisturbed"][field] == result["stopped"][field]
        assert 0 < result["undisturbed"]["mfu"] < 1
        assert result["undisturbed"]["temperature"] != pytest.approx(SETTINGS.objective.temperature, rel=1e-4)
    before = load_file(dropout_model / "model.safetensors")
    for name, tensor in load_file(tmp_path / "undisturbed" / "step-000007" / "model.safetensors").items():
        frozen = "_embeddings." in name or name.startswith("pooler.")
        assert tensor.equal(before[name]) == frozen, name
    # what diverged is named, all of it, on every worker
    assert len(results[0]["pair_ids"]) == BATCH_SIZE * SETTINGS.accumulate_steps
    assert results[0]["pair_ids"] == results[1]["pair_ids"]


def adapted_and_recut(group: dist.ProcessGroup, model: Path, batches: Folder, directory: Path) -> None:
    execution = partial(execution_in, directory, model, batches)
    settings = replace(SETTINGS, dropout=0.0, precision="float32", trainable="all")
    run_steps(settings, execution("once"), Silent(), group, None, forget)
    recut = replace(execution("recut"), micro_batching=MicroBatching(35, 0, "step"))
    run_steps(settings, recut, Silent(), group, None, forget)
    shorter = replace(SETTINGS.objective, matryoshka_dimensions=(16, 32))
    adapters = Lora(rank=4, layers=("query", "dense"), dropout=0.1)
    lora = replace(settings, lora=adapters, objective=shorter)
    run_steps(lora, execution("lora"), Silent(), group, None, forget)
    again = replace(execution("lora-again"), activation_checkpointing=True)
    run_steps(lora, again, Silent(), group, None, forget)


def test_other_micro_batches_and_adapters(tmp_path: Path, tiny_model: Path) -> None:
    batches = write_plan(
        tiny_model, tmp_path / "data", pair_table(20), batch_size=BATCH_SIZE, steps=2 * SETTINGS.steps - 1
    )
    run_workers(adapted_and_recut, 2, tmp_path, tiny_model, batches, tmp_path)

    def weights(name: str) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / name / "step-000007" / "model.safetensors")

    before, once = load_file(tiny_model / "model.safetensors"), weights("once")
    assert not once["encoder.layer.1.output.dense.weight"].equal(
        before["encoder.layer.1.output.dense.weight"]
    )
    torch.testing.assert_close(weights("recut"), once, rtol=1e-5, atol=1e-5)
    adapted = weights("lora")
    changed = {name for name, tensor in adapted.items() if not tensor.equal(before[name])}
    assert changed == {
        name for name in before if name.endswith((".query.weight", ".dense.weight")) and "pooler" not in name
    }
    torch.testing.assert_close(weights("lora-again"), adapted, rtol=1e-5, atol=1e-5)
    for name, dimensions in (("once", None), ("lora", [16, 32])):
        config = json.loads((tmp_path / name / "step-000007" / "config.json").read_text())
        assert config.get("matryoshka_dimensions") == dimensions
