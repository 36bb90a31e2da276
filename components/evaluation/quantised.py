"""What a smaller form of the vectors costs: the same queries over the same documents, judged beside float32."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from components.evaluation.cache import Encoder
from components.evaluation.collection import Collection
from components.evaluation.evaluation import Evaluation, compare, rank_and_score
from components.evaluation.retrieval import DEPTH
from components.evaluation.significance import Interval
from components.monitor import Monitor
from components.search.coded import Form
from components.search.exact import top_k
from components.search.quantise import cut, from_bits, from_int8, ranges_of, rescore, to_bits, to_int8

METRICS = ("ndcg@10", "recall@100")
OVERSAMPLING = 4
"""So many times the results that are wanted are found by bits and put in order by better vectors."""


@dataclass(frozen=True)
class FormResult:
    """One form on a collection.

    Attributes:
        name: in words.
        bytes_per_document: of its vector.
        metrics: mean with 95 % interval, by METRICS.
        difference: to float32 in all dimensions, query by query, likewise; empty for that itself.
    """

    name: str
    bytes_per_document: int
    metrics: dict[str, Interval]
    difference: dict[str, Interval]


def judge_form(
    collection: Collection,
    encoder: Encoder,
    form: Form,
    tokens_per_batch: int,
    monitor: Monitor,
    instruction: str | None = None,
) -> list[FormResult]:
    """Search a collection with a form, and with float32 in all dimensions, which comes first.

    Queries are float32. int8 takes its ranges from the documents, as `bulk.embed_table` does. Of binary there are three
    searches: by Hamming distance alone; the best by it put in order by the query against the bits; and against int8.

    Args:
        instruction: of the queries, in place of the model's own.

    Raises:
        ValueError: the model has not so many dimensions.
    """
    started = time.perf_counter()
    query_ND, document_MD = (
        vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        for vectors in (
            encoder.encode(collection.queries, "query", instruction, tokens_per_batch, monitor),
            encoder.encode(collection.passages, "document", None, tokens_per_batch, monitor),
        )
    )
    widest = query_ND.shape[1]
    dimensions = form.checked(widest)
    seconds = time.perf_counter() - started

    def judge(search: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Evaluation:
        return rank_and_score(collection, *search(), seconds)

    whole = judge(lambda: top_k(query_ND, document_MD, DEPTH))
    found = [FormResult(f"float32, {widest} dimensions", widest * 4, _means(whole), {})]

    def add(name: str, size: int, search: Callable[[], tuple[np.ndarray, np.ndarray]]) -> None:
        evaluation = judge(search)
        difference = {metric: compare(evaluation, whole, metric).difference for metric in METRICS}
        found.append(FormResult(name, size, _means(evaluation), difference))

    query_ND, document_MD = cut(query_ND, dimensions), cut(document_MD, dimensions)
    if dimensions < widest:
        size = dimensions * 4
        add(f"float32, {dimensions} dimensions", size, lambda: top_k(query_ND, document_MD, DEPTH))
    if form.precision == "float32":
        return found
    ranges = ranges_of([document_MD])
    by_int8_MD = from_int8(to_int8(document_MD, ranges), ranges)
    if form.precision == "int8":
        add(f"int8, {dimensions} dimensions", dimensions, lambda: top_k(query_ND, by_int8_MD, DEPTH))
        return found
    sign_MD = from_bits(to_bits(document_MD))
    # The inner product of signs is the dimensions less twice the Hamming distance.
    hamming = top_k(from_bits(to_bits(query_ND)), sign_MD, DEPTH * OVERSAMPLING)
    size = dimensions // 8
    add(f"binary, {dimensions} dimensions", size, lambda: (hamming[0][:, :DEPTH], hamming[1][:, :DEPTH]))
    for name, vectors_MD, more in (("the query", sign_MD, 0), ("int8", by_int8_MD, dimensions)):
        search = partial(rescore, query_ND, vectors_MD, hamming[1], DEPTH)
        add(f"binary, rescored by {name}", size + more, search)
    return found


def _means(evaluation: Evaluation) -> dict[str, Interval]:
    return {metric: evaluation.metrics[metric] for metric in METRICS}
