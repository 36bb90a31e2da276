"""Turn away pairs whose positive a model does not find again among many passages."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.model.embedder import DTYPES, Embedder, Precision
from components.monitor import Monitor, Silent
from components.pairs.filters.outcome import write_outcome
from components.pairs.filters.pool import Pool, build_pool
from components.pairs.filters.scores import score_pairs
from components.pairs.vectors import cosines, encode_documents, encode_queries
from components.search.exact import top_k
from components.storage import Folder

NOT_IN_TOP_K = "not_in_top_k"
_ROUNDING = 1e-6  # two products of the same vectors may differ by this much


def filter_by_consistency(
    *,
    pairs: Folder,
    model: Folder,
    documents: Folder | None = None,
    k: int = 2,
    pool_size: int = 1_000_000,
    seed: int = 0,
    precision: Precision = "float32",
    output: Folder,
    monitor: Monitor,
    state: Folder | None = None,
    tokens_per_batch: int = 8192,
    device: str = "cpu",
) -> dict[str, float]:
    """Keep the pairs whose positive ranks in the top k among a sampled pool (E5, arXiv 2212.03533, 3.1).

    The pool is a sample of distinct passages: the positives of all pairs and the documents, if they are given.
    The rank of a positive counts the passages of the pool that score above it, without those that are known
    to answer the query too: the positives, and copies of them, of all pairs with its query (by id or text).

    Args:
        pairs: `pairs.parquet` in the schema PAIRS, a file or a folder of files.
        model: model directory; in E5 it was trained on these very pairs.
        documents: a folder with `documents.parquet`.
        k: the last rank that is kept.
        pool_size: passages in the pool at most; of fewer, all.
        seed: of the sample, which does not depend on the order of the rows.
        precision: in which the model computes.
        output: `pairs.parquet` with `score`, the cosine; `rejected/rejected.parquet` with score and reason.
        state: what survives an attempt: texts that are encoded there are not encoded again.
        tokens_per_batch: padded tokens in one forward pass.
        device: where the model computes.

    Returns: rows_in, rows_out, rejected_<reason> (`not_in_top_k`, `empty_query`, `empty_positive`,
        `score_is_nan`), kept_share, pool_passages, score_mean_kept and score_mean_rejected.

    Raises:
        ValueError: k or pool_size is below 1, no pairs, or none is kept.
    """
    for name, value in (("k", k), ("pool_size", pool_size)):
        if value < 1:
            raise ValueError(f"filter: {name} must be at least 1; it is {value}")
    with model.local() as directory:
        embedder = Embedder.load(directory, DTYPES[precision], device)
    with tempfile.TemporaryDirectory(prefix="pool-") as scratch:
        file = Path(scratch) / "vectors"
        pool = build_pool(pairs, documents, pool_size, seed, embedder, tokens_per_batch, file, state, monitor)

        def score(piece: pa.Table) -> np.ndarray:
            return _score_and_rank(piece, pool, embedder, k, tokens_per_batch)

        score_N, rank_N = score_pairs(pairs, score, state, monitor, columns=2).T
    kept_N = rank_N <= k  # false for NaN
    passages = len(pool.digest_P)
    if not kept_N.any():
        raise ValueError(
            f"filter: no positive of {len(rank_N)} pairs ranks in the top {k} of {passages} passages"
        )
    numbers = write_outcome(pairs, score_N, kept_N, NOT_IN_TOP_K, "cosine", output, monitor)
    monitor.metrics({"pool_passages": float(passages)})
    return numbers | {"pool_passages": float(passages)}


def _score_and_rank(
    piece: pa.Table, pool: Pool, embedder: Embedder, k: int, tokens_per_batch: int
) -> np.ndarray:
    """Cosine of query and positive, and the positive's rank up to k + 1, float32 [N, 2]."""
    query_UD, query_row_N = encode_queries(
        embedder, piece["query"].to_pylist(), piece["instruction"].to_pylist(), tokens_per_batch, Silent()
    )
    query_ND = query_UD[query_row_N]
    positives = piece["positive"].to_pylist()
    column_N = pool.find(positives)
    outside = [row for row, column in enumerate(column_N) if column < 0]
    positive_ND = np.empty_like(query_ND)
    positive_ND[column_N >= 0] = pool.vector_PD[column_N[column_N >= 0]]
    if outside:
        texts = [positives[row] for row in outside]
        vector_VD, row_of = encode_documents(embedder, texts, tokens_per_batch, Silent())
        positive_ND[outside] = vector_VD[[row_of[text] for text in texts]]
    score_N = cosines(query_ND, positive_ND)

    known = pool.known_answers(piece)
    # Deep enough for k passages in front of the positive when all known answers stand there too.
    depth = k + max(map(len, known))
    score_NK, column_NK = top_k(query_ND, pool.vector_PD, depth)
    above_NK = score_NK > score_N[:, None] + _ROUNDING
    for above_K, column_K, columns in zip(above_NK, column_NK, known, strict=True):
        above_K &= ~np.isin(column_K, columns)
    rank_N = np.where(np.isnan(score_N), np.nan, 1 + np.minimum(above_NK.sum(1), k))
    return np.stack([score_N, rank_N], axis=1).astype(np.float32)
