"""Intervals and tests against closed forms, SciPy, and simulation."""

import numpy as np
import pytest
import scipy.stats

from components.evaluation.significance import (
    bootstrap_interval,
    bootstrap_statistic,
    effect_size,
    holm,
    paired_bootstrap,
    randomisation_test,
)


def per_query_scores(rng, queries):
    """Two equally good systems: a query's difficulty is shared, the rest their own, clipped as nDCG is."""
    difficulty = rng.beta(2.0, 1.5, queries)
    return (np.clip(difficulty + rng.normal(0, 0.2, queries), 0, 1) for _ in range(2))


def test_interval_is_the_normal_one_for_many_queries():
    values = np.random.default_rng(1).normal(0.6, 0.3, 2000)
    interval = bootstrap_interval(values)
    half = 1.959964 * values.std() / np.sqrt(len(values))
    assert interval.mean == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(2)
    intervals = [bootstrap_interval(rng.beta(2, 1, 100), resamples=1000, seed=i) for i in range(600)]
    covered = np.mean([interval.low <= 2 / 3 <= interval.high for interval in intervals])
    assert 0.92 <= covered <= 0.97


def test_equal_systems_are_called_different_about_5_times_in_100():
    rng = np.random.default_rng(3)
    p_values = [
        paired_bootstrap(*per_query_scores(rng, 100), resamples=1000, seed=i).p_value for i in range(1000)
    ]
    assert 0.03 <= np.mean(np.asarray(p_values) < 0.05) <= 0.07


def test_the_randomisation_test_calls_equal_systems_different_about_5_times_in_100():
    rng = np.random.default_rng(3)
    p_values = [randomisation_test(*per_query_scores(rng, 100), resamples=1000, seed=i) for i in range(1000)]
    assert 0.03 <= np.mean(np.asarray(p_values) < 0.05) <= 0.07


def test_the_randomisation_test_of_few_queries_counts_every_assignment():
    # four differences of one sign: 2 of the 16 assignments are as extreme
    assert randomisation_test(np.array([1.0, 2, 3, 4]), np.zeros(4)) == pytest.approx(2 / 16)
    assert randomisation_test(np.ones(5), np.ones(5)) == 1
    with pytest.raises(ValueError, match="3 queries against 4"):
        randomisation_test(np.zeros(3), np.zeros(4))


def test_effect_size_is_the_t_statistic_over_the_root_of_the_queries():
    a, b = np.random.default_rng(10).uniform(size=(2, 80))
    assert effect_size(a, b) == pytest.approx(scipy.stats.ttest_rel(a, b).statistic / np.sqrt(80))
    assert effect_size(b + 0.5, b) == np.inf
    assert effect_size(a, a) == 0


def test_interval_of_a_correlation_is_fishers():
    rng = np.random.default_rng(11)
    x = rng.normal(size=400)
    y = 0.6 * x + 0.8 * rng.normal(size=400)
    found = bootstrap_statistic(lambda a, b: np.corrcoef(a, b)[0, 1], (x, y))
    low, high = scipy.stats.pearsonr(x, y).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)


@pytest.mark.parametrize("gain", [0.0, 0.01, 0.02, 0.04])
def test_p_agrees_with_the_randomisation_test_and_the_t_test(gain):
    rng = np.random.default_rng(4)
    baseline = rng.beta(2, 1.5, 300)
    candidate = baseline + gain + rng.normal(0, 0.15, 300)
    found = paired_bootstrap(candidate, baseline)
    t_test = scipy.stats.ttest_rel(candidate, baseline).pvalue
    flips = scipy.stats.permutation_test(
        (candidate, baseline), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=10_000, vectorized=True, rng=rng,
    ).pvalue  # fmt: skip
    assert randomisation_test(candidate, baseline) == pytest.approx(flips, abs=0.015)
    assert found.p_value == pytest.approx(t_test, abs=0.015)
    assert found.p_value == pytest.approx(flips, abs=0.02)
    assert found.difference.mean == pytest.approx((candidate - baseline).mean())


def test_pairing_counts():
    # The same shift on every query is certain, however much queries differ; unpaired it would be lost.
    baseline = np.random.default_rng(5).uniform(0, 0.9, 50)
    assert paired_bootstrap(baseline + 0.01, baseline).p_value < 0.001


def test_identical_systems_give_p_one():
    values = np.linspace(0, 1, 30)
    found = paired_bootstrap(values, values)
    assert found.p_value == 1
    assert (found.difference.low, found.difference.high) == (0, 0)


def test_same_seed_same_result():
    rng = np.random.default_rng(6)
    a, b = rng.uniform(size=(2, 40))
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7)


def test_sign_turns_with_the_order():
    a, b = np.random.default_rng(8).uniform(size=(2, 60))
    assert paired_bootstrap(a, b).p_value == paired_bootstrap(b, a).p_value


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 by factors 4, 3, 2, 1, then never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def test_holm_keeps_the_family_wise_error_rate():
    p = np.random.default_rng(9).uniform(size=(20_000, 4))
    any_called = np.mean([min(holm(row.tolist())) < 0.05 for row in p])
    assert any_called == pytest.approx(1 - (1 - 0.05 / 4) ** 4, abs=0.005)


def test_one_query_or_unequal_lengths_are_errors():
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(np.array([0.5]))
    with pytest.raises(ValueError, match="3 queries against 4"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
