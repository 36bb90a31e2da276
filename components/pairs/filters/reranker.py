"""Turn away pairs that a reranker does not believe in."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from components.model.embedder import Precision
from components.model.inference import inference_reranker
from components.model.reranker import Reranker
from components.monitor import Monitor
from components.pairs.filters.outcome import write_cut
from components.pairs.filters.scores import Cut, score_pairs
from components.search.workers import Workers
from components.storage import Folder


def filter_by_reranker(
    *,
    pairs: Folder,
    model: Folder,
    threshold: float | None = None,
    quantile: float | None = None,
    length: int | None = None,
    precision: Precision = "float32",
    output: Folder,
    monitor: Monitor,
    state: Folder,
    tokens_per_batch: int = 8192,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> dict[str, float]:
    """Keep the pairs whose score by a reranker reaches a cut.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS, a file or a folder of files. A pair's own instruction goes
            into the prompt of a language model; without one the published instruction does.
        model: a causal language model under the published prompt, or a cross-encoder
            (`components.model.reranker`).
        threshold: the least score that is kept, a probability.
        quantile: in its place the share of pairs to drop, the lowest scores; equal ones at the cut stay.
        length: longest query and document together in tokens, prompt included; None: what the model can read,
            at most 8,192.
        precision: in which the model computes.
        output: `pairs.parquet` with `score` filled, `rejected/rejected.parquet` with score and reason.
        state: what survives an attempt: pairs that are scored there are not scored again.
        tokens_per_batch: padded tokens in one forward pass.
        num_workers: processes that score at once. num_cpus, num_gpus: of each.

    Returns: as `filter_by_cosine`.

    Raises:
        ValueError: not exactly one of threshold and quantile, a model that is no reranker, no pairs, or none
            is kept.
    """
    cut = Cut(threshold, quantile)
    load = partial(_load, model, precision, length, tokens_per_batch)
    score_N = score_pairs(pairs, load, state, monitor, Workers(num_workers, num_cpus, num_gpus))
    return write_cut(pairs, score_N, cut.of(score_N), "reranker score", output, monitor)


def _load(
    model: Folder, precision: Precision, length: int | None, tokens_per_batch: int, device: str
) -> Callable[[pa.Table], np.ndarray]:
    with model.local() as directory:
        return score_by(inference_reranker(directory, precision, device, length=length), tokens_per_batch)


def score_by(reranker: Reranker, tokens_per_batch: int) -> Callable[[pa.Table], np.ndarray]:
    """A reranker's score of each pair, float32 [N]."""

    def score(pairs: pa.Table) -> np.ndarray:
        queries, positives, instructions = (
            pairs[name].to_pylist() for name in ("query", "positive", "instruction")
        )
        return reranker.score(queries, positives, instructions, tokens_per_batch)

    return score
