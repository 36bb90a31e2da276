"""Turn away pairs that a reranker does not believe in."""

import numpy as np
import pyarrow as pa

from components.model.embedder import DTYPES, Precision
from components.model.reranker import Reranker, load_reranker
from components.monitor import Monitor
from components.pairs.filters.outcome import write_cut
from components.pairs.filters.scores import Cut, score_pairs
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
    state: Folder | None = None,
    tokens_per_batch: int = 8192,
    device: str = "cpu",
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
        device: where the model computes.

    Returns: as `filter_by_cosine`.

    Raises:
        ValueError: not exactly one of threshold and quantile, a model that is no reranker, no pairs, or none
            is kept.
    """
    cut = Cut(threshold, quantile)
    with model.local() as directory:
        reranker = load_reranker(directory, DTYPES[precision], device, length=length)
    score_N = score_with(reranker, pairs, tokens_per_batch, state, monitor)
    return write_cut(pairs, score_N, cut.of(score_N), "reranker score", output, monitor)


def score_with(
    reranker: Reranker, pairs: Folder, tokens_per_batch: int, state: Folder | None, monitor: Monitor
) -> np.ndarray:
    """A reranker's scores of all pairs, float32 [N]; NaN as `score_pairs` says."""

    def score(piece: pa.Table) -> np.ndarray:
        queries, positives, instructions = (
            piece[name].to_pylist() for name in ("query", "positive", "instruction")
        )
        return reranker.score(queries, positives, instructions, tokens_per_batch)

    return score_pairs(pairs, score, state, monitor)[:, 0]
