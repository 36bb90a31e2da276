"""Which cells of Eq. 1 stand in the denominator, and which of them a mask takes out.

A tile is R rows of the batch against T columns of one kind: queries, positives or hard negatives. A row has
two sides to it: s(q_i, .) and s(d_i+, .). All P prefixes of a Matryoshka objective share a tile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from components.objective.objective import InBatch, Objective

Kind = Literal["query", "positive", "negative"]
Side = Literal["query", "document"]


@dataclass(frozen=True)
class Identities:
    """Ids of the whole batch, N rows with M hard negatives in all: int64, equal ids mean the same text.

    Attributes:
        query_N, positive_N, negative_M: of the texts.
        negative_row_M: the row that a negative belongs to.
        known_positive_NK: other documents that answer the query, filled up with -1.
    """

    query_N: torch.Tensor
    positive_N: torch.Tensor
    negative_M: torch.Tensor
    negative_row_M: torch.Tensor
    known_positive_NK: torch.Tensor


class Cells(NamedTuple):
    """Cells of one side of a tile.

    Attributes:
        standing_RT: bool, those of the denominator before any mask.
        kept_PRT: bool, those that no mask takes out; P is 1 where all prefixes share the mask.
    """

    standing_RT: torch.Tensor
    kept_PRT: torch.Tensor


def sides(objective: Objective, kind: Kind) -> tuple[Side, ...]:
    """The sides whose scores against columns of a kind are wanted, for the denominator or for a mask."""
    if kind == "query":
        query = "query_query" in objective.in_batch
        document = objective.document_query != "none"
    else:
        others = kind == "positive" or objective.other_documents == "positives_and_negatives"
        document = "document_document" in objective.in_batch and (
            others or objective.own_negatives_in_document_document
        )
        masks_document = document and objective.masked_document_document == "by_qd"
        query = kind == "negative" or "query_document" in objective.in_batch or masks_document
    wanted: dict[Side, bool] = {"query": query, "document": document}
    return tuple(side for side, is_wanted in wanted.items() if is_wanted)


def only_own_negatives(objective: Objective) -> bool:
    """Whether a hard negative stands in no other row's denominator than its own."""
    return objective.other_documents == "positives" or not {"query_document", "document_document"} & {
        *objective.in_batch
    }


def cells(
    objective: Objective,
    ids: Identities,
    kind: Kind,
    rows: slice,
    columns: slice,
    scores: Mapping[Side, torch.Tensor],
    limit_PR: torch.Tensor,
) -> dict[Side, Cells]:
    """The cells of a tile, by side.

    Args:
        rows, columns: where the tile lies, in the batch and in the columns of its kind.
        scores: for each of `sides(objective, kind)` the tile's cosines [P, R, T] that the threshold looks at.
        limit_PR: what they may not be above; infinite where there is no threshold.
    """
    own_RT = _own(ids, kind, rows, columns)
    duplicate: dict[Side, torch.Tensor] = {}
    if objective.mask_duplicates:
        duplicate = _duplicates(ids, kind, rows, columns)
    found = {}
    for side in scores:
        standing_RT = _standing(objective, kind, side, own_RT)
        masked_PRT = _above_threshold(objective, kind, side, own_RT, scores, limit_PR)
        if side in duplicate:
            masked_PRT = masked_PRT | duplicate[side]
        found[side] = Cells(standing_RT, standing_RT & ~masked_PRT)
    return found


def _own(ids: Identities, kind: Kind, rows: slice, columns: slice) -> torch.Tensor:
    """Where the column belongs to the row itself."""
    row_R = torch.arange(rows.start, rows.stop, device=ids.query_N.device)
    if kind == "negative":
        return row_R[:, None] == ids.negative_row_M[columns]
    return row_R[:, None] == torch.arange(columns.start, columns.stop, device=row_R.device)


def _standing(objective: Objective, kind: Kind, side: Side, own_RT: torch.Tensor) -> torch.Tensor:
    if kind == "query":
        return ~own_RT
    term: InBatch = "query_document" if side == "query" else "document_document"
    others, own = term in objective.in_batch, False
    if kind == "negative":
        others = others and objective.other_documents == "positives_and_negatives"
        own = side == "query" or objective.own_negatives_in_document_document
    if others:
        return torch.ones_like(own_RT) if own else ~own_RT
    return own_RT if own else torch.zeros_like(own_RT)


def _above_threshold(
    objective: Objective,
    kind: Kind,
    side: Side,
    own_RT: torch.Tensor,
    scores: Mapping[Side, torch.Tensor],
    limit_PR: torch.Tensor,
) -> torch.Tensor:
    judge: Side = side
    if kind != "query" and side == "document":
        if objective.masked_document_document == "none":
            return torch.zeros_like(scores[side], dtype=torch.bool)
        judge = "query" if objective.masked_document_document == "by_qd" else "document"
    above_PRT = scores[judge] > limit_PR[:, :, None]
    if kind == "negative" and not objective.threshold_own_negatives:
        above_PRT = above_PRT & ~own_RT
    return above_PRT


def _duplicates(ids: Identities, kind: Kind, rows: slice, columns: slice) -> dict[Side, torch.Tensor]:
    """For both sides, where the column is no negative of the row by what is known."""
    positive_R, known_RK = ids.positive_N[rows], ids.known_positive_NK[rows]
    if kind != "query":
        document_T = (ids.positive_N if kind == "positive" else ids.negative_M)[columns]
        answers_RT = _answers(positive_R, known_RK, document_T)
        return {"query": answers_RT, "document": answers_RT}
    same_query_RT = ids.query_N[rows, None] == ids.query_N[columns]
    positive_T, known_TK = ids.positive_N[columns], ids.known_positive_NK[columns]
    return {
        "query": same_query_RT | _answers(positive_R, known_RK, positive_T),
        "document": same_query_RT | _answers(positive_T, known_TK, positive_R).T,
    }


def _answers(positive_A: torch.Tensor, known_AK: torch.Tensor, document_B: torch.Tensor) -> torch.Tensor:
    """[A, B]: whether a document answers the query of a row."""
    answers_AB = positive_A[:, None] == document_B
    for known_A in known_AK.unbind(dim=1):
        answers_AB |= known_A[:, None] == document_B
    return answers_AB
