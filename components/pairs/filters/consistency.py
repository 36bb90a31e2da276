"""Turn away pairs whose positive a model does not find again among many passages."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.model.embedder import Precision
from components.model.spec import Side
from components.monitor import Monitor
from components.pairs.filters.outcome import write_outcome
from components.pairs.filters.pool import Pool, build_pool, query_keys
from components.pairs.filters.scores import empty_side
from components.pairs.known import MOST_LINKS
from components.pairs.piecewise import ROWS_AT_ONCE
from components.pairs.table import count_pairs, read_pairs
from components.pairs.vectors import cosines
from components.search.encoding import encode_shards
from components.search.running import unpack
from components.search.sharded import Barred, search_shards
from components.search.shards import Shards, TableShards, write_tables
from components.search.workers import Workers
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
    state: Folder,
    tokens_per_batch: int = 8192,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    rows_per_shard: int = 8192,
) -> dict[str, float]:
    """Keep the pairs whose positive ranks in the top k among a sampled pool (E5, arXiv 2212.03533, 3.1).

    The pool is a sample of distinct passages: the positives of all pairs and the documents, if they are given.
    The rank of a positive counts the passages of the pool that score above it, without those that are known
    to answer the query too: the positives, and copies of them, of all pairs with its query (by id or text). What has
    a positive's id is one, too, where few texts have it (`pool.TEXTS_OF_A_DOCUMENT`).

    Texts, vectors and what was found lie in files of `state`; in memory are some 60 bytes a pair and 30 a passage
    of the pool.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS, a file or a folder of files.
        model: model directory; in E5 it was trained on these very pairs.
        documents: a folder with `documents.parquet`.
        k: the last rank that is kept.
        pool_size: passages in the pool at most; of fewer, all.
        seed: of the sample, which does not depend on the order of the rows.
        precision: in which the model computes.
        output: `pairs.parquet` with the cosine as `measured`; `rejected/rejected.parquet` with score and reason.
        state: what survives an attempt: texts that are encoded there are not encoded again.
        tokens_per_batch: padded tokens in one forward pass.
        num_workers: processes that encode and search at once. num_cpus, num_gpus: of one that encodes; one that
            searches has one CPU.
        rows_per_shard: texts of a file; so many, for each worker, are encoded again after a crash.

    Returns: rows_in, rows_out, rejected_<reason> (`not_in_top_k`, `empty_query`, `empty_positive`), kept_share,
        pool_passages, score_mean_kept and score_mean_rejected.

    Raises:
        ValueError: k or pool_size is below 1, no pairs, a vector that is not finite, or none is kept.
    """
    for name, value in (("k", k), ("pool_size", pool_size)):
        if value < 1:
            raise ValueError(f"filter: {name} must be at least 1; it is {value}")
    if not count_pairs(pairs):
        raise ValueError("filter: there are no pairs to filter")
    pool = build_pool(pairs, documents, pool_size, seed, state / "pool-texts", rows_per_shard)
    scored = _index(pairs, pool)
    links_U = pool.answers.count(scored.id_U) + pool.answers.count(scored.text_U)
    # Of a large class each text answers every other: then fewer queries are looked at together.
    query_rows = min(rows_per_shard, max(1, MOST_LINKS // max(1, int(links_U.max()))))

    def encode(name: str, side: Side, texts: TableShards) -> Shards:
        return encode_shards(
            texts, side, model, state / f"{name}-vectors", monitor,
            precision=precision, tokens_per_batch=tokens_per_batch,
            workers=Workers(num_workers, num_cpus, num_gpus),
        )  # fmt: skip

    queries = write_tables(_queries(pairs), state / "query-texts", query_rows)
    outside = write_tables(_outside(pairs, pool), state / "outside-texts", rows_per_shard)
    passage_PD, query_ND = encode("pool", "document", pool.texts), encode("query", "query", queries)
    outside_OD = encode("outside", "document", outside)
    found = Shards(state / "found", queries.rows, queries.rows_per_shard)

    def known(shard: int) -> Barred:
        return _known(scored, pool, queries.span(shard))

    search_shards(query_ND, passage_PD, k, found, monitor, known, num_workers)
    score_N = np.full(scored.rows, np.nan, dtype=np.float32)
    kept_N = np.zeros(scored.rows, dtype=bool)
    for shard in range(len(queries)):
        span = slice(queries.span(shard).start, queries.span(shard).stop)
        positive_BD = _positives(scored.positive_U[span], passage_PD, outside_OD)
        score_B = cosines(query_ND.read(shard), positive_BD)
        best_Bk, _ = unpack(found.read(shard))
        score_N[scored.row_U[span]] = score_B
        # In the top k unless k others stand above it.
        kept_N[scored.row_U[span]] = ~(best_Bk[:, -1] > score_B + _ROUNDING)
    passages = len(pool.digest_P)
    if not kept_N.any():
        raise ValueError(
            f"filter: no positive of {scored.rows} pairs ranks in the top {k} of {passages} passages"
        )
    numbers = write_outcome(pairs, score_N, kept_N, NOT_IN_TOP_K, "cosine", output, monitor)
    monitor.metrics({"pool_passages": float(passages)})
    return numbers | {"pool_passages": float(passages)}


@dataclass(frozen=True)
class _Scored:
    """The U pairs of N that have a text on both sides.

    Attributes:
        rows: N.
        row_U: int64, place in the table.
        id_U, text_U: int64, keys of the query.
        positive_U: int64, row of the pool, or -1 - row of the positives outside of it.
    """

    rows: int
    row_U: np.ndarray
    id_U: np.ndarray
    text_U: np.ndarray
    positive_U: np.ndarray


def _usable(pairs: Folder) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The pairs that have a text on both sides, and their places in the table, some at a time."""
    start = 0
    for table in read_pairs(pairs, ROWS_AT_ONCE):
        rows = np.flatnonzero([reason is None for reason in empty_side(table)])
        yield start + rows, table.take(rows)
        start += table.num_rows


