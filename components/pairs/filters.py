"""Turn away pairs whose query and positive are far apart."""

import numpy as np
import pyarrow as pa

from components.corpus.schema import PAIRS, conform
from components.model.embedder import DTYPES, Embedder, Precision
from components.monitor import Monitor
from components.pairs.figures import score_histogram
from components.pairs.vectors import cosines, encode_documents, encode_queries
from components.storage import Folder


def filter_pairs(
    *,
    pairs: Folder,
    model: Folder,
    threshold: float | None = None,
    quantile: float | None = None,
    precision: Precision = "float32",
    output: Folder,
    monitor: Monitor,
    tokens_per_batch: int = 8192,
) -> dict[str, float]:
    """Keep the pairs whose cosine of query and positive under a model reaches a cut (Qwen3 Embedding, 3.2).

    The paper's 0.7 belongs to a trained embedder; for another model a quantile says what is meant.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS.
        model: model directory.
        threshold: the cut itself, a cosine.
        quantile: in its place the share of pairs to drop, the lowest cosines; equal ones at the cut stay.
        precision: in which the model computes.
        output: `pairs.parquet` with `score` filled, `rejected/rejected.parquet` with score and reason.
        tokens_per_batch: padded tokens in one forward pass.

    Returns: rows_in, rows_out, rejected_below_cut, kept_share, cut, score_mean_kept and score_mean_rejected.

    Raises:
        ValueError: not exactly one of threshold and quantile, no pairs, or none is kept.
    """
    if (threshold is None) == (quantile is None):
        raise ValueError("filter: give either threshold or quantile, not both and not neither")
    if quantile is not None and not 0 <= quantile < 1:
        raise ValueError(f"filter: quantile must be in [0, 1); it is {quantile}")
    table = conform(pairs.read_table("pairs.parquet"), PAIRS)
    if not table.num_rows:
        raise ValueError("filter: there are no pairs to filter")

    with model.local() as directory:
        embedder = Embedder.load(directory, DTYPES[precision])
    score_N = _score(table, embedder, tokens_per_batch, monitor)
    cut = float(np.quantile(score_N, quantile)) if quantile is not None else float(threshold or 0)
    kept_N = score_N >= cut
    if not kept_N.any():
        raise ValueError(
            f"filter: threshold {cut} keeps none of {len(score_N)} pairs, whose best is {score_N.max():.3f}"
        )

    table = table.set_column(table.schema.get_field_index("score"), PAIRS.field("score"), pa.array(score_N))
    kept, rejected = table.filter(pa.array(kept_N)), table.filter(pa.array(~kept_N))
    reason = pa.array([f"cosine below {cut:.4f}"] * rejected.num_rows, pa.string())
    output.write_table("pairs.parquet", kept)
    output.write_table("rejected/rejected.parquet", rejected.append_column("reason", reason))
    monitor.figure(
        "filter_scores.png",
        score_histogram(
            "Cosine of query and positive", {"kept": score_N[kept_N], "rejected": score_N[~kept_N]}, cut
        ),
    )
    numbers = {
        "rows_in": float(table.num_rows),
        "rows_out": float(kept.num_rows),
        "rejected_below_cut": float(rejected.num_rows),
        "kept_share": kept.num_rows / table.num_rows,
        "cut": cut,
        "score_mean_kept": float(score_N[kept_N].mean()),
    }
    if rejected.num_rows:
        numbers["score_mean_rejected"] = float(score_N[~kept_N].mean())
    monitor.metrics(numbers)
    return numbers


def _score(table: pa.Table, embedder: Embedder, tokens_per_batch: int, monitor: Monitor) -> np.ndarray:
    """Cosine of query and positive of every row, float32 [N]."""
    query_UD, query_row_N = encode_queries(
        embedder, table["query"].to_pylist(), table["instruction"].to_pylist(), tokens_per_batch, monitor
    )
    positives = table["positive"].to_pylist()
    positive_VD, row_of = encode_documents(embedder, positives, tokens_per_batch, monitor)
    score_N = np.empty(table.num_rows, dtype=np.float32)
    for start in range(0, table.num_rows, 65536):  # rows gathered at once
        rows = slice(start, start + 65536)
        positive_rows = [row_of[text] for text in positives[rows]]
        score_N[rows] = cosines(query_UD[query_row_N[rows]], positive_VD[positive_rows])
    return score_N
