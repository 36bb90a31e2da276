"""Evaluate a retrieval system: encode, search the whole corpus exactly, judge the first 100 results."""

import tempfile
import time
from pathlib import Path

from components.evaluation.collection import Collection, read_beir, read_collection
from components.evaluation.evaluation import Evaluation, rank_and_score, write_evaluation
from components.model.embedder import ENCODING_FILE, Embedder
from components.model.names import fetch_model, resolve_model
from components.model.source import import_model
from components.monitor import Monitor, Silent
from components.search.bm25 import Bm25Index
from components.search.exact import top_k
from components.storage import Folder

DEPTH = 100


def evaluate_model(
    *, split: Folder, model: Folder, output: Folder, monitor: Monitor, tokens_per_batch: int = 8192
) -> dict[str, float]:
    """Evaluate an embedding model on the evaluation side of a split.

    Computed in float32 whatever precision the model was trained or will be served in, so that scores of
    different models differ by the models alone.

    Args:
        split: output of split_documents.
        model: a model directory.
        output: gets per_query.parquet, run.parquet, metrics.json.
        tokens_per_batch: padded tokens encoded at once; execution only.

    Returns:
        Means and 95 % intervals of nDCG@10, Recall@10, Recall@100 and MRR@10, corpus size, queries, seconds.
    """
    collection = read_collection(split)
    with model.local() as directory:
        embedder = Embedder.load(directory)
    evaluation = evaluate_embedder(collection, embedder, tokens_per_batch, monitor)
    return _keep(evaluation, output, monitor)


def evaluate_bm25(*, split: Folder, output: Folder, monitor: Monitor) -> dict[str, float]:
    """Evaluate BM25 on the evaluation side of a split; output and result as of `evaluate_model`."""
    collection = read_collection(split)
    started = time.perf_counter()
    scores_NK, indices_NK = Bm25Index(collection.passages).search(collection.queries, DEPTH)
    evaluation = rank_and_score(collection, scores_NK, indices_NK, time.perf_counter() - started)
    return _keep(evaluation, output, monitor)


def evaluate_beir(
    model: str,
    folder: str | Path,
    split: str = "test",
    *,
    tokens_per_batch: int = 8192,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Evaluate a model on a folder in BEIR's layout, in float32.

    Args:
        model: any name that `names.resolve_model` knows. How a model without `encoding.json` encodes is
            inferred as `source.import_model` does.
        folder: path or URI.
        split: which qrels/<split>.tsv.

    Raises:
        ValueError: the model cannot be found, or the folder is not in that layout or has no such split.
    """
    collection = read_beir(Folder(str(folder)), split)
    return evaluate_embedder(collection, _load(model), tokens_per_batch, monitor or Silent())


def _load(model: str) -> Embedder:
    uri = resolve_model(model).uri
    path = fetch_model(uri)
    if (path / ENCODING_FILE).is_file():
        return Embedder.load(path)
    with tempfile.TemporaryDirectory() as directory:
        import_model(model=uri, spec={}, output=Folder(directory), monitor=Silent())
        return Embedder.load(directory)


def evaluate_embedder(
    collection: Collection, embedder: Embedder, tokens_per_batch: int, monitor: Monitor
) -> Evaluation:
    """Encode both sides, search exactly, judge."""
    started = time.perf_counter()
    query_ND = embedder.encode(collection.queries, "query", None, tokens_per_batch, monitor)
    document_MD = embedder.encode(collection.passages, "document", None, tokens_per_batch, monitor)
    scores_NK, indices_NK = top_k(query_ND, document_MD, DEPTH)
    return rank_and_score(collection, scores_NK, indices_NK, time.perf_counter() - started)


def _keep(evaluation: Evaluation, output: Folder, monitor: Monitor) -> dict[str, float]:
    write_evaluation(evaluation, output)
    monitor.params({"evaluation_digest": evaluation.digest})
    return evaluation.numbers()
