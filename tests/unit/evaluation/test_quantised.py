"""The loss of a form: against the evaluator itself, and against Hamming distances counted one by one."""

from dataclasses import replace

import numpy as np
import pytest

from components.evaluation.collection import Collection
from components.evaluation.evaluation import rank_and_score
from components.evaluation.quantised import judge_form
from components.evaluation.retrieval import evaluate_embedder
from components.monitor import Silent
from components.search.coded import Form

DIMENSIONS = 64


class Random:
    """A query's vector is that of its document, disturbed."""

    def encode(self, texts, side, instruction=None, tokens_per_batch=0, monitor=None) -> np.ndarray:
        numbers = [int(text.split()[1]) for text in texts]
        vectors = [np.random.default_rng(number).standard_normal(DIMENSIONS) for number in numbers]
        noise = np.random.default_rng(99).standard_normal((len(texts), DIMENSIONS))
        vector_ND = np.array(vectors) + (1.5 * noise if side == "query" else 0)
        return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def many(collection) -> Collection:
    """More documents than are taken to be rescored."""
    numbers = range(600)
    ids, passages = [f"d{n:03d}" for n in numbers], [f"passage {n}" for n in numbers]
    return replace(collection, document_ids=ids, passages=passages)


def judge(collection, form):
    return {each.name: each for each in judge_form(collection, Random(), form, 1, Silent())}


def test_float32_is_what_the_evaluator_says(many):
    found = judge(many, Form(16))
    whole = evaluate_embedder(many, Random(), 1, Silent())
    first, cut = found["float32, 64 dimensions"], found["float32, 16 dimensions"]
    assert first.metrics["ndcg@10"] == whole.metrics["ndcg@10"]
    assert (first.bytes_per_document, cut.bytes_per_document) == (256, 64)
    expected = cut.metrics["ndcg@10"].mean - first.metrics["ndcg@10"].mean
    assert cut.difference["ndcg@10"].mean == pytest.approx(expected)
    assert expected < 0


def test_binary_ranks_by_hamming_distance_and_loses_most(many):
    found = judge(many, Form(precision="binary"))
    query_ND, document_MD = (
        Random().encode(t, s) for t, s in ((many.queries, "query"), (many.passages, "document"))
    )
    hamming_NM = ((query_ND > 0)[:, None] != (document_MD > 0)[None]).sum(axis=2)
    rows_NK = np.argsort(hamming_NM, axis=1, kind="stable")[:, :100]
    scores_NK = -np.take_along_axis(hamming_NM, rows_NK, 1).astype(np.float32)
    expected = rank_and_score(many, scores_NK, rows_NK, 0.0)
    for metric in ("ndcg@10", "recall@100"):
        assert found["binary, 64 dimensions"].metrics[metric] == expected.metrics[metric]
    losses = [each.difference["ndcg@10"].mean for each in list(found.values())[1:]]
    assert losses == sorted(losses)  # bits alone, the query against them, int8
    assert losses[-1] > -0.05


def test_where_all_documents_are_rescored_nothing_is_lost_on_the_way(collection):
    """200 documents, and 400 are taken: the search by int8 itself."""
    rescored = judge(collection, Form(precision="binary"))["binary, rescored by int8"]
    assert rescored.metrics == judge(collection, Form(precision="int8"))["int8, 64 dimensions"].metrics
