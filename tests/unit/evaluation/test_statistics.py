"""The figures against the libraries' own, on random rows, and against definitions by hand."""

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, v_measure_score

from components.evaluation import statistics


@st.composite
def labelled_cosines(draw):
    """Cosines with ties, labels of both kinds."""
    size = draw(st.integers(4, 60))
    cosine = np.array(draw(st.lists(st.integers(-5, 5), min_size=size, max_size=size))) / 5
    label = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    label[:2] = [0, 1]
    return cosine, label


@given(labelled_cosines())
def test_pairs_are_divided_as_by_trying_every_threshold(case):
    cosine, label = case
    thresholds = [*np.unique(cosine), np.inf]
    called = [(cosine >= threshold).astype(int) for threshold in thresholds]
    assert statistics.best_accuracy(cosine, label) == pytest.approx(
        max(accuracy_score(label, c) for c in called)
    )
    assert statistics.best_f1(cosine, label) == pytest.approx(
        max(f1_score(label, c, zero_division=0) for c in called)
    )
    assert statistics.average_precision(cosine, label) == pytest.approx(
        average_precision_score(label, cosine)
    )


@given(labelled_cosines())
def test_rank_correlation_is_pearson_of_average_ranks(case):
    cosine, _ = case
    score = np.arange(len(cosine)) % 7
    if np.ptp(cosine) == 0:
        assert np.isnan(statistics.spearman(cosine, score))
    else:
        ranks = [scipy.stats.rankdata(values) for values in (cosine, score)]
        assert statistics.spearman(cosine, score) == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert statistics.pearson(cosine, score) == pytest.approx(np.corrcoef(cosine, score)[0, 1])


def test_average_precision_by_hand():
    # found at ranks 1 and 3 of two
    assert statistics.average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1])) == pytest.approx(
        (1 + 2 / 3) / 2
    )


def test_experiments_are_averaged():
    label = np.array([0, 0, 1, 1])
    given_by = np.array([[0, 1], [0, 0], [1, 1], [0, 0]])
    assert statistics.accuracy(given_by, label) == pytest.approx((0.75 + 0.5) / 2)
    measures = [v_measure_score(label, column) for column in given_by.T]
    assert statistics.v_measure(given_by, label) == pytest.approx(np.mean(measures))


@given(st.lists(st.tuples(*[st.integers(-1, 5)] * 3), min_size=1, max_size=30))
def test_f1_is_that_of_scikit_learn(rows):
    given_by, label = np.array(rows)[:, :2], np.array(rows)[:, 2]
    own = [f1_score(label, column, average="macro", zero_division=0) for column in given_by.T]
    assert statistics.macro_f1(given_by, label) == pytest.approx(np.mean(own))
    weighted = f1_score(label, given_by[:, 0], average="weighted", zero_division=0)
    assert statistics.weighted_f1(given_by[:, 0], label) == pytest.approx(weighted)


def test_bitext_figures_by_hand():
    row, found = np.arange(4), np.array([0, 0, 2, 1])
    assert statistics.found_share(found, row) == 0.5
    # class 0: precision 1/2, recall 1; class 2: both 1; classes 1 and 3: none
    assert statistics.weighted_f1(found, row) == pytest.approx((2 / 3 + 1) / 4)


def test_a_set_without_what_is_looked_for_has_no_figure():
    assert np.isnan(statistics.average_precision(np.ones(3), np.zeros(3)))
    assert np.isnan(statistics.best_f1(np.ones(3), np.zeros(3)))
    assert np.isnan(statistics.spearman(np.ones(3), np.arange(3)))
