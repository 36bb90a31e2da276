"""Turn away pairs whose query and positive are far apart."""

import numpy as np
import pyarrow as pa

from components.model.embedder import DTYPES, Embedder, Precision
from components.monitor import Monitor, Silent
from components.pairs.filters.outcome import write_cut
from components.pairs.filters.scores import Cut, score_pairs
from components.pairs.vectors import cosines, encode_documents, encode_queries
from components.storage import Folder


def filter_by_cosine(
    *,
    pairs: Folder,
    model: Folder,
    threshold: float | None = None,
    quantile: float | None = None,
    precision: Precision = "float32",
    output: Folder,
    monitor: Monitor,
    state: Folder | None = None,
    tokens_per_batch: int = 8192,
    device: str = "cpu",
) -> dict[str, float]:
    """Keep the pairs whose cosine of query and positive under a model reaches a cut (Qwen3 Embedding, 3.2).

    The paper's 0.7 belongs to a trained embedder; for another model a quantile says what is meant.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS, a file or a folder of files.
        model: model directory.
        threshold: the cut itself, a cosine.
        quantile: in its place the share of pairs to drop, the lowest cosines; equal ones at the cut stay.
        precision: in which the model computes.
        output: `pairs.parquet` with `score` filled, `rejected/rejected.parquet` with score and reason.
        state: what survives an attempt: pairs that are scored there are not encoded again.
        tokens_per_batch: padded tokens in one forward pass.
        device: where the model computes.

    Returns: rows_in, rows_out, rejected_<reason> (`below_cut`, `empty_query`, `empty_positive`,
        `score_is_nan`), kept_share, cut, score_mean_kept and score_mean_rejected.

    Raises:
        ValueError: not exactly one of threshold and quantile, no pairs, or none is kept.
    """
    cut = Cut(threshold, quantile)
    with model.local() as directory:
        embedder = Embedder.load(directory, DTYPES[precision], device)

    def score(piece: pa.Table) -> np.ndarray:
        queries, instructions = piece["query"].to_pylist(), piece["instruction"].to_pylist()
        query_UD, query_row_N = encode_queries(embedder, queries, instructions, tokens_per_batch, Silent())
        positives = piece["positive"].to_pylist()
        positive_VD, row_of = encode_documents(embedder, positives, tokens_per_batch, Silent())
        return cosines(query_UD[query_row_N], positive_VD[[row_of[text] for text in positives]])

    score_N = score_pairs(pairs, score, state, monitor)[:, 0]
    return write_cut(pairs, score_N, cut.of(score_N), "cosine", output, monitor)
