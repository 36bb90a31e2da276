"""Gradients over two gloo workers against one process that holds the whole batch."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from components.objective.contrastive import ContrastiveBatch, Objective
from components.objective.distributed import contrastive_loss

ROWS = [3, 2]  # uneven on purpose
NEGATIVES = [4, 0]  # ragged: row 1 has none, worker 1 has none at all
OWNER = [0, 0, 2, 2]
D = 6


def towers() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(D, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5)).double()


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = sum(ROWS)
    return {
        "query": torch.randn(rows, D, generator=generator, dtype=torch.float64),
        "positive": torch.randn(rows, D, generator=generator, dtype=torch.float64),
        "negative": torch.randn(sum(NEGATIVES), D, generator=generator, dtype=torch.float64),
        "owner": torch.tensor(OWNER),
        "query_id": torch.tensor([0, 1, 2, 0, 4]),
        "positive_id": torch.tensor([0, 1, 2, 3, 1]),
        "negative_id": torch.tensor([10, 3, 12, 13]),
        "known": torch.tensor([[12, -1], [-1, -1], [3, 10], [-1, -1], [2, -1]]),
    }


def batch_of(model: torch.nn.Module, data: dict[str, torch.Tensor], rank: int | None) -> ContrastiveBatch:
    """The rows of one worker, or of both."""
    rows = slice(None) if rank is None else slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))
    negatives = slice(None) if rank is None else slice(sum(NEGATIVES[:rank]), sum(NEGATIVES[: rank + 1]))
    known = data["known"][rows]

    def embed(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(model(x), dim=1)

    return ContrastiveBatch(
        query_BD=embed(data["query"][rows]),
        positive_BD=embed(data["positive"][rows]),
        negative_MD=embed(data["negative"][negatives]),
        negative_row_M=data["owner"][negatives],  # worker 0 starts at row 0, worker 1 has none
        query_id_B=data["query_id"][rows],
        positive_id_B=data["positive_id"][rows],
        negative_id_M=data["negative_id"][negatives],
        known_positive_BP=known[:, :1] if rank == 1 else known,  # width differs by worker
    )


def worker(rank: int, directory: str, objective: Objective) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(directory, "store"), len(ROWS))
    dist.init_process_group("gloo", rank=rank, world_size=len(ROWS), store=store)
    model = towers()
    result = contrastive_loss(batch_of(model, inputs(), rank), objective, dist.group.WORLD)
    result.share.backward()
    gradients = []
    for parameter in model.parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient)
        gradients.append(gradient)
    torch.save(
        {"gradients": gradients, "statistics": result.statistics}, os.path.join(directory, f"{rank}.pt")
    )
    dist.destroy_process_group()


def run(directory: Path, objective: Objective) -> list[dict]:
    mp.spawn(worker, args=(str(directory), objective), nprocs=len(ROWS))
    return [torch.load(directory / f"{rank}.pt") for rank in range(len(ROWS))]


@pytest.mark.parametrize(
    "objective", [Objective(temperature=0.1), Objective(temperature=0.1, other_documents="positives")]
)
def test_two_workers_equal_one_process(tmp_path: Path, objective: Objective) -> None:
    model = towers()
    whole = contrastive_loss(batch_of(model, inputs(), None), objective)
    whole.share.backward()
    for result in run(tmp_path, objective):
        for gradient, parameter in zip(result["gradients"], model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)
        assert result["statistics"] == pytest.approx(whole.statistics, rel=1e-12)


def test_local_negatives_are_two_losses_side_by_side(tmp_path: Path) -> None:
    objective = Objective(temperature=0.1, across_workers=False)
    model = towers()
    parts = [contrastive_loss(batch_of(model, inputs(), rank), objective) for rank in range(len(ROWS))]
    total = sum(part.share * rows / sum(ROWS) for part, rows in zip(parts, ROWS, strict=True))
    total.backward()
    result = run(tmp_path, objective)[0]
    assert result["statistics"]["loss"] == pytest.approx(total.item(), rel=1e-12)
    for gradient, parameter in zip(result["gradients"], model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)
