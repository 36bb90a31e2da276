"""Evaluate a reranker: the first documents of a retrieval system in the reranker's order."""

import json
import time
from collections.abc import Set
from dataclasses import asdict, replace

import numpy as np

from components.evaluation.collection import Collection, read_beir, read_collection
from components.evaluation.evaluation import (
    Evaluation,
    compare,
    rank_and_score,
    read_evaluation,
    write_evaluation,
)
from components.evaluation.metrics import METRICS
from components.evaluation.reranking_result import FIRST_STAGE, RERANKING_FILE, Reranking, read_reranking
from components.evaluation.retrieval import rank_by_bm25
from components.model.inference import inference_reranker
from components.model.reranker import Reranker
from components.monitor import Monitor
from components.storage import Folder


def evaluate_reranker(
    *,
    split: Folder,
    model: Folder,
    first_stage: Folder,
    output: Folder,
    monitor: Monitor,
    depth: int = 100,
    queries: int | None = None,
    seed: int = 0,
    tokens_per_batch: int = 8192,
) -> dict[str, float]:
    """Rank what a retrieval system found first anew, and judge both orders. Computed in float32.

    Args:
        split: output of split_documents.
        model: reranker directory.
        first_stage: what `evaluate_model` or `evaluate_bm25` left on the same split.
        depth: documents a query, at most the 100 that an evaluation keeps.
        queries: so many of them, drawn by `seed`; None: all.
        output: the evaluation of the new order, that of the old one on the same queries in `first_stage/`, and
            `reranking.json`.
        tokens_per_batch: padded tokens in one forward pass; execution only.

    Returns:
        as `evaluate_model`, of the new order; for each metric its difference to the old one (`gain_<metric>`) and
        its p (`p_<metric>`); latency_ms, latency_ms_p95.

    Raises:
        ValueError: an argument out of range, or a first stage that was evaluated on another collection.
    """
    _check(depth, queries)
    collection, found = read_collection(split), read_evaluation(first_stage)
    _check_same(collection, found)
    if queries is not None:
        collection = _draw(collection, queries, seed)
    return _evaluate(collection, found, model, depth, output, monitor, tokens_per_batch)


def evaluate_reranker_on_beir(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    first_stage: Folder | None = None,
    split: str = "test",
    instruction: str | None = None,
    depth: int = 100,
    queries: int | None = None,
    seed: int = 0,
    tokens_per_batch: int = 8192,
) -> dict[str, float]:
    """As `evaluate_reranker`, on a folder in BEIR's layout.

    Args:
        data: path or URI of the folder.
        first_stage: what `evaluate_on_beir` left on the same folder and split; None: BM25.
        split: which qrels/<split>.tsv.
        instruction: in place of the reranker's own.

    Raises:
        ValueError: as `evaluate_reranker`, and for a folder that is not in that layout or has no such split.
    """
    _check(depth, queries)
    collection = read_beir(Folder(data), split)
    found = rank_by_bm25(collection) if first_stage is None else read_evaluation(first_stage)
    _check_same(collection, found)
    if queries is not None:
        collection = _draw(collection, queries, seed)
    return _evaluate(collection, found, model, depth, output, monitor, tokens_per_batch, instruction)


def evaluate_beside(
    *,
    split: Folder,
    model: Folder,
    result: Folder,
    output: Folder,
    monitor: Monitor,
    tokens_per_batch: int = 8192,
) -> dict[str, float]:
    """Evaluate another reranker on the queries, the first stage and the depth of a result.

    Args:
        result: what `evaluate_reranker` left on the same split.

    The other arguments, and what is returned: as of `evaluate_reranker`.

    Raises:
        ValueError: the result is of another collection.
    """
    found = read_evaluation(result / FIRST_STAGE)
    collection = _only(read_collection(split), set(found.per_query["query_id"].to_pylist()))
    if found.digest != collection.digest:
        raise ValueError(
            f"the result {result.uri} is of another collection ({found.digest[:9]}) than the split holds "
            f"({collection.digest[:9]})"
        )
    depth = read_reranking(result).depth
    return _evaluate(collection, found, model, depth, output, monitor, tokens_per_batch)


