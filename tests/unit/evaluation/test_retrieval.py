"""Evaluating models end to end, against sentence-transformers' own evaluator."""

import json

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from components.evaluation.collection import read_collection
from components.evaluation.evaluation import read_evaluation
from components.evaluation.metrics import METRICS
from components.evaluation.retrieval import evaluate_bm25, evaluate_model, evaluate_on_beir, evaluate_sharded
from components.monitor import Silent
from components.search.workers import Workers
from components.storage import Folder
from tests.tiny_model import write_tiny_model


def test_a_model_scores_as_in_sentence_transformers(split, tmp_path):
    directory = write_tiny_model(tmp_path / "model")
    output = Folder(str(tmp_path / "output"))
    numbers = evaluate_model(split=split, model=Folder(str(directory)), output=output, monitor=Silent())

    documents, queries, qrels = (
        split.read_table(f"evaluation/{name}.parquet").to_pylist()
        for name in ("documents", "queries", "qrels")
    )
    relevant: dict[str, set[str]] = {}
    for row in qrels:
        relevant.setdefault(row["query_id"], set()).add(row["document_id"])
    peer = InformationRetrievalEvaluator(
        {row["query_id"]: row["text"] for row in queries},
        {row["document_id"]: f"{row['title']} {row['text']}" for row in documents},
        relevant,
        ndcg_at_k=[10],
        mrr_at_k=[10],
        precision_recall_at_k=[10, 100],
        show_progress_bar=False,
        write_csv=False,
    )(SentenceTransformer(str(directory), device="cpu"))
    for metric in METRICS:
        assert numbers[metric] == pytest.approx(peer[f"cosine_{metric}"], abs=1e-6)
    assert 0.05 < numbers["ndcg@10"] < 0.95
    assert read_evaluation(output).numbers() == numbers


def test_bm25_and_model_are_judged_on_one_collection(split, tmp_path):
    model = Folder(str(write_tiny_model(tmp_path / "model")))
    bm25, dense = Folder(str(tmp_path / "bm25")), Folder(str(tmp_path / "dense"))
    evaluate_bm25(split=split, output=bm25, monitor=Silent())
    evaluate_model(split=split, model=model, output=dense, monitor=Silent(), tokens_per_batch=64)
    found = [read_evaluation(folder) for folder in (bm25, dense)]
    assert found[0].digest == found[1].digest
    assert [(each.queries, each.corpus_size) for each in found] == [(40, 150)] * 2
    # words are unique enough that exact matching finds nearly everything
    assert found[0].metrics["recall@10"].mean > 0.9
    assert json.loads(bm25.read("metrics.json"))["queries"] == 40


def test_a_cache_and_files_in_shards_change_nothing(split, tmp_path):
    model = Folder(str(write_tiny_model(tmp_path / "model")))
    step = {"split": split, "model": model, "monitor": Silent()}
    plain = evaluate_model(**step, output=Folder(str(tmp_path / "plain")))
    for run in ("first", "again"):
        cached = evaluate_model(
            **step, output=Folder(str(tmp_path / run)), cache=Folder(str(tmp_path / "cache"))
        )
        assert {name: cached[name] for name in METRICS} == pytest.approx(
            {name: plain[name] for name in METRICS}
        )
    state = Folder(str(tmp_path / "state"))
    sharded = evaluate_sharded(
        read_collection(split), model, state, Workers(), 8192, Silent(), rows_per_shard=32
    )
    assert len(state.names("document-vectors/*.npy")) == 5
    assert sharded.numbers() | {"seconds": 0} == pytest.approx(plain | {"seconds": 0})
    run = read_evaluation(Folder(str(tmp_path / "plain"))).run
    assert sharded.run["document_id"].to_pylist() == run["document_id"].to_pylist()


def test_a_folder_that_is_not_beir_is_named_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"corpus\.jsonl, queries\.jsonl, qrels/test\.tsv"):
        evaluate_on_beir(
            data=str(tmp_path), model=Folder(str(tmp_path / "none")), output=Folder(str(tmp_path / "out")),
            monitor=Silent(),
        )  # fmt: skip
