"""Exact search of a corpus that fits no memory: vectors in files, blocks of queries by groups of documents.

A task takes the queries of one file and goes through the files of one group of documents, one at a time. What
the groups of a block find is merged by key, so the result does not depend on how many groups there are.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from components.monitor import Monitor
from components.search.exact import QUERY_TILE, TILE, add_documents, check_finite
from components.search.running import LARGEST_ROW, RunningTopK, best_keys, buffer_length
from components.search.shards import Shards
from components.search.workers import spread

Barred = tuple[np.ndarray, np.ndarray]
"""Query numbers within a block and document rows, int64 [B] each, sorted by row."""


def search_shards(
    queries: Shards,
    documents: Shards,
    k: int,
    output: Shards,
    monitor: Monitor,
    barred: Callable[[int], Barred] | None = None,
    workers: int = 1,
) -> None:
    """Find the k documents of the highest inner product with each query, by score and then by row.

    Args:
        queries, documents: float32 vectors of one width.
        output: takes the keys (`running.unpack`), int64 [rows of the queries, k], best first; rows with fewer
            documents are padded. Files that are there already are left as they are.
        barred: of a file of queries, the documents that each of them may not find.
        workers: tasks at once, of one CPU each. `worker_bytes` says what memory each needs.

    Raises:
        ValueError: k is below 1, there is no document, or a vector is not finite.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; it is {k}")
    if not 0 < documents.rows <= LARGEST_ROW:
        raise ValueError(f"there are {documents.rows} documents to search; 1 to {LARGEST_ROW} can be")
    missing = output.missing()
    groups = _groups(len(documents), len(missing), workers)
    calls = (
        (queries, shard, documents, group, k, barred(shard) if barred else None)
        for shard in missing
        for group in groups
    )
    found: dict[int, list[np.ndarray]] = {shard: [] for shard in missing}
    done = queries.rows - sum(len(queries.span(shard)) for shard in missing)
    for call, keys_QK in spread(_search_block, calls, len(missing) * len(groups), workers):
        shard = missing[call // len(groups)]
        found[shard].append(keys_QK)
        if len(found[shard]) == len(groups):
            output.write(shard, best_keys(np.concatenate(found.pop(shard), axis=1), k))
            done += len(queries.span(shard))
            monitor.progress(done, queries.rows, "queries")


def worker_bytes(dimensions: int, k: int, queries_per_shard: int, documents_per_shard: int) -> int:
    """Most memory that a task of `search_shards` takes beside Python and its libraries, in bytes.

    The queries' vectors and their keys twice (the buffers, and what is sorted at the end), one file of
    documents, one tile of scores with its comparisons, and what a tile's first stretch hands on: at most 2k
    scores a query, as 64-bit numbers in six arrays.
    """
    keys = 8 * queries_per_shard * (buffer_length(k) + 2 * k)
    vectors = 4 * dimensions * (queries_per_shard + documents_per_shard)
    tile = QUERY_TILE * TILE * (4 + 1 + 1)
    candidates = 8 * QUERY_TILE * (6 * 2 * k + 2 * (buffer_length(k) + 2 * k))
    return keys + vectors + tile + candidates


def _groups(num_documents_shards: int, num_blocks: int, workers: int) -> list[range]:
    """The documents' files in so many groups that every worker has something to do, two tasks each."""
    wanted = -(-2 * workers // max(num_blocks, 1)) if workers > 1 else 1
    count = max(1, min(wanted, num_documents_shards))
    edges = [num_documents_shards * group // count for group in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _search_block(
    queries: Shards, shard: int, documents: Shards, group: range, k: int, barred: Barred | None
) -> np.ndarray:
    query_QD = np.ascontiguousarray(queries.read(shard))
    check_finite(query_QD, "query", queries.span(shard).start)
    best = RunningTopK(len(query_QD), k)
    for number in group:
        add_documents(best, query_QD, documents.read(number), documents.span(number).start, barred)
    return best.keys()
