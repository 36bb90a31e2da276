"""Turn away pairs whose query and positive are far apart."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from components.model.embedder import Embedder, Precision
from components.model.inference import inference_embedder
from components.model.spec import Side
from components.monitor import Monitor, Silent
from components.pairs.filters.outcome import write_cut
from components.pairs.filters.scores import Cut, score_pairs
from components.pairs.vectors import cosines
from components.search.encoding import of_unit_length
from components.search.workers import Workers
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
    state: Folder,
    tokens_per_batch: int = 8192,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
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
        num_workers: processes that score at once. num_cpus, num_gpus: of each.

    Returns: rows_in, rows_out, rejected_<reason> (`below_cut`, `empty_query`, `empty_positive`,
        `score_is_nan`), kept_share, cut, score_mean_kept and score_mean_rejected.

    Raises:
        ValueError: not exactly one of threshold and quantile, no pairs, or none is kept.
    """
    cut = Cut(threshold, quantile)
    load = partial(_load, model, precision, tokens_per_batch)
    score_N = score_pairs(pairs, load, state, monitor, Workers(num_workers, num_cpus, num_gpus))
    return write_cut(pairs, score_N, cut.of(score_N), "cosine", output, monitor)


def _load(
    model: Folder, precision: Precision, tokens_per_batch: int, device: str
) -> Callable[[pa.Table], np.ndarray]:
    with model.local() as directory:
        embedder = inference_embedder(directory, precision, device)

    def score(pairs: pa.Table) -> np.ndarray:
        queries, instructions, positives = (
            pairs[name].to_pylist() for name in ("query", "instruction", "positive")
        )
        query_ND = _encode(embedder, queries, "query", instructions, tokens_per_batch)
        positive_ND = _encode(embedder, positives, "document", [None] * len(positives), tokens_per_batch)
        return cosines(query_ND, positive_ND)

    return score


def _encode(
    embedder: Embedder,
    texts: Sequence[str],
    side: Side,
    instructions: Sequence[str | None],
    tokens_per_batch: int,
) -> np.ndarray:
    """Unit vectors float32 [N, D]; of equal texts one is encoded."""
    keys = list(zip(texts, instructions, strict=True))
    place_of = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    unique_texts, unique_instructions = zip(*place_of, strict=True)
    token_ids = embedder.tokenize_each(unique_texts, side, unique_instructions)
    vector_UD = of_unit_length(embedder.encode_tokens(token_ids, tokens_per_batch, Silent()))
    return vector_UD[[place_of[key] for key in keys]]
