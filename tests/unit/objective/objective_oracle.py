"""Eq. 1 and its variants in float64, cell by cell from the formula; and random batches to hold it against."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from components.objective.contrastive import ContrastiveBatch
from components.objective.objective import Objective


class AtThresholdError(Exception):
    """A score lies so near a mask's threshold that rounding decides."""


@dataclass
class Expected:
    """The mean over the rows with its gradient, and what is reported of the rows."""

    loss: torch.Tensor
    by_dimension: list[float]
    positive_cosine: float
    hardest: list[float]
    cells: int
    masked: int


class Cell(NamedTuple):
    term: str
    score: torch.Tensor
    masked: bool


def expected(batch: ContrastiveBatch, objective: Objective, temperature: torch.Tensor) -> Expected:
    vectors = (batch.query_BD, batch.positive_BD, batch.negative_MD)
    D = batch.query_BD.shape[1]
    dimensions = objective.matryoshka_dimensions or (D,)
    weights = objective.matryoshka_weights or [1.0] * len(dimensions)
    found = Expected(torch.zeros((), dtype=torch.float64), [], 0.0, [], 0, 0)
    for dimension, weight in zip(dimensions, weights, strict=True):
        prefixes = [
            v if dimension == D else torch.nn.functional.normalize(v[:, :dimension], dim=1) for v in vectors
        ]
        judged = [v.detach() for v in (prefixes if objective.matryoshka_mask == "prefix" else vectors)]
        losses = []
        for i in range(len(batch.query_BD)):
            positive = prefixes[0][i] @ prefixes[1][i]
            softmaxes = denominators(batch, objective, i, prefixes, judged)
            for cells in softmaxes:
                kept = [positive, *(cell.score for cell in cells if not cell.masked)]
                Z = torch.exp(torch.stack(kept) / temperature).sum()  # exp(1/0.01) still fits in float64
                losses.append(-torch.log(torch.exp(positive / temperature) / Z) / len(softmaxes))
            # under one mask for all prefixes its cells are counted once
            if objective.matryoshka_mask == "prefix" or dimension == D:
                found.cells += sum(len(cells) for cells in softmaxes)
                found.masked += sum(cell.masked for cells in softmaxes for cell in cells)
            if dimension == D:
                found.positive_cosine += positive.item() / len(batch.query_BD)
                rivals = [cell for cell in softmaxes[0] if cell.term == "q-d" and not cell.masked]
                found.hardest += [max(cell.score.item() for cell in rivals)] if rivals else []
        mean = torch.stack(losses).sum() / len(batch.query_BD)
        found.by_dimension.append(mean.item())
        found.loss = found.loss + weight * mean
    return found


