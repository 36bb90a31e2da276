"""The metrics against closed forms, scikit-learn, and a reading of their definitions."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import ndcg_score

from components.evaluation.metrics import METRICS, ranking, score_queries

DOCUMENTS = [f"d{number:03d}" for number in range(150)]


def one(run, qrels):
    return score_queries({"q": run}, {"q": qrels}).to_pylist()[0]


def test_one_relevant_document_at_rank_three():
    found = one({"a": 3.0, "b": 2.0, "c": 1.0}, {"c": 1})
    assert found["ndcg@10"] == pytest.approx(1 / math.log2(4))
    assert found["mrr@10"] == pytest.approx(1 / 3)
    assert found["recall@10"] == found["recall@100"] == 1


def test_reciprocal_rank_ends_at_ten():
    run = {document: -float(rank) for rank, document in enumerate(DOCUMENTS)}
    assert one(run, {DOCUMENTS[9]: 1})["mrr@10"] == pytest.approx(0.1)
    found = one(run, {DOCUMENTS[10]: 1})
    assert (found["mrr@10"], found["recall@10"], found["recall@100"]) == (0, 0, 1)


def test_equal_scores_rank_by_document_id_descending_at_every_cut():
    # trec_eval's rule: of eleven equal scores d10 is first and d00 eleventh.
    run = {f"d{number:02d}": 1.0 for number in range(11)}
    assert one(run, {"d10": 1})["mrr@10"] == 1
    assert one(run, {"d00": 1})["mrr@10"] == one(run, {"d00": 1})["recall@10"] == 0
    assert one(run, {"d01": 1})["mrr@10"] == pytest.approx(0.1)


def test_scores_that_differ_below_float32_are_equal():
    run = {"a": 1.0 + 1e-12, "b": 1.0}
    assert ranking(run) == ["b", "a"]
    assert one(run, {"a": 1})["ndcg@10"] == pytest.approx(1 / math.log2(3))


def test_a_query_without_result_counts_zero_and_one_without_relevant_document_does_not_count():
    qrels = {"empty": {"a": 1}, "absent": {"a": 1}, "unjudged": {"a": 0}, "found": {"a": 1}}
    table = score_queries({"empty": {}, "found": {"a": 1.0}, "unjudged": {"a": 1.0}}, qrels)
    assert table["query_id"].to_pylist() == ["absent", "empty", "found"]
    for metric in METRICS:
        assert table[metric].to_pylist() == [0, 0, 1]


@st.composite
def judged_runs(draw):
    levels = draw(st.lists(st.integers(0, 3), min_size=20, max_size=140).filter(any))
    order = draw(st.permutations(range(len(levels))))
    return levels, order


@given(judged_runs())
def test_graded_ndcg_equals_scikit_learn(case):
    levels, order = case
    scores = {DOCUMENTS[i]: float(order[i]) for i in range(len(levels))}
    found = one(scores, {DOCUMENTS[i]: level for i, level in enumerate(levels)})
    assert found["ndcg@10"] == pytest.approx(ndcg_score([levels], [order], k=10), abs=1e-12)


@given(judged_runs())
def test_recall_and_reciprocal_rank_equal_their_definition(case):
    levels, order = case
    scores = {DOCUMENTS[i]: float(order[i]) for i in range(len(levels))}
    found = one(scores, {DOCUMENTS[i]: level for i, level in enumerate(levels)})
    relevant = np.asarray(levels)[np.argsort(order)[::-1]] > 0
    assert found["recall@10"] == pytest.approx(relevant[:10].sum() / relevant.sum())
    assert found["recall@100"] == pytest.approx(relevant[:100].sum() / relevant.sum())
    first = np.flatnonzero(relevant[:10])
    assert found["mrr@10"] == pytest.approx(1 / (first[0] + 1) if len(first) else 0)