def _evaluate(
    collection: Collection,
    found: Evaluation,
    model: Folder,
    depth: int,
    output: Folder,
    monitor: Monitor,
    tokens_per_batch: int,
    instruction: str | None = None,
) -> dict[str, float]:
    """What a reranker makes of what a first stage found for the queries of a collection."""
    score_NK, index_NK = _first_stage(collection, found)
    before = rank_and_score(collection, score_NK, index_NK, found.seconds)
    with model.local() as directory:
        reranker = inference_reranker(directory)
    after, seconds_N = rerank(collection, index_NK, reranker, depth, tokens_per_batch, monitor, instruction)
    result = _compare(before, after, depth, seconds_N)
    write_evaluation(after, output)
    write_evaluation(before, output / FIRST_STAGE)
    output.write(RERANKING_FILE, json.dumps(asdict(result), indent=2).encode())
    monitor.params({"evaluation_digest": after.digest})
    gains = {f"gain_{metric}": interval.mean for metric, interval in result.difference.items()}
    p_values = {f"p_{metric}": p for metric, p in result.p.items()}
    latency = {"latency_ms": result.latency_ms, "latency_ms_p95": result.latency_ms_p95}
    return after.numbers() | gains | p_values | latency


def rerank(
    collection: Collection,
    index_NK: np.ndarray,
    reranker: Reranker,
    depth: int,
    tokens_per_batch: int,
    monitor: Monitor,
    instruction: str | None = None,
) -> tuple[Evaluation, np.ndarray]:
    """The evaluation of the new order, and the seconds that each query took [N].

    Args:
        index_NK: places in the corpus of what was found, best first; -1 where a query has fewer.
        instruction: of a decoder's prompt; None: its own.
    """
    score_NK = np.zeros(index_NK.shape, dtype=np.float32)
    # Scores of a reranker are above 0: what is not ranked anew stays below, in its order.
    score_NK[:] = -1 - np.arange(index_NK.shape[1])
    seconds_N = np.empty(len(index_NK))
    for row, query in enumerate(collection.queries):
        places = index_NK[row, :depth][index_NK[row, :depth] >= 0]
        began = time.perf_counter()
        documents = [collection.passages[place] for place in places]
        count = len(documents)
        if count:
            scores = reranker.score([query] * count, documents, [instruction] * count, tokens_per_batch)
            score_NK[row, :count] = scores
        seconds_N[row] = time.perf_counter() - began
        monitor.progress(row + 1, len(collection.queries), "queries")
    return rank_and_score(collection, score_NK, index_NK, float(seconds_N.sum())), seconds_N


def _check(depth: int, queries: int | None) -> None:
    if not 1 <= depth <= 100:
        raise ValueError(
            f"depth is {depth}; it must be between 1 and the 100 documents that an evaluation keeps"
        )
    if queries is not None and queries < 2:
        raise ValueError(f"queries is {queries}; an interval over queries needs at least 2")


def _check_same(collection: Collection, found: Evaluation) -> None:
    if found.digest != collection.digest:
        raise ValueError(
            f"the first stage was evaluated on another collection ({found.digest[:9]}) than this one "
            f"({collection.digest[:9]}); evaluate it on the same documents, queries and judgements"
        )


def _draw(collection: Collection, count: int, seed: int) -> Collection:
    """So many of the queries, in their order."""
    number = len(collection.query_ids)
    rows = np.random.default_rng(seed).choice(number, min(count, number), replace=False)
    return _only(collection, {collection.query_ids[row] for row in rows})


def _only(collection: Collection, ids: Set[str]) -> Collection:
    """Those queries of it, in its order."""
    rows = [row for row, query in enumerate(collection.query_ids) if query in ids]
    return replace(
        collection,
        query_ids=[collection.query_ids[row] for row in rows],
        queries=[collection.queries[row] for row in rows],
        qrels={collection.query_ids[row]: collection.qrels[collection.query_ids[row]] for row in rows},
    )


def _first_stage(collection: Collection, found: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Scores and places in the corpus of what a system found, best first [N, K]."""
    place = {document_id: number for number, document_id in enumerate(collection.document_ids)}
    row_of = {query_id: row for row, query_id in enumerate(collection.query_ids)}
    K = max(found.run["rank"].to_pylist(), default=1)
    score_NK = np.zeros((len(row_of), K), dtype=np.float32)
    index_NK = np.full((len(row_of), K), -1, dtype=np.int64)
    columns = (found.run[name].to_pylist() for name in ("query_id", "document_id", "score", "rank"))
    for query_id, document_id, score, rank in zip(*columns, strict=True):
        if query_id in row_of:
            at = row_of[query_id], rank - 1
            score_NK[at], index_NK[at] = score, place[document_id]
    return score_NK, index_NK


def _compare(before: Evaluation, after: Evaluation, depth: int, seconds_N: np.ndarray) -> Reranking:
    found = {metric: compare(after, before, metric) for metric in METRICS}
    median, most = np.percentile(seconds_N * 1000, [50, 95])
    return Reranking(
        before=before.metrics,
        after=after.metrics,
        difference={metric: comparison.difference for metric, comparison in found.items()},
        p={metric: comparison.p_value for metric, comparison in found.items()},
        queries=after.queries,
        depth=depth,
        latency_ms=float(median),
        latency_ms_p95=float(most),
    )
