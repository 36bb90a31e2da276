"""Evaluate a retrieval system: encode, search the whole corpus exactly, judge the first 100 results."""

import time

import numpy as np
import pyarrow as pa

from components.evaluation.cache import Encoder, load_encoder
from components.evaluation.collection import Collection, read_beir, read_collection
from components.evaluation.evaluation import Evaluation, rank_and_score, write_evaluation
from components.model.spec import Side
from components.monitor import Monitor
from components.search.bm25 import Bm25Index
from components.search.encoding import encode_shards
from components.search.exact import top_k
from components.search.running import unpack
from components.search.sharded import search_shards
from components.search.shards import Shards, write_tables
from components.search.workers import Workers
from components.storage import Folder

DEPTH = 100
ROWS_PER_SHARD = 8192
TEXTS = pa.schema([pa.field("text", pa.string(), nullable=False)])


def evaluate_model(
    *,
    split: Folder,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    state: Folder | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> dict[str, float]:
    """Evaluate an embedding model on the evaluation side of a split.

    Computed in float32 whatever precision the model was trained or will be served in, so that scores of
    different models differ by the models alone.

    Args:
        split: output of split_documents.
        model: a model directory.
        output: gets per_query.parquet, run.parquet, metrics.json.
        state: where vectors are kept while several workers search; what is there is not encoded again.
        tokens_per_batch: padded tokens encoded at once; execution only.
        cache: a folder for vectors (`cache.CachedEncoder`), where one process works; execution only.
        num_workers, num_cpus, num_gpus: processes that encode and search, and what each has; execution only.

    Returns:
        Means and 95 % intervals of nDCG@10, Recall@10, Recall@100, MRR@10 and MAP@100, corpus size, queries, seconds.
    """
    collection = read_collection(split)
    if state is not None and (num_workers > 1 or num_gpus):
        workers = Workers(num_workers, num_cpus, num_gpus)
        evaluation = evaluate_sharded(collection, model, state, workers, tokens_per_batch, monitor)
    else:
        evaluation = evaluate_embedder(collection, load_encoder(model, cache), tokens_per_batch, monitor)
    return _keep(evaluation, output, monitor)


def evaluate_bm25(*, split: Folder, output: Folder, monitor: Monitor) -> dict[str, float]:
    """Evaluate BM25 on the evaluation side of a split; output and result as of `evaluate_model`."""
    return _keep(rank_by_bm25(read_collection(split)), output, monitor)


def evaluate_on_beir(
    *,
    data: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    split: str = "test",
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
    cache: Folder | None = None,
) -> dict[str, float]:
    """Evaluate an embedding model on a folder in BEIR's layout; output and result as of `evaluate_model`.

    Args:
        data: path or URI of the folder.
        split: which qrels/<split>.tsv.
        instruction: of the queries, in place of the model's own.
        cache: a folder for vectors (`cache.CachedEncoder`); execution only.

    Raises:
        ValueError: the folder is not in that layout or has no such split.
    """
    collection = read_beir(Folder(data), split)
    encoder = load_encoder(model, cache)
    return _keep(
        evaluate_embedder(collection, encoder, tokens_per_batch, monitor, instruction), output, monitor
    )


def rank_by_bm25(collection: Collection) -> Evaluation:
    """Index, search, judge."""
    started = time.perf_counter()
    scores_NK, indices_NK = Bm25Index(collection.passages).search(collection.queries, DEPTH)
    return rank_and_score(collection, scores_NK, indices_NK, time.perf_counter() - started)


def evaluate_embedder(
    collection: Collection,
    embedder: Encoder,
    tokens_per_batch: int,
    monitor: Monitor,
    instruction: str | None = None,
) -> Evaluation:
    """Encode both sides, search exactly, judge."""
    started = time.perf_counter()
    query_ND = embedder.encode(collection.queries, "query", instruction, tokens_per_batch, monitor)
    document_MD = embedder.encode(collection.passages, "document", None, tokens_per_batch, monitor)
    scores_NK, indices_NK = top_k(query_ND, document_MD, DEPTH)
    return rank_and_score(collection, scores_NK, indices_NK, time.perf_counter() - started)


def evaluate_sharded(
    collection: Collection,
    model: Folder,
    state: Folder,
    workers: Workers,
    tokens_per_batch: int,
    monitor: Monitor,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Evaluation:
    """As `evaluate_embedder`, by cosine, with vectors in files and both encoding and search spread over workers.

    Args:
        state: texts, vectors and what was found, by files; those that are there are not made again.
    """
    started = time.perf_counter()

    def encode(texts: list[str], side: Side, name: str) -> Shards:
        pieces = (
            pa.table({"text": texts[at : at + rows_per_shard]}, schema=TEXTS)
            for at in range(0, len(texts), rows_per_shard)
        )
        if side == "query":
            pieces = (
                piece.append_column("instruction", pa.nulls(piece.num_rows, pa.string())) for piece in pieces
            )
        written = write_tables(pieces, state / f"{name}-texts", rows_per_shard)
        return encode_shards(
            written, side, model, state / f"{name}-vectors", monitor,
            tokens_per_batch=tokens_per_batch, workers=workers,
        )  # fmt: skip

    queries = encode(collection.queries, "query", "query")
    documents = encode(collection.passages, "document", "document")
    found = Shards(state / "found", queries.rows, rows_per_shard)
    search_shards(queries, documents, DEPTH, found, monitor, workers=workers.count)
    keys_NK = np.concatenate([found.read(shard) for shard in range(len(found))])
    scores_NK, indices_NK = unpack(keys_NK)
    return rank_and_score(collection, scores_NK, indices_NK, time.perf_counter() - started)


def _keep(evaluation: Evaluation, output: Folder, monitor: Monitor) -> dict[str, float]:
    write_evaluation(evaluation, output)
    monitor.params({"evaluation_digest": evaluation.digest})
    return evaluation.numbers()
