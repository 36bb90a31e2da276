"""What a reranker does to a ranking: written by its evaluation, read by the report."""

import json
from dataclasses import dataclass

from components.evaluation.significance import Interval
from components.storage import Folder

RERANKING_FILE = "reranking.json"
FIRST_STAGE = "first_stage"
"""Folder beside it: the scores of the ranking that was given."""


@dataclass(frozen=True)
class Reranking:
    """What a reranker does to the ranking of a retrieval system, over the same queries.

    Attributes:
        before, after: mean of each metric with its interval.
        difference: of after - before, with its interval; p: of that difference, two-sided, paired bootstrap.
        depth: documents a query that were ranked anew; those below keep their order.
        latency_ms: median time of a query, tokens included; latency_ms_p95: 95 of 100 take less.
    """

    before: dict[str, Interval]
    after: dict[str, Interval]
    difference: dict[str, Interval]
    p: dict[str, float]
    queries: int
    depth: int
    latency_ms: float
    latency_ms_p95: float


def read_reranking(folder: Folder) -> Reranking:
    """What `evaluate_reranker` wrote."""
    values = json.loads(folder.read(RERANKING_FILE))
    for field in ("before", "after", "difference"):
        values[field] = {metric: Interval(**interval) for metric, interval in values[field].items()}
    return Reranking(**values)
