"""Stages of every kind over two workers: they learn, resume, and leave a model without scaffolding."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from gloo import run_workers
from safetensors.torch import load_file
from tiny_model import write_tiny_model
from training_rows import pair_table, write_plan

from components.model.embedder import POOLING_FILE, Embedder
from components.monitor import Silent
from components.objective.kinds import Classification, Reconstruction, Regression
from components.objective.objective import Objective
from components.storage import Folder
from components.training.loop import run_steps
from components.training.micro_batches import MicroBatching
from components.training.settings import StageExecution, StageSettings
from components.training.stage import train_stage

STEPS = 14
BASE = StageSettings(
    objective=Objective(temperature=0.1), batches="", accumulate_steps=1, steps=STEPS, learning_rate=3e-3,
    warmup_share=0.0, schedule="constant", weight_decay=0.0, betas=(0.9, 0.98), max_gradient_norm=1.0,
    dropout=None, trainable="all", lora=None, precision="float32", seed=5, export_steps=(STEPS,),
)  # fmt: skip

TEMPLATE = "w1 w2 {text} w3 [MASK] w4"
KINDS = {
    "head": (replace(BASE, training_head="mlp"), {}),
    "pooling": (BASE, {"pooling": "last_layer_trainable", "pooling_queries": 3}),
    "denoising": (
        replace(BASE, template_denoising=True),
        {"pooling": "prompt", "query_template": TEMPLATE, "document_template": TEMPLATE, "query_length": 32},
    ),
    "classes": (replace(BASE, objective=Classification(classes=3)), {}),
    "scores": (replace(BASE, objective=Regression(lowest=0.0, highest=2.0)), {}),
    "reconstruction": (replace(BASE, objective=Reconstruction()), {"pooling": "cls"}),
    "bfloat16": (
        replace(BASE, objective=Reconstruction(), precision="bfloat16"),
        {"pooling": "multi_layer_trainable", "pooling_queries": 3},
    ),
}  # fmt: skip


def execution_in(directory: Path, model: Path, batches: Folder) -> StageExecution:
    return StageExecution(
        batches=batches, model=Folder(str(model)), exports=Folder(str(directory / "exports")),
        history=Folder(str(directory / "history")), micro_batching=MicroBatching(100, 150, "micro_batch"),
        activation_checkpointing=False, checkpoint_every_s=0, threads=1, device="cpu",
    )  # fmt: skip


def train(
    group: dist.ProcessGroup, kind: str, directory: Path, model: Path, batches: Folder
) -> dict[str, float]:
    """To the end, and from a checkpoint in the middle to the end once more."""
    settings, _ = KINDS[kind]

    def keep(step: int, save: Callable[[Path], Future[None]]) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        if step != STEPS // 2:
            return done
        (directory / "checkpoint").mkdir(exist_ok=True)
        return save(directory / "checkpoint")

    whole = run_steps(
        settings, execution_in(directory / "whole", model, batches), Silent(), group, None, keep
    )
    dist.barrier(group)
    again = run_steps(
        settings, execution_in(directory / "again", model, batches), Silent(), group, directory / "checkpoint",
        lambda _, save: keep(0, save),
    )  # fmt: skip
    assert again["loss"] == whole["loss"]
    return whole


def losses(directory: Path, name: str = "loss") -> list[float]:
    history = Folder(str(directory / "whole" / "history"))
    return [json.loads(history.read(file))[name] for file in history.names("*.json")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_learns_and_resumes(tmp_path: Path, kind: str) -> None:
    _, spec = KINDS[kind]
    # Of a random model a text's vector less the template's is mostly what their two dropouts differ by.
    dropout = 0.0 if kind == "denoising" else 0.1
    plain = Embedder.load(write_tiny_model(tmp_path / "plain", dropout=dropout))
    plain.tokenizer.mask_token = "[UNK]" if "template" not in str(spec) else "w5"
    template = {key: value.replace("[MASK]", "w5") for key, value in spec.items() if "template" in key}
    values = spec | template
    Embedder(plain.backbone, replace(plain.spec, **values), plain.tokenizer).save(tmp_path / "model")
    table = pair_table(24)
    scores = pa.array(np.arange(24) % 3, pa.float32())
    batches = write_plan(
        tmp_path / "model", tmp_path / "data", table.append_column("score", scores), batch_size=8, steps=STEPS
    )
    run_workers(train, 2, tmp_path / "workers", kind, tmp_path, tmp_path / "model", batches)
    found = losses(tmp_path)
    assert np.mean(found[-3:]) < np.mean(found[:3])
    exported = tmp_path / "whole" / "exports" / f"step-{STEPS:06d}"
    model = Embedder.load(exported)
    assert model.spec == Embedder.load(tmp_path / "model").spec
    names = {path.name for path in exported.glob("*.safetensors")}
    assert names == {"model.safetensors"} | ({POOLING_FILE} if "pooling_queries" in spec else set())
    if "pooling_queries" in spec:
        before, after = (load_file(path / POOLING_FILE) for path in (tmp_path / "model", exported))
        assert all(not torch.equal(before[name], after[name]) for name in before)


def test_a_score_that_cannot_be_used_is_found_before_workers_start(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    scores = pa.array([None] * 23 + [5.0], pa.float32())
    table = pair_table(24).append_column("score", scores)
    batches = write_plan(model, tmp_path / "data", table, batch_size=8, steps=STEPS)
    folders = {name: Folder(str(tmp_path / name)) for name in ("output", "state")}
    step = {"batches": batches, "model": Folder(str(model)), "learning_rate": 1e-3, "monitor": Silent()}
    for objective, right in (
        ({"kind": "regression", "highest": 4.0}, "between lowest 0.0 and highest 4.0"),
        ({"kind": "classification", "classes": 3}, "a whole number from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=f"a pair's score is 5.0.*{right}"):
            train_stage(**step, **folders, objective=objective)
    assert not (tmp_path / "state").exists()
