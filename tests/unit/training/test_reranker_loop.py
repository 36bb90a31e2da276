"""The shared loop with a reranker: a stage that was stopped ends in the same bits, and learns what it is shown."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from gloo import run_workers
from reranking_rows import reranking_table, write_reranking_plan
from test_loop import SETTINGS as EMBEDDER_SETTINGS
from test_loop import StoppedError, execution_in, forget
from tiny_rerankers import write_cross_encoder, write_yes_no_model

from components.model.export import weights_digest
from components.model.reranker import load_reranker
from components.model.reranker_export import check_golden_scores
from components.monitor import Silent
from components.objective.judging import Judging
from components.storage import Folder
from components.training.loop import run_steps
from components.training.lora import Lora
from components.training.micro_batches import MicroBatching

STEPS = 6
SETTINGS = replace(
    EMBEDDER_SETTINGS,
    objective=Judging(),
    accumulate_steps=1,
    steps=STEPS,
    export_steps=(STEPS,),
    trainable="all",
)


def stopped_and_undisturbed(
    group: dist.ProcessGroup, model: Path, batches: Folder, directory: Path, settings
):
    def execution(name):
        found = execution_in(directory, model, batches, name)
        return replace(found, micro_batching=MicroBatching(2000, 3000, "micro_batch"))

    def keep(step: int, save: Callable[[Path], Future[None]]) -> Future[None]:
        if step == 4:
            raise StoppedError
        checkpoint = directory / f"checkpoint-{step}"
        checkpoint.mkdir(exist_ok=True)
        return save(checkpoint)

    run = partial(run_steps, settings, monitor=Silent(), group=group)
    first = run(execution=execution("undisturbed"), resume_from=None, save_checkpoint=forget)
    with pytest.raises(StoppedError):
        run(execution=execution("stopped"), resume_from=None, save_checkpoint=keep)
    last = run(execution=execution("stopped"), resume_from=directory / "checkpoint-3", save_checkpoint=forget)
    return first, last


@pytest.mark.parametrize(("kind", "loss"), [("decoder", "full_vocabulary"), ("encoder", "listwise")])
def test_a_stopped_stage_ends_in_the_same_bits(tmp_path: Path, kind: str, loss: str) -> None:
    write = write_yes_no_model if kind == "decoder" else write_cross_encoder
    model = write(tmp_path / "start")
    batches = write_reranking_plan(
        model, tmp_path / "data", reranking_table(12), loss, steps=STEPS, batch_size=4
    )
    settings = replace(SETTINGS, objective=Judging(loss=loss))
    results = run_workers(stopped_and_undisturbed, 2, tmp_path, model, batches, tmp_path, settings)
    last = f"step-{STEPS:06d}"
    digests = {weights_digest(tmp_path / name / last) for name in ("undisturbed", "stopped")}
    assert len(digests) == 1
    assert weights_digest(model) not in digests
    for undisturbed, stopped in results:
        for field in ("loss", "gradient_norm", "accuracy", "score_yes"):
            assert undisturbed[field] == stopped[field]
    exported = tmp_path / "undisturbed" / last
    assert check_golden_scores(load_reranker(exported), exported) < 1e-5
    assert load_reranker(exported).tokenize.digest() == load_reranker(model).tokenize.digest()


ADAPTED = {"decoder": ("full_vocabulary", "q_proj"), "encoder": ("listwise", "query")}


def adapted(group: dist.ProcessGroup, kind: str, model: Path, batches: Folder, directory: Path):
    loss, layer = ADAPTED[kind]
    settings = replace(
        SETTINGS, lora=Lora(rank=4, layers=(layer,)), precision="float32", learning_rate=0.01,
        objective=Judging(loss=loss),
    )  # fmt: skip
    run_steps(settings, execution_in(directory, model, batches, "lora"), Silent(), group, None, forget)


@pytest.mark.parametrize("kind", ADAPTED)
def test_adapters_are_merged_into_what_is_exported_and_a_head_is_trained(tmp_path: Path, kind: str) -> None:
    loss, layer = ADAPTED[kind]
    write = write_yes_no_model if kind == "decoder" else write_cross_encoder
    model = write(tmp_path / "start")
    batches = write_reranking_plan(model, tmp_path / "data", reranking_table(9), loss, steps=STEPS)
    run_workers(adapted, 1, tmp_path, kind, model, batches, tmp_path)
    before = load_reranker(model).model.state_dict()
    after = load_reranker(tmp_path / "lora" / f"step-{STEPS:06d}").model.state_dict()
    assert {name for name, tensor in after.items() if not tensor.equal(before[name])} == {
        name
        for name in before
        if f".{layer}.weight" in name or name.startswith("classifier.") or ".pooler." in name
    }
