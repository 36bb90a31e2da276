"""The contrastive loss of Qwen3-Embedding (arXiv 2506.05176), Eq. 1, with its masks.

With s the cosine, tau the temperature and N rows in the global batch:

    L   = -(1/N) sum_i log( exp(s(q_i, d_i+)/tau) / Z_i )
    Z_i =   exp(s(q_i, d_i+)/tau)
          + sum_k     m_ik exp(s(q_i, d_ik-)/tau)      own hard negatives
          + sum_{j!=i} m_ij exp(s(q_i, q_j)/tau)       query - query
          + sum_{j!=i} m_ij exp(s(d_i+, d_j)/tau)      document - document
          + sum_{j!=i} m_ij exp(s(q_i, d_j)/tau)       query - other documents of the batch
    m_ij = 0 where s_ij > s(q_i, d_i+) + 0.1, or where d_j is d_i+ ; else 1

There is no document -> query term. What the paper leaves open is a field of `Objective`.

Shapes: B rows, M hard negatives of all rows together, C = B + M documents, D dimensions, P known positives a
query.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch

MaskedDocumentDocument = Literal["by_qd", "by_dd", "none"]
OtherDocuments = Literal["positives_and_negatives", "positives"]


@dataclass(frozen=True)
class Objective:
    """The readings of Eq. 1. The defaults are the preset `paper`.

    Attributes:
        temperature: tau. Undisclosed in the paper; published stand-ins are 0.01 to 0.02.
        threshold: a cell that scores higher than the row's positive by more than this is masked. The
            positive's score is detached there: no gradient flows through the threshold.
        masked_document_document: what trips the threshold on s(d_i+, d_j): the score s(q_i, d_j) of the same
            cell (`by_qd`), the cell's own score (`by_dd`), or nothing (`none`).
        other_documents: who d_j is: positives and hard negatives of the other rows, or their positives alone.
        mask_duplicates: mask, by id, a document that is d_i+ or another known positive of q_i, wherever it
            stands (own hard negatives included), and a query that is q_i or whose positive is one of those.
        threshold_own_negatives: the threshold holds for the row's own hard negatives as well.
        across_workers: negatives are gathered from every worker, or from the row's own worker only.
    """

    temperature: float = 0.02
    threshold: float = 0.1
    masked_document_document: MaskedDocumentDocument = "by_qd"
    other_documents: OtherDocuments = "positives_and_negatives"
    mask_duplicates: bool = True
    threshold_own_negatives: bool = True
    across_workers: bool = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"objective.temperature is {self.temperature}; it must be above 0")
        if self.masked_document_document not in get_args(MaskedDocumentDocument):
            raise ValueError(
                f"objective.masked_document_document is {self.masked_document_document!r}; "
                f"it must be one of {get_args(MaskedDocumentDocument)}"
            )
        if self.other_documents not in get_args(OtherDocuments):
            raise ValueError(
                f"objective.other_documents is {self.other_documents!r}; "
                f"it must be one of {get_args(OtherDocuments)}"
            )


PRESETS = {"paper": Objective()}


def objective_from(config: dict[str, Any]) -> Objective:
    """The objective that a recipe names: a `preset` (default `paper`) and the fields that differ from it.

    Raises:
        ValueError: an unknown preset or field, or a value out of range.
    """
    changes = dict(config)
    preset = changes.pop("preset", "paper")
    if preset not in PRESETS:
        raise ValueError(f"objective.preset is {preset!r}; it must be one of {sorted(PRESETS)}")
    known = [field.name for field in fields(Objective)]
    for name in changes:
        if name not in known:
            raise ValueError(f"objective.{name} is not a field of the objective; the fields are {known}")
    return replace(PRESETS[preset], **changes)


@dataclass(frozen=True)
class ContrastiveBatch:
    """L2-normalised vectors of one batch and the ids that the duplicate rule goes by.

    Attributes:
        query_BD, positive_BD, negative_MD: float; the negatives of all rows together, any number a row.
        negative_row_M: int64, the row (0 to B - 1) that a negative belongs to.
        query_id_B, positive_id_B, negative_id_M: int64; equal ids mean the same query, or the same document.
        known_positive_BP: int64 ids of documents that answer the query besides `positive_id_B`, filled up
            with -1.
    """

    query_BD: torch.Tensor
    positive_BD: torch.Tensor
    negative_MD: torch.Tensor
    negative_row_M: torch.Tensor
    query_id_B: torch.Tensor
    positive_id_B: torch.Tensor
    negative_id_M: torch.Tensor
    known_positive_BP: torch.Tensor


@dataclass(frozen=True)
class RowLoss:
    """The losses of the worker's own rows and, detached, sums over them for reporting.

    Attributes:
        loss_B: -log(exp(s(q_i, d_i+)/tau) / Z_i), float32 or float64, with gradient.
        positive_cosine: sum over rows of s(q_i, d_i+).
        hardest_cosine: sum over the rows that have a negative of the highest unmasked s(q_i, d).
        rows_with_negative: how many rows that is.
        masked_cells: cells of Z_i that a mask took out.
        cells: cells of Z_i but for the positive, masked ones included.
    """

    loss_B: torch.Tensor
    positive_cosine: torch.Tensor
    hardest_cosine: torch.Tensor
    rows_with_negative: torch.Tensor
    masked_cells: torch.Tensor
    cells: torch.Tensor


def row_losses(batch: ContrastiveBatch, objective: Objective, first_row: int, rows: int) -> RowLoss:
    """Eq. 1 for the rows `first_row` to `first_row + rows - 1` of a batch, before the mean over N.

    A pure function of the whole batch. The scores and their log-sum-exp are taken in float32, or in float64
    where the vectors are float64. Holds dense [rows, C] matrices.
    """
    own = slice(first_row, first_row + rows)
    dtype = torch.promote_types(batch.query_BD.dtype, torch.float32)
    device = batch.query_BD.device
    queries_ND = batch.query_BD.to(dtype)
    documents_CD = torch.cat([batch.positive_BD, batch.negative_MD]).to(dtype)
    query_BD, positive_BD = queries_ND[own], documents_CD[own]
    N, C = len(queries_ND), len(documents_CD)

    qd_BC = query_BD @ documents_CD.T
    dd_BC = positive_BD @ documents_CD.T
    qq_BN = query_BD @ queries_ND.T

    row_B = torch.arange(first_row, first_row + rows, device=device)
    row_N = torch.arange(N, device=device)
    row_C = torch.cat([row_N, batch.negative_row_M])
    is_negative_C = torch.arange(C, device=device) >= N
    same_row_BC = row_B[:, None] == row_C[None, :]
    own_negative_BC = same_row_BC & is_negative_C

    positive_B = qd_BC[torch.arange(rows, device=device), row_B]
    limit_B1 = (positive_B.detach() + objective.threshold)[:, None]

    # Cells that stand in Z_i before any mask.
    other_document_BC = ~same_row_BC
    if objective.other_documents == "positives":
        other_document_BC = other_document_BC & ~is_negative_C
    other_query_BN = row_B[:, None] != row_N[None, :]
    qd_cell_BC = other_document_BC | own_negative_BC

    above_BC = qd_BC.detach() > limit_B1
    qd_masked_BC = above_BC if objective.threshold_own_negatives else above_BC & ~own_negative_BC
    qq_masked_BN = qq_BN.detach() > limit_B1
    if objective.masked_document_document == "by_qd":
        dd_masked_BC = above_BC
    elif objective.masked_document_document == "by_dd":
        dd_masked_BC = dd_BC.detach() > limit_B1
    else:
        dd_masked_BC = torch.zeros_like(above_BC)

    if objective.mask_duplicates:
        document_id_C = torch.cat([batch.positive_id_B, batch.negative_id_M])
        answers_BC = document_id_C[None, :] == batch.positive_id_B[own, None]
        for known_B in batch.known_positive_BP[own].unbind(dim=1):
            answers_BC = answers_BC | (document_id_C[None, :] == known_B[:, None])
        qd_masked_BC = qd_masked_BC | answers_BC
        dd_masked_BC = dd_masked_BC | answers_BC
        same_query_BN = batch.query_id_B[None, :] == batch.query_id_B[own, None]
        qq_masked_BN = qq_masked_BN | same_query_BN | answers_BC[:, :N]

    kept_qd_BC = qd_cell_BC & ~qd_masked_BC
    kept_dd_BC = other_document_BC & ~dd_masked_BC
    kept_qq_BN = other_query_BN & ~qq_masked_BN
    # -log(e^(s+/tau) / Z) = log(1 + sum e^((s - s+)/tau)): exact also where the positive has all but won.
    margins = torch.cat([qd_BC, dd_BC, qq_BN], dim=1) - positive_B[:, None]
    kept = torch.cat([kept_qd_BC, kept_dd_BC, kept_qq_BN], dim=1)
    margins = (margins / objective.temperature).masked_fill(~kept, float("-inf"))
    loss_B = torch.cat([torch.zeros_like(positive_B)[:, None], margins], dim=1).logsumexp(dim=1)

    hardest_B = qd_BC.detach().masked_fill(~kept_qd_BC, float("-inf")).amax(dim=1)
    has_negative_B = kept_qd_BC.any(dim=1)
    cells = qd_cell_BC.sum() + other_document_BC.sum() + other_query_BN.sum()
    return RowLoss(
        loss_B=loss_B,
        positive_cosine=positive_B.detach().sum(),
        hardest_cosine=hardest_B[has_negative_B].sum(),
        rows_with_negative=has_negative_B.sum(),
        masked_cells=cells - kept.sum(),
        cells=cells,
    )
