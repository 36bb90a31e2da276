"""One system's result on one test collection: written by the evaluate steps, read by gate and report."""

import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from components.evaluation.collection import Collection
from components.evaluation.metrics import METRICS, ranking, score_queries
from components.evaluation.significance import Comparison, Interval, bootstrap_interval, paired_bootstrap
from components.storage import Folder

RUN = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """What is known of one system on one collection.

    Attributes:
        per_query: by metrics.PER_QUERY, sorted by query id.
        run: by RUN, what the system found: query by query, rank by rank.
        metrics: mean over queries of each metric, with its 95 % bootstrap interval.
        corpus_size, queries: documents searched and queries judged.
        queries_left_out: queries without a text or a relevant document.
        relevant_outside: relevant documents that the corpus does not hold; they count as missed.
        digest: of the collection; two evaluations compare only where it is the same.
        seconds: time of encoding (or indexing) and search.
    """

    per_query: pa.Table
    run: pa.Table
    metrics: dict[str, Interval]
    corpus_size: int
    queries: int
    queries_left_out: int
    relevant_outside: int
    digest: str
    seconds: float

    def numbers(self) -> dict[str, float]:
        """The evaluation as a flat dict: `ndcg@10`, `ndcg@10_low`, `ndcg@10_high`, ..., sizes and seconds."""
        flat: dict[str, float] = {}
        for metric, interval in self.metrics.items():
            flat |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
        return flat | {
            "corpus_size": self.corpus_size,
            "queries": self.queries,
            "queries_left_out": self.queries_left_out,
            "relevant_outside": self.relevant_outside,
            "seconds": self.seconds,
        }


def rank_and_score(
    collection: Collection, scores_NK: np.ndarray, indices_NK: np.ndarray, seconds: float
) -> Evaluation:
    """Judge what a system found.

    Args:
        collection: N queries, M documents.
        scores_NK: similarity of each result, any order within a row.
        indices_NK: position of each result in the corpus; -1 where a query has fewer than K results.
        seconds: what the search took, kept beside the scores.

    Raises:
        ValueError: a score is not a finite number.
    """
    found = indices_NK >= 0
    if not np.isfinite(scores_NK[found]).all():
        row = int(np.flatnonzero((found & ~np.isfinite(scores_NK)).any(axis=1))[0])
        raise ValueError(f"query `{collection.query_ids[row]}` has a similarity that is not a finite number")
    run = {
        query_id: {
            collection.document_ids[index]: float(score)
            for index, score in zip(indices_NK[row][found[row]], scores_NK[row][found[row]], strict=True)
        }
        for row, query_id in enumerate(collection.query_ids)
    }
    per_query = score_queries(run, collection.qrels)
    ranked = [
        {"query_id": query_id, "document_id": document_id, "score": scores[document_id], "rank": rank}
        for query_id, scores in run.items()
        for rank, document_id in enumerate(ranking(scores), start=1)
    ]
    return Evaluation(
        per_query=per_query,
        run=pa.Table.from_pylist(ranked, schema=RUN),
        metrics={metric: bootstrap_interval(per_query[metric].to_numpy()) for metric in METRICS},
        corpus_size=len(collection.document_ids),
        queries=per_query.num_rows,
        queries_left_out=collection.queries_left_out,
        relevant_outside=collection.relevant_outside,
        digest=collection.digest,
        seconds=seconds,
    )


def compare(candidate: Evaluation, baseline: Evaluation, metric: str) -> Comparison:
    """Paired bootstrap of one metric over the queries of two evaluations.

    Raises:
        ValueError: they were made on different collections.
    """
    if candidate.digest != baseline.digest:
        raise ValueError(
            f"evaluations on different collections ({candidate.digest[:9]}, {baseline.digest[:9]}) cannot be "
            "compared: evaluate both on the same documents, queries and judgements"
        )
    return paired_bootstrap(candidate.per_query[metric].to_numpy(), baseline.per_query[metric].to_numpy())


def write_evaluation(evaluation: Evaluation, output: Folder) -> None:
    """per_query.parquet, run.parquet and metrics.json."""
    output.write_table("per_query.parquet", evaluation.per_query)
    output.write_table("run.parquet", evaluation.run)
    summary = {metric: asdict(interval) for metric, interval in evaluation.metrics.items()} | {
        "corpus_size": evaluation.corpus_size,
        "queries": evaluation.queries,
        "queries_left_out": evaluation.queries_left_out,
        "relevant_outside": evaluation.relevant_outside,
        "digest": evaluation.digest,
        "seconds": evaluation.seconds,
    }
    output.write("metrics.json", json.dumps(summary, indent=2).encode())


def read_evaluation(folder: Folder) -> Evaluation:
    """What `write_evaluation` wrote; in an older one a metric may be missing."""
    summary = json.loads(folder.read("metrics.json"))
    return Evaluation(
        per_query=folder.read_table("per_query.parquet"),
        run=folder.read_table("run.parquet"),
        metrics={metric: Interval(**summary.pop(metric)) for metric in METRICS if metric in summary},
        **summary,
    )
