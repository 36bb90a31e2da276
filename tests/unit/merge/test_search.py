"""The search for the weights of a merge, against a general optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize

from components.merge.search import search_shares

PEAK = np.array([0.55, 0.35, 0.1])


def hill(shares: tuple[float, ...]) -> float:
    return -float(((np.array(shares) - PEAK) ** 2).sum())


def test_a_smooth_hill_is_climbed() -> None:
    found = search_shares(hill, 3, trials=80)
    softmax = minimize(lambda x: -hill(tuple(np.exp(x) / np.exp(x).sum())), np.zeros(3)).x
    np.testing.assert_allclose(found[0].shares, np.exp(softmax) / np.exp(softmax).sum(), atol=0.05)
    assert [trial.score for trial in found] == sorted((trial.score for trial in found), reverse=True)


def test_the_order_of_the_models_does_not_matter() -> None:
    order = [2, 0, 1]
    found = search_shares(hill, 3, trials=60)[0]
    permuted = search_shares(lambda shares: hill(tuple(np.array(shares)[np.argsort(order)])), 3, trials=60)[0]
    np.testing.assert_allclose(np.array(permuted.shares), np.array(found.shares)[order], atol=1e-12)


def test_equal_shares_are_tried_first_and_trials_are_counted() -> None:
    calls: list[tuple[float, ...]] = []

    def score(shares: tuple[float, ...]) -> float:
        calls.append(shares)
        return 0.0

    found = search_shares(score, 4, trials=7)
    assert len(calls) == len(found) == 7
    assert calls[0] == found[0].shares == (0.25, 0.25, 0.25, 0.25)
    assert all(sum(shares) == pytest.approx(1) for shares in calls)
    with pytest.raises(ValueError, match="trials must be at least 1"):
        search_shares(score, 4, trials=0)
