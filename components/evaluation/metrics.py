"""Retrieval metrics of each query, computed by trec_eval itself (pytrec_eval)."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytrec_eval

METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100")

PER_QUERY = pa.schema(
    [pa.field("query_id", pa.string(), nullable=False)]
    + [pa.field(metric, pa.float64(), nullable=False) for metric in METRICS]
)

Run = Mapping[str, Mapping[str, float]]  # query id -> document id -> score
Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> relevance, 0 or less: not relevant


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Document ids as trec_eval ranks them: by float32 score, equal ones by document id, both descending."""
    return sorted(scores, key=lambda found: (np.float32(scores[found]), found), reverse=True)


def with_relevant(qrels: Qrels) -> Qrels:
    """The queries that have at least one relevant document; for the others no metric is defined."""
    return {query: judged for query, judged in qrels.items() if any(level > 0 for level in judged.values())}


def score_queries(run: Run, qrels: Qrels) -> pa.Table:
    """nDCG@10 (gain = relevance level, log2 discount), Recall@10, Recall@100, MRR@10 and MAP@100 of each query.

    A query of `qrels` that `run` leaves out, or has no document for, counts 0 in every metric. Queries
    without a relevant document are left out.

    Returns:
        A table by PER_QUERY, sorted by query id.
    """
    qrels = with_relevant(qrels)
    judged = {query: dict(levels) for query, levels in qrels.items()}
    full = {query: {d: float(s) for d, s in run[query].items()} for query in qrels if run.get(query)}
    # trec_eval's reciprocal rank has no cut-off: the run is cut instead.
    cut = {query: {d: scores[d] for d in ranking(scores)[:10]} for query, scores in full.items()}
    measured = pytrec_eval.RelevanceEvaluator(
        judged, {"ndcg_cut.10", "recall.10,100", "map_cut.100"}
    ).evaluate(full)
    reciprocal = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(cut)
    rows = []
    for query in sorted(qrels):
        values = {**measured.get(query, {}), **reciprocal.get(query, {})}
        rows.append(
            {
                "query_id": query,
                "ndcg@10": values.get("ndcg_cut_10", 0.0),
                "recall@10": values.get("recall_10", 0.0),
                "recall@100": values.get("recall_100", 0.0),
                "mrr@10": values.get("recip_rank", 0.0),
                "map@100": values.get("map_cut_100", 0.0),
            }
        )
    return pa.Table.from_pylist(rows, schema=PER_QUERY)
