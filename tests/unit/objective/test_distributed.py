"""Gradients over two and four gloo workers against one process that holds the whole batch."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from components.objective.contrastive import ContrastiveBatch
from components.objective.distributed import contrastive_loss
from components.objective.objective import Objective
from components.objective.tiles import TileSize

D = 6
WORKERS = 4
TILE = TileSize(2, 3)
GATHERED = [
    Objective(temperature=0.1),
    Objective(temperature=0.1, other_documents="positives"),
    Objective(temperature=0.1, in_batch=()),
    Objective(temperature=0.1, document_query="same_denominator"),
    Objective(
        temperature=0.1,
        document_query="second_softmax",
        matryoshka_dimensions=(2, 5),
        matryoshka_weights=(0.5, 1.0),
        matryoshka_mask="prefix",
    ),
]
LOCAL = Objective(temperature=0.1, across_workers=False)


@dataclass(frozen=True)
class Case:
    """Rows and hard negatives of each worker. The first `len(rows)` workers take part."""

    objective: Objective
    rows: tuple[int, ...]
    negatives: tuple[int, ...]
    dtype: torch.dtype = torch.float64


CASES = [
    *(Case(objective, (3, 2), (4, 0)) for objective in (*GATHERED, LOCAL)),
    *(Case(objective, (3, 2, 0, 1), (4, 0, 0, 3)) for objective in (*GATHERED, LOCAL)),
    Case(GATHERED[0], (2, 2), (2, 2)),
    Case(GATHERED[0], (2, 1), (0, 0)),
    Case(GATHERED[0], (3, 2), (4, 0), torch.float32),
    Case(GATHERED[-1], (3, 2, 0, 1), (4, 0, 0, 3), torch.float32),
]


def towers(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(D, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5)).to(dtype)


def batch_of(model: torch.nn.Module, case: Case, rank: int | None) -> ContrastiveBatch:
    """The rows of one worker, or of all."""
    generator = torch.Generator().manual_seed(1)
    B, M = sum(case.rows), sum(case.negatives)
    query, positive, negative = torch.randn(
        2 * B + M, D, generator=generator, dtype=torch.float64
    ).to(case.dtype).split([B, B, M])  # fmt: skip
    # each worker's negatives go round its own rows, so that some rows have more of them
    first_row = [sum(case.rows[:r]) for r in range(len(case.rows))]
    owner = [first_row[r] + k % case.rows[r] for r, count in enumerate(case.negatives) for k in range(count)]
    query_id = torch.tensor([0, 1, 2, 0, 4, 5])[:B]
    positive_id = torch.tensor([0, 1, 2, 3, 1, 6])[:B]
    negative_id = torch.tensor([10, 3, 12, 13, 2, 15, 16])[:M]
    known = torch.tensor([[12, -1], [-1, -1], [3, 10], [-1, -1], [2, -1], [15, 0]])[:B]
    if rank is None:
        rows, negatives, offset = slice(None), slice(None), 0
    else:
        rows = slice(first_row[rank], first_row[rank] + case.rows[rank])
        start = sum(case.negatives[:rank])
        negatives, offset = slice(start, start + case.negatives[rank]), first_row[rank]

    known = known[rows]
    known = known[:, : int((known != -1).sum(dim=1).max()) if len(known) else 0]  # width differs by worker

    def embed(inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(model(inputs), dim=1)

    return ContrastiveBatch(
        query_BD=embed(query[rows]),
        positive_BD=embed(positive[rows]),
        negative_MD=embed(negative[negatives]),
        negative_row_M=torch.tensor(owner, dtype=torch.int64)[negatives] - offset,
        query_id_B=query_id[rows],
        positive_id_B=positive_id[rows],
        negative_id_M=negative_id[negatives],
        known_positive_BP=known,
    )


def worker(rank: int, directory: str) -> None:
    """Every case that this worker has part in."""
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(directory, "store"), WORKERS)
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS, store=store)
    pair = dist.new_group([0, 1])
    found: list[dict[str, Any] | None] = []
    for case in CASES:
        if rank >= len(case.rows):
            found.append(None)
            continue
        group = pair if len(case.rows) == 2 else dist.group.WORLD
        model = towers(case.dtype)
        temperature = torch.tensor(0.1, dtype=case.dtype, requires_grad=True)
        result = contrastive_loss(batch_of(model, case, rank), case.objective, group, temperature, TILE)
        result.share.backward()
        gradients = []
        for parameter in (*model.parameters(), temperature):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient, group=group)
            gradients.append(gradient)
        found.append({"gradients": gradients, "statistics": result.statistics})
    torch.save(found, os.path.join(directory, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any] | None]]:
    """What every worker found, case by case; the processes are started once."""
    directory: Path = tmp_path_factory.mktemp("workers")
    mp.spawn(worker, args=(str(directory),), nprocs=WORKERS)
    return [torch.load(directory / f"{rank}.pt") for rank in range(WORKERS)]


def whole_batch(case: Case) -> tuple[list[torch.Tensor], dict[str, float] | None, float]:
    """One process. Local negatives are the workers' losses side by side."""
    model = towers(case.dtype)
    temperature = torch.tensor(0.1, dtype=case.dtype, requires_grad=True)
    statistics = None
    if case.objective.across_workers:
        result = contrastive_loss(batch_of(model, case, None), case.objective, None, temperature)
        loss, statistics = result.share, result.statistics
    else:
        alone = replace(case.objective, across_workers=True)
        parts = [
            contrastive_loss(batch_of(model, case, rank), alone, None, temperature).share * rows
            for rank, rows in enumerate(case.rows)
            if rows
        ]
        loss = torch.stack(parts).sum() / sum(case.rows)
    loss.backward()
    gradients = [parameter.grad for parameter in (*model.parameters(), temperature)]
    assert all(gradient is not None for gradient in gradients)
    return gradients, statistics, loss.item()  # type: ignore[return-value]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_workers_equal_one_process(by_rank: list[list[dict[str, Any] | None]], number: int) -> None:
    case = CASES[number]
    tolerance = 1e-10 if case.dtype == torch.float64 else 1e-5
    gradients, statistics, loss = whole_batch(case)
    scale = max(float(gradient.abs().max()) for gradient in gradients)
    for rank in range(len(case.rows)):
        found = by_rank[rank][number]
        assert found is not None
        for gradient, wanted in zip(found["gradients"], gradients, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=tolerance, atol=tolerance * scale)
        assert found["statistics"]["loss"] == pytest.approx(loss, rel=tolerance)
        if statistics is not None:
            assert found["statistics"] == pytest.approx(statistics, rel=tolerance)
