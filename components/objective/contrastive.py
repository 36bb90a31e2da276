"""The contrastive loss of Qwen3-Embedding (arXiv 2506.05176), Eq. 1, with its masks.

With s the cosine, tau the temperature and N rows in the global batch:

    L   = -(1/N) sum_i log( exp(s(q_i, d_i+)/tau) / Z_i )
    Z_i =   exp(s(q_i, d_i+)/tau)
          + sum_k     m_ik exp(s(q_i, d_ik-)/tau)      own hard negatives
          + sum_{j!=i} m_ij exp(s(q_i, q_j)/tau)       query - query
          + sum_{j!=i} m_ij exp(s(d_i+, d_j)/tau)      document - document
          + sum_{j!=i} m_ij exp(s(q_i, d_j)/tau)       query - other documents of the batch
    m_ij = 0 where s_ij > s(q_i, d_i+) + 0.1, or where d_j is d_i+ ; else 1

What the paper leaves open, and the terms of related losses, are fields of `Objective`.

Shapes: B rows, M hard negatives of all rows together, D dimensions, P known positives a query.
"""

from dataclasses import dataclass

import torch

from components.objective.masks import Identities
from components.objective.objective import Objective
from components.objective.tiles import TileSize, Walk, streamed_losses, tile_size


@dataclass(frozen=True)
class ContrastiveBatch:
    """L2-normalised vectors of one batch and the ids that the duplicate rule goes by.

    Attributes:
        query_BD, positive_BD, negative_MD: float; the negatives of all rows together, any number a row.
        negative_row_M: int64, the row (0 to B - 1) that a negative belongs to.
        query_id_B, positive_id_B, negative_id_M: int64; equal ids mean the same query, or the same document.
        known_positive_BP: int64 ids of documents that answer the query besides `positive_id_B`, filled up
            with -1.

    Raises:
        ValueError: shapes that do not fit one another.
    """

    query_BD: torch.Tensor
    positive_BD: torch.Tensor
    negative_MD: torch.Tensor
    negative_row_M: torch.Tensor
    query_id_B: torch.Tensor
    positive_id_B: torch.Tensor
    negative_id_M: torch.Tensor
    known_positive_BP: torch.Tensor

    def __post_init__(self) -> None:
        B, D = self.query_BD.shape
        M = len(self.negative_MD)
        for name, wanted in (
            ("positive_BD", (B, D)),
            ("negative_MD", (M, D)),
            ("negative_row_M", (M,)),
            ("query_id_B", (B,)),
            ("positive_id_B", (B,)),
            ("negative_id_M", (M,)),
            ("known_positive_BP", (B, *self.known_positive_BP.shape[1:2])),
        ):
            shape = tuple(getattr(self, name).shape)
            if shape != wanted:
                raise ValueError(
                    f"{name} of the contrastive batch has the shape {list(shape)}; with query_BD "
                    f"{[B, D]} and {M} negatives it must be {list(wanted)}"
                )


@dataclass(frozen=True)
class RowLoss:
    """The losses of the worker's own rows and, detached, sums over them for reporting.

    Attributes:
        loss_B: -log(exp(s(q_i, d_i+)/tau) / Z_i), float32 or float64, with gradient; with Matryoshka the
            weighted sum over the prefixes.
        loss_by_prefix: sum over rows for each Matryoshka dimension, unweighted.
        positive_cosine: sum over rows of s(q_i, d_i+).
        hardest_cosine: sum over the rows that have a negative of the highest unmasked s(q_i, d).
        rows_with_negative: how many rows that is.
        masked_cells: cells of the denominator that a mask took out.
        cells: cells of the denominator but for the positive, masked ones included.
    """

    loss_B: torch.Tensor
    loss_by_prefix: torch.Tensor
    positive_cosine: torch.Tensor
    hardest_cosine: torch.Tensor
    rows_with_negative: torch.Tensor
    masked_cells: torch.Tensor
    cells: torch.Tensor


def row_losses(
    batch: ContrastiveBatch,
    objective: Objective,
    first_row: int,
    rows: int,
    temperature: torch.Tensor | None = None,
    tile: TileSize | None = None,
) -> RowLoss:
    """The loss of the rows `first_row` to `first_row + rows - 1` of a batch, before the mean over N.

    A function of the whole batch. A row without any negative has the loss 0 and no gradient: so has a batch
    of one row without hard negatives. Scores and their log-sum-exp are taken in float32, or in float64 where
    the vectors are float64.

    Args:
        temperature: a 0-dimensional tensor above 0 in place of `objective.temperature`; takes a gradient.
        tile: execution; None chooses one for the device.

    Raises:
        ValueError: the Matryoshka dimensions do not end at D.
    """
    D, device = batch.query_BD.shape[1], batch.query_BD.device
    dimensions = objective.matryoshka_dimensions or (D,)
    if dimensions[-1] != D:
        raise ValueError(
            f"objective.matryoshka_dimensions ends at {dimensions[-1]}, the vectors have {D} dimensions; "
            f"the last length must be {D} (a weight of 0 takes its loss out)"
        )
    weights = objective.matryoshka_weights or (1.0,) * len(dimensions)
    dtype = torch.promote_types(batch.query_BD.dtype, torch.float32)
    if temperature is None:
        temperature = torch.tensor(objective.temperature, dtype=dtype)
    walk = Walk(
        objective=objective,
        ids=Identities(
            query_N=batch.query_id_B,
            positive_N=batch.positive_id_B,
            negative_M=batch.negative_id_M,
            negative_row_M=batch.negative_row_M,
            known_positive_NK=_known_positives_at_hand(batch),
        ),
        first_row=first_row,
        rows=rows,
        dimensions=dimensions,
        tile=tile or tile_size(device),
    )
    prefix_losses, summary = streamed_losses(
        batch.query_BD, batch.positive_BD, batch.negative_MD, temperature.to(device, dtype), walk
    )
    has_negative_B = summary.hardest_B.isfinite()
    return RowLoss(
        loss_B=torch.tensor(weights, dtype=dtype, device=device) @ prefix_losses,
        loss_by_prefix=prefix_losses.detach().sum(dim=1),
        positive_cosine=summary.positive_B.sum(),
        hardest_cosine=summary.hardest_B[has_negative_B].sum(),
        rows_with_negative=has_negative_B.sum(),
        masked_cells=summary.standing - summary.kept,
        cells=summary.standing,
    )


def _known_positives_at_hand(batch: ContrastiveBatch) -> torch.Tensor:
    """The known positives that stand in the batch as a document: few, however many a query has."""
    documents = torch.cat([batch.positive_id_B, batch.negative_id_M])
    known = batch.known_positive_BP
    here = torch.isin(known, documents) & (known != -1)
    most = int(here.sum(dim=1).max()) if here.numel() else 0
    first = here.sort(dim=1, descending=True, stable=True).indices[:, :most]
    return known.where(here, -1).gather(1, first)
