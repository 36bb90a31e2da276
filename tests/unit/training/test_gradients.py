"""Gradients under FSDP2 over two workers against autograd in one process with the whole batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import run_workers
from torch.distributed.device_mesh import DeviceMesh
from training_rows import write_tokens

from components.model.embedder import Embedder
from components.objective.contrastive import ContrastiveBatch, Objective
from components.objective.distributed import contrastive_loss
from components.storage import Folder
from components.training.batches import worker_rows
from components.training.sharding import shard_model
from components.training.step import accumulate_gradients
from components.training.tokens import read_training_rows, worker_batch

OBJECTIVE = Objective(temperature=0.1)
BATCH = np.array([0, 5, 3, 8, 7, 14, 2, 11, 13])  # nine rows: the workers get five and four


def sharded_gradients(
    group: dist.ProcessGroup, model: Path, tokens: Folder, micro_batch_tokens: int
) -> dict[str, torch.Tensor]:
    embedder = Embedder.load(model).train()
    shard_model(embedder, DeviceMesh.from_group(group, "cpu"), "float32")
    rows = read_training_rows(tokens)
    own = worker_batch(rows, worker_rows(BATCH, dist.get_rank(group), dist.get_world_size(group)), BATCH)
    statistics = accumulate_gradients(embedder, own, OBJECTIVE, micro_batch_tokens, group)
    gradients = {name: p.grad.full_tensor() for name, p in embedder.named_parameters() if p.grad is not None}
    return gradients | {"loss": torch.tensor(statistics["loss"])}


def whole_batch_gradients(model: Path, tokens: Folder) -> dict[str, torch.Tensor]:
    """One forward a text, no padding, no micro-batches, plain autograd."""
    embedder = Embedder.load(model).train()
    rows = read_training_rows(tokens)

    def embed(texts: list[int]) -> torch.Tensor:
        return torch.cat([embedder(*embedder.pad([rows.tokens[text].tolist()])) for text in texts])

    negatives = [(i, int(text)) for i, row in enumerate(BATCH) for text in rows.negatives[row]]
    known = [rows.known_positives[row].tolist() for row in BATCH]
    width = max(map(len, known))
    loss = contrastive_loss(
        ContrastiveBatch(
            query_BD=embed(rows.queries[BATCH].tolist()),
            positive_BD=embed(rows.positives[BATCH].tolist()),
            negative_MD=embed([text for _, text in negatives]),
            negative_row_M=torch.tensor([i for i, _ in negatives]),
            query_id_B=torch.tensor(rows.identities[rows.queries[BATCH]]),
            positive_id_B=torch.tensor(rows.identities[rows.positives[BATCH]]),
            negative_id_M=torch.tensor(rows.identities[[text for _, text in negatives]]),
            known_positive_BP=torch.tensor([ids + [-1] * (width - len(ids)) for ids in known]),
        ),
        OBJECTIVE,
    ).share
    loss.backward()
    gradients = {name: p.grad for name, p in embedder.named_parameters() if p.grad is not None}
    return gradients | {"loss": loss.detach().double()}


@pytest.mark.parametrize("micro_batch_tokens", [10000, 60])
def test_two_workers_equal_one_process(tmp_path: Path, tiny_model: Path, micro_batch_tokens: int) -> None:
    tokens = write_tokens(tiny_model, tmp_path / "tokens", rows=16)
    expected = whole_batch_gradients(tiny_model, tokens)
    scale = max(float(gradient.abs().max()) for name, gradient in expected.items() if name != "loss")
    for gradients in run_workers(
        sharded_gradients, 2, tmp_path / "workers", tiny_model, tokens, micro_batch_tokens
    ):
        assert gradients.keys() == expected.keys()
        assert float(gradients["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
        for name, gradient in expected.items():
            assert float((gradients[name] - gradient).abs().max()) <= 1e-5 * scale, name