def _index(pairs: Folder, pool: Pool) -> _Scored:
    rows, ids, texts, positives = [], [], [], []
    outside = 0
    for places, table in _usable(pairs):
        rows.append(places)
        id_B, text_B = query_keys(table)
        ids.append(id_B)
        texts.append(text_B)
        positive_B = pool.rows(table["positive"].to_pylist())
        elsewhere_B = positive_B < 0
        positive_B[elsewhere_B] = -1 - outside - np.arange(elsewhere_B.sum())
        outside += int(elsewhere_B.sum())
        positives.append(positive_B)
    row_U, id_U, text_U, positive_U = (np.concatenate(parts) for parts in (rows, ids, texts, positives))
    if not len(row_U):
        raise ValueError(f"filter: none of {count_pairs(pairs)} pairs has a query and a positive")
    return _Scored(count_pairs(pairs), row_U, id_U, text_U, positive_U)


def _queries(pairs: Folder) -> Iterator[pa.Table]:
    for _, table in _usable(pairs):
        yield pa.table({"text": table["query"], "instruction": table["instruction"]})


def _outside(pairs: Folder, pool: Pool) -> Iterator[pa.Table]:
    for _, table in _usable(pairs):
        elsewhere_B = pool.rows(table["positive"].to_pylist()) < 0
        yield pa.table({"text": table["positive"].filter(pa.array(elsewhere_B, pa.bool_()))})


def _known(scored: _Scored, pool: Pool, span: range) -> Barred:
    """The passages that are known to answer the queries of a file: by row."""
    block = slice(span.start, span.stop)
    found = [pool.answers.find(keys[block]) for keys in (scored.id_U, scored.text_U)]
    query_B, row_B = (np.concatenate(parts) for parts in zip(*found, strict=True))
    both = np.unique(np.stack([row_B, query_B]), axis=1)
    return both[1], both[0]


def _positives(positive_B: np.ndarray, passage_PD: Shards, outside_OD: Shards) -> np.ndarray:
    """Vectors of positives, float32 [B, D]."""
    inside_B = positive_B >= 0
    if inside_B.all():
        return passage_PD.take(positive_B)
    vector_BD = np.empty((len(positive_B), passage_PD.read(0).shape[1]), dtype=np.float32)
    vector_BD[inside_B] = passage_PD.take(positive_B[inside_B])
    vector_BD[~inside_B] = outside_OD.take(-1 - positive_B[~inside_B])
    return vector_BD
