"""Eq. 1 over several workers: each computes its own rows against the documents and queries of all.

The gathered vectors keep their gradient: what a worker's rows owe to another worker's vectors is summed back
to that worker, so that the workers' parameter gradients sum up to those of one process with the whole batch.
"""

from typing import Any

import torch
import torch.distributed as dist

from components.objective.batch_loss import BatchLoss
from components.objective.contrastive import ContrastiveBatch, row_losses
from components.objective.objective import Objective
from components.objective.tiles import TileSize


def contrastive_loss(
    batch: ContrastiveBatch,
    objective: Objective,
    group: dist.ProcessGroup | None = None,
    temperature: torch.Tensor | None = None,
    tile: TileSize | None = None,
) -> BatchLoss:
    """Eq. 1 of arXiv 2506.05176 over the workers of `group`; without one, the batch is the whole batch.

    Every worker of the group must call it, each with its own rows (any number of them, none of them shared).

    Args:
        temperature: a 0-dimensional tensor above 0 in place of `objective.temperature`. Its gradient is that
            of the worker's own share, as with any parameter.
        tile: execution; None chooses one for the device.

    Returns:
        statistics: loss, positive_cosine, hardest_negative_cosine (mean over the rows that have an unmasked negative;
        NaN without one), masked_share (of the cells of the denominator), rows; with Matryoshka also loss_64
        and so on, unweighted.

    Raises:
        ValueError: no worker has a row, or the Matryoshka dimensions do not end at the vectors' dimension.
    """
    rows = len(batch.query_BD)
    first_row = 0
    # Alone there is nothing to gather, and gloo's copy costs more than the copying: it has OpenMP threads of its own,
    # and once a process has more of them than CPUs, all that wait for each other sleep at once and are woken late.
    if group is not None and objective.across_workers and dist.get_world_size(group) > 1:
        batch, first_row = gather_batch(batch, group)
    result = row_losses(batch, objective, first_row, rows, temperature, tile)
    sums = torch.stack(
        [
            torch.tensor(rows, device=result.cells.device),
            result.loss_B.detach().sum(),
            result.positive_cosine,
            result.hardest_cosine,
            result.rows_with_negative,
            result.masked_cells,
            result.cells,
            *result.loss_by_prefix,
        ]
    ).to(torch.float64)
    if group is not None:
        dist.all_reduce(sums, group=group)
    N, loss, positive, hardest, with_negative, masked, cells, *by_prefix = sums.tolist()
    if N == 0:
        raise ValueError("the contrastive batch has no rows on any worker; it must have one at least")
    prefixes = {
        f"loss_{dimension}": prefix_loss / N
        for dimension, prefix_loss in zip(objective.matryoshka_dimensions, by_prefix, strict=False)
    }
    return BatchLoss(
        share=result.loss_B.sum() / N,
        statistics={
            "loss": loss / N,
            "positive_cosine": positive / N,
            "hardest_negative_cosine": hardest / with_negative if with_negative else float("nan"),
            "masked_share": masked / cells if cells else 0.0,
            "rows": N,
            **prefixes,
        },
    )


def gather_batch(batch: ContrastiveBatch, group: dist.ProcessGroup) -> tuple[ContrastiveBatch, int]:
    """The batch of all workers in the order of their ranks, and where the own rows start in it."""
    rank, device = dist.get_rank(group), batch.query_BD.device
    own_sizes = torch.tensor(
        [len(batch.query_BD), len(batch.negative_MD), batch.known_positive_BP.shape[1]], device=device
    )
    sizes = [torch.empty_like(own_sizes) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, own_sizes, group=group)
    rows, negatives, known = (list(column) for column in zip(*(size.tolist() for size in sizes), strict=True))
    first_row = sum(rows[:rank])

    known_positive = torch.nn.functional.pad(
        batch.known_positive_BP, (0, max(known) - batch.known_positive_BP.shape[1]), value=-1
    )
    # One collective for the ids of the rows and one for those of the negatives.
    row_ids = _gather(
        torch.cat([batch.query_id_B[:, None], batch.positive_id_B[:, None], known_positive], dim=1),
        rows,
        group,
    )
    negative_ids = _gather(
        torch.stack([batch.negative_row_M + first_row, batch.negative_id_M], dim=1), negatives, group
    )
    gathered = ContrastiveBatch(
        query_BD=_gather(batch.query_BD, rows, group),
        positive_BD=_gather(batch.positive_BD, rows, group),
        negative_MD=_gather(batch.negative_MD, negatives, group),
        negative_row_M=negative_ids[:, 0],
        query_id_B=row_ids[:, 0],
        positive_id_B=row_ids[:, 1],
        negative_id_M=negative_ids[:, 1],
        known_positive_BP=row_ids[:, 2:],
    )
    return gathered, first_row


def _gather(own: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    """Rows of every worker below one another; `sizes` says how many each has. Differentiable for floats."""
    if sum(sizes) == 0:
        return own
    return _AllGather.apply(own, sizes, group) if own.is_floating_point() else _all_gather(own, sizes, group)


def _all_gather(own: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
    longest = max(sizes)
    gathered = own.new_empty(len(sizes) * longest, own.shape[1])
    dist.all_gather_single(gathered, _padded(own, longest), group=group)
    if min(sizes) == longest:
        return gathered
    parts = gathered.split(longest)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _padded(rows: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, length - len(rows))).contiguous()


class _AllGather(torch.autograd.Function):
    """All-gather of rows; backward is the reduce-scatter (sum) of the gradients."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, sizes: list[int], group: dist.ProcessGroup) -> torch.Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _all_gather(own, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        sizes, group = ctx.sizes, ctx.group
        (gradient,) = gradients
        longest = max(sizes)
        if min(sizes) < longest:
            gradient = torch.cat([_padded(rows, longest) for rows in gradient.split(sizes)])
        own = gradient.new_empty(longest, gradient.shape[1])
        dist.reduce_scatter_single(own, gradient.contiguous(), group=group)
        return own[: sizes[dist.get_rank(group)]], None, None
