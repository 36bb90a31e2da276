"""The queries that a model answers better, and those that it answers worse, than the model it came from."""

import textwrap
from dataclasses import dataclass

from components.evaluation.collection import Collection
from components.evaluation.evaluation import Evaluation

METRIC = "ndcg@10"


@dataclass(frozen=True)
class Change:
    """One query before and after.

    Attributes:
        before, after: nDCG@10.
        rank_before, rank_after: of the best-placed relevant document; None: not among the first 100.
        relevant: the beginning of that document.
        instead: the beginning of the document that now stands first, where that one is not relevant.
    """

    query: str
    before: float
    after: float
    rank_before: int | None
    rank_after: int | None
    relevant: str
    instead: str | None


def largest_changes(
    baseline: Evaluation, candidate: Evaluation, collection: Collection, count: int = 10
) -> tuple[list[Change], list[Change]]:
    """The queries that gained most and those that lost most, largest change first.

    Raises:
        ValueError: the evaluations are not of this collection.
    """
    if not baseline.digest == candidate.digest == collection.digest:
        raise ValueError("the evaluations were not made on this collection")
    before, after = (
        dict(zip(e.per_query["query_id"].to_pylist(), e.per_query[METRIC].to_pylist(), strict=True))
        for e in (baseline, candidate)
    )
    order = sorted(before, key=lambda query: (before[query] - after[query], query))
    gained = [query for query in order if after[query] > before[query]][:count]
    lost = [query for query in reversed(order) if after[query] < before[query]][:count]

    ranks_before, ranks_after = (_ranks(evaluation, {*gained, *lost}) for evaluation in (baseline, candidate))
    texts = dict(zip(collection.query_ids, collection.queries, strict=True))
    passages = dict(zip(collection.document_ids, collection.passages, strict=True))

    def change(query: str) -> Change:
        relevant = sorted(d for d, level in collection.qrels[query].items() if level > 0)
        ranks = ranks_after[query]
        shown = min(relevant, key=lambda d: (ranks.get(d, 1000), ranks_before[query].get(d, 1000)))
        first = next((document for document, rank in ranks.items() if rank == 1), None)
        return Change(
            query=texts[query],
            before=before[query],
            after=after[query],
            rank_before=_best(ranks_before[query], relevant),
            rank_after=_best(ranks, relevant),
            relevant=_beginning(passages.get(shown, f"{shown} (not in the corpus)")),
            instead=None if first is None or first in relevant else _beginning(passages[first]),
        )

    return [change(query) for query in gained], [change(query) for query in lost]


def _ranks(evaluation: Evaluation, queries: set[str]) -> dict[str, dict[str, int]]:
    ranks: dict[str, dict[str, int]] = {query: {} for query in queries}
    for row in evaluation.run.select(["query_id", "document_id", "rank"]).to_pylist():
        if row["query_id"] in queries:
            ranks[row["query_id"]][row["document_id"]] = row["rank"]
    return ranks


def _best(ranks: dict[str, int], relevant: list[str]) -> int | None:
    return min((ranks[document] for document in relevant if document in ranks), default=None)


def _beginning(text: str) -> str:
    return textwrap.shorten(text, width=150, placeholder=" …")