def denominators(
    batch: ContrastiveBatch, objective: Objective, i: int, vectors: list, judged: list
) -> list[list[Cell]]:
    """The cells of row i but for its positive, one list a softmax. `judged`: what the threshold looks at."""
    (q, p, n), (judged_q, judged_p, judged_n) = vectors, judged
    rows = range(len(q))
    owner, negative_id = batch.negative_row_M.tolist(), batch.negative_id_M.tolist()
    query_id, positive_id = batch.query_id_B.tolist(), batch.positive_id_B.tolist()
    answers = [{positive_id[j], *ids} - {-1} for j, ids in enumerate(batch.known_positive_BP.tolist())]

    def trips(left: torch.Tensor, right: torch.Tensor) -> bool:
        if objective.threshold is None:
            return False
        margin = float(left @ right - judged_q[i] @ judged_p[i]) - objective.threshold
        if abs(margin) < 1e-5:
            raise AtThresholdError
        return margin > 0

    def query_document(document: torch.Tensor, own: bool) -> bool:
        """Whether the threshold masks q_i with a document."""
        return (objective.threshold_own_negatives or not own) and trips(judged_q[i], document)

    def document_document(document: torch.Tensor, own: bool) -> bool:
        if objective.masked_document_document == "by_qd":
            return query_document(document, own)
        if objective.masked_document_document == "by_dd":
            return (objective.threshold_own_negatives or not own) and trips(judged_p[i], document)
        return False

    def known(document_id: int) -> bool:
        return objective.mask_duplicates and document_id in answers[i]

    own = [(n[k], judged_n[k], negative_id[k]) for k in range(len(n)) if owner[k] == i]
    others = [(p[j], judged_p[j], positive_id[j]) for j in rows if j != i]
    if objective.other_documents == "positives_and_negatives":
        others += [(n[k], judged_n[k], negative_id[k]) for k in range(len(n)) if owner[k] != i]

    Z = [Cell("q-d", q[i] @ d, query_document(seen, True) or known(identity)) for d, seen, identity in own]
    if "query_document" in objective.in_batch:
        for d, seen, identity in others:
            Z.append(Cell("q-d", q[i] @ d, query_document(seen, False) or known(identity)))
    if "document_document" in objective.in_batch:
        for d, seen, identity in others:
            Z.append(Cell("d-d", p[i] @ d, document_document(seen, False) or known(identity)))
        if objective.own_negatives_in_document_document:
            for d, seen, identity in own:
                Z.append(Cell("d-d", p[i] @ d, document_document(seen, True) or known(identity)))
    second = []
    for j in rows:
        if j == i:
            continue
        same = objective.mask_duplicates and query_id[j] == query_id[i]
        if "query_query" in objective.in_batch:
            masked = trips(judged_q[i], judged_q[j]) or same or known(positive_id[j])
            Z.append(Cell("q-q", q[i] @ q[j], masked))
        answered = objective.mask_duplicates and positive_id[i] in answers[j]
        if objective.document_query != "none":
            masked = trips(judged_p[i], judged_q[j]) or same or answered
            second.append(Cell("d-q", p[i] @ q[j], masked))
    return [Z, second] if objective.document_query == "second_softmax" else [Z + second]


VECTOR_DIMENSIONS = (2, 3, 8)


@st.composite
def objectives(draw: st.DrawFn, D: int) -> Objective:
    """Any combination of the options."""
    # the cosine of a prefix of one dimension is a sign: without a gradient, all rounding
    shorter = draw(st.sets(st.integers(2, D - 1), max_size=2)) if D > 2 else set()
    dimensions = (*sorted(shorter), D) if shorter else draw(st.sampled_from([(), (D,)]))
    weights = draw(st.sampled_from([(), tuple(0.5 + i for i in range(len(dimensions)))]))
    terms = ["query_document", "query_query", "document_document"]
    return Objective(
        temperature=draw(st.sampled_from([0.01, 0.02, 0.05, 0.3, 1.0])),
        in_batch=tuple(term for term in terms if draw(st.integers(0, 3))),
        document_query=draw(st.sampled_from(["none", "same_denominator", "second_softmax"])),
        threshold=draw(st.sampled_from([0.1, 0.0, 0.3, None])),
        masked_document_document=draw(st.sampled_from(["by_qd", "by_dd", "none"])),
        other_documents=draw(st.sampled_from(["positives_and_negatives", "positives"])),
        own_negatives_in_document_document=draw(st.booleans()),
        mask_duplicates=draw(st.booleans()),
        threshold_own_negatives=draw(st.booleans()),
        matryoshka_dimensions=dimensions,
        matryoshka_weights=weights,
        matryoshka_mask=draw(st.sampled_from(["full", "prefix"])),
    )


@st.composite
def batches(draw: st.DrawFn, D: int) -> ContrastiveBatch:
    """Vectors around one direction: scores on both sides of the threshold. Few ids: they meet."""
    rows = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    owner = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    known = draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.3, 1.0, 3.0]))
    centre = torch.randn(D, generator=generator, dtype=torch.float64)

    def vectors(count: int) -> torch.Tensor:
        noise = torch.randn(count, D, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(centre + spread * noise, dim=1)

    def ids(*shape: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, 8, shape, generator=generator)

    return ContrastiveBatch(
        query_BD=vectors(rows),
        positive_BD=vectors(rows),
        negative_MD=vectors(len(owner)),
        negative_row_M=owner[torch.randperm(len(owner), generator=generator)],
        query_id_B=ids(rows),
        positive_id_B=ids(rows),
        negative_id_M=ids(len(owner)),
        known_positive_BP=ids(rows, known, low=-1),
    )
