"""A reranker's gradients over two workers against plain autograd through the whole batch and every position."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import run_workers
from reranking_rows import reranking_table, write_reranking_plan
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from torch.distributed.device_mesh import DeviceMesh

from components.model.reranker import YesNoReranker, load_reranker
from components.objective.judging import Judging
from components.storage import Folder
from components.training.judged import stream_judged
from components.training.micro_batches import MicroBatching
from components.training.prepare import prepare_model
from components.training.reranker_plan import read_labels
from components.training.reranker_step import accumulate_judged_gradients, label_weights
from components.training.sharding import shard_model

ROWS = 9
TEMPERATURE = 0.7
CUTS = [MicroBatching(900, 0, "micro_batch"), MicroBatching(10**6, 10**6, "step")]


def worker_gradients(group: dist.ProcessGroup, model: Path, batches: Folder, judging: Judging):
    """Statistics and gradients for each of CUTS."""
    found = []
    for cut in CUTS:
        reranker = load_reranker(model)
        prepare_model(reranker, "all", dropout=0.0, activation_checkpointing=False)
        shard_model(reranker.model, DeviceMesh.from_group(group, "cpu"), "float32", cut.gradient_sync)
        batch = next(stream_judged(batches, 0, dist.get_rank(group), dist.get_world_size(group)))
        labels = read_labels(batches)
        weights = label_weights(judging, labels.yes, labels.no)
        statistics = accumulate_judged_gradients(reranker, batch, judging, weights, cut, group)
        gradients = {name: p.grad.full_tensor() for name, p in reranker.model.named_parameters()}
        found.append((statistics, gradients))
    return found


def plain_gradients(model: Path, batches: Folder, judging: Judging):
    """One process, one padded batch in float64, logits of every position, the formulas as the papers write them."""
    reranker = load_reranker(model, torch.float64)
    batch = next(stream_judged(batches, 0, 0, 1))
    labels = read_labels(batches)
    ids_BT, mask_BT, types_BT = reranker.pad(batch.pairs())
    rows = [np.flatnonzero(batch.row == row) for row in range(int(batch.row[-1]) + 1)]
    if isinstance(reranker, YesNoReranker):
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(0)
        logits_BTV = reranker.model(ids_BT, attention_mask=mask_BT, position_ids=positions_BT).logits
        last_BV = logits_BTV[:, -1]  # padded on the left
        z = last_BV[:, reranker.yes_id] - last_BV[:, reranker.no_id]
    else:
        z = reranker.model(ids_BT, attention_mask=mask_BT, token_type_ids=types_BT).logits[:, 0]
    yes = torch.from_numpy(batch.label) > 0
    if judging.is_listwise:
        z, teacher = z / TEMPERATURE, torch.from_numpy(batch.teacher_scores).double() / TEMPERATURE
        share = [torch.log_softmax(z[row], 0) for row in rows]
        if judging.loss == "listwise":
            losses = [-each[0] for each in share]
        else:
            losses = [
                -(torch.softmax(teacher[row], 0) * each).sum() for row, each in zip(rows, share, strict=True)
            ]
        loss = torch.stack(losses).mean()
    else:
        if judging.loss == "full_vocabulary":
            token = torch.where(yes, reranker.yes_id, reranker.no_id)
            each = -torch.log_softmax(last_BV, 1)[torch.arange(len(z)), token]
        else:
            each = -torch.nn.functional.logsigmoid(torch.where(yes, z, -z))
        total = labels.yes + labels.no
        weight = torch.where(yes, total / (2 * labels.yes), total / (2 * labels.no))
        loss = (weight * each).mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in reranker.model.named_parameters()}
    return loss.item(), float(((z > 0) == yes).double().mean()), gradients


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("decoder", "full_vocabulary"),
        ("decoder", "two_way"),
        ("decoder", "listwise"),
        ("decoder", "distillation"),
        ("encoder", "two_way"),
        ("encoder", "distillation"),
    ],
)
def test_gradients_are_those_of_the_whole_batch(tmp_path: Path, kind: str, loss: str) -> None:
    write = write_yes_no_model if kind == "decoder" else write_cross_encoder
    model = write(tmp_path / "model")
    batches = write_reranking_plan(model, tmp_path, reranking_table(ROWS), loss, steps=1)
    judging = Judging(loss=loss, temperature=TEMPERATURE)
    expected_loss, accuracy, expected = plain_gradients(model, batches, judging)
    one, other = run_workers(worker_gradients, 2, tmp_path / "workers", model, batches, judging)
    assert [statistics for statistics, _ in one] == [statistics for statistics, _ in other]
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-4
    for statistics, gradients in one:
        assert statistics["loss"] == pytest.approx(expected_loss, rel=1e-5)
        assert statistics["accuracy"] == pytest.approx(accuracy)
        for name, gradient in expected.items():
            torch.testing.assert_close(
                gradients[name].double(), gradient, rtol=1e-4, atol=max(1e-6, 1e-5 * largest)
            )
