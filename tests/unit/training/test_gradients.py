"""Gradients under FSDP2 over two workers against autograd in one process with the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import run_workers
from torch.distributed.device_mesh import DeviceMesh
from training_rows import pair_table, write_plan

from components.model.embedder import Embedder
from components.objective.contrastive import ContrastiveBatch, Objective
from components.objective.distributed import contrastive_loss
from components.storage import Folder
from components.training.sharding import shard_model
from components.training.step import accumulate_gradients
from components.training.stream import stream_batches

OBJECTIVE = Objective(temperature=0.1)
BATCH_SIZE = 9  # the workers get five rows and four


def sharded_gradients(
    group: dist.ProcessGroup, model: Path, batches: Folder, micro_batch_tokens: int
) -> dict[str, torch.Tensor]:
    embedder = Embedder.load(model).train()
    shard_model(embedder, DeviceMesh.from_group(group, "cpu"), "float32")
    batch = next(stream_batches(batches, 0, dist.get_rank(group), dist.get_world_size(group)))
    statistics = accumulate_gradients(embedder, batch, OBJECTIVE, micro_batch_tokens, group)
    gradients = {name: p.grad.full_tensor() for name, p in embedder.named_parameters() if p.grad is not None}
    return gradients | {"loss": torch.tensor(statistics["loss"])}


def whole_batch_gradients(model: Path, batches: Folder) -> dict[str, torch.Tensor]:
    """One forward a text, no padding, no micro-batches, plain autograd."""
    embedder = Embedder.load(model).train()
    batch = next(stream_batches(batches, 0, 0, 1))
    vectors = torch.cat([embedder(*embedder.pad([ids.tolist()])) for ids in batch.tokens])
    query_BD, positive_BD, negative_MD = vectors.split([BATCH_SIZE, BATCH_SIZE, len(batch.negative_rows)])
    query_id_B, positive_id_B, negative_id_M = torch.from_numpy(batch.identities).split(
        [BATCH_SIZE, BATCH_SIZE, len(batch.negative_rows)]
    )
    width = max(batch.known_positives.lengths)
    known = [[*ids.tolist(), *[-1] * (width - len(ids))] for ids in batch.known_positives]
    assert width > 0
    loss = contrastive_loss(
        ContrastiveBatch(
            query_BD=query_BD,
            positive_BD=positive_BD,
            negative_MD=negative_MD,
            negative_row_M=torch.from_numpy(batch.negative_rows),
            query_id_B=query_id_B,
            positive_id_B=positive_id_B,
            negative_id_M=negative_id_M,
            known_positive_BP=torch.tensor(known),
        ),
        OBJECTIVE,
    ).share
    loss.backward()
    gradients = {name: p.grad for name, p in embedder.named_parameters() if p.grad is not None}
    return gradients | {"loss": loss.detach().double()}


@pytest.mark.parametrize("micro_batch_tokens", [10000, 60])
def test_two_workers_equal_one_process(tmp_path: Path, tiny_model: Path, micro_batch_tokens: int) -> None:
    batches = write_plan(tiny_model, tmp_path, pair_table(16), batch_size=BATCH_SIZE)
    expected = whole_batch_gradients(tiny_model, batches)
    scale = max(float(gradient.abs().max()) for name, gradient in expected.items() if name != "loss")
    for gradients in run_workers(
        sharded_gradients, 2, tmp_path / "workers", tiny_model, batches, micro_batch_tokens
    ):
        assert gradients.keys() == expected.keys()
        assert float(gradients["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
        for name, gradient in expected.items():
            assert float((gradients[name] - gradient).abs().max()) <= 1e-5 * scale, name
