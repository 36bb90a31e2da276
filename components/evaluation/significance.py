"""Is a difference more than chance? Bootstrap over queries, paired by query."""

from dataclasses import dataclass

import numpy as np
import scipy.stats

RESAMPLES = 10_000
_DRAWS_AT_ONCE = 4_000_000  # 32 MB of indices, however many queries there are


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its 95 % bootstrap interval (percentile)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same queries.

    Attributes:
        difference: mean of candidate - baseline per query, the effect size, with its interval.
        p_value: two-sided, of the hypothesis that the mean difference is 0.
    """

    difference: Interval
    p_value: float


def bootstrap_interval(values_Q: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean over queries and its 95 % percentile interval.

    Raises:
        ValueError: fewer than two queries.
    """
    return _bootstrap(values_Q, resamples, seed)[0]


def paired_bootstrap(
    candidate_Q: np.ndarray, baseline_Q: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Test the mean difference of two systems, query by query.

    The differences are resampled; the distribution of their mean, moved to 0, is what chance gives, and p is
    the share of it at least as far from 0 as the difference seen (Efron and Tibshirani 1993, section 16.4;
    the observed sample counts as one draw, so p is never 0).

    Args:
        candidate_Q, baseline_Q: one value a query, in the same order of queries.

    Raises:
        ValueError: the two have not the same length, or hold fewer than two queries.
    """
    if len(candidate_Q) != len(baseline_Q):
        sizes = f"{len(candidate_Q)} queries against {len(baseline_Q)}"
        raise ValueError(f"{sizes}: a paired test needs the same ones")
    difference, means_R = _bootstrap(np.asarray(candidate_Q) - np.asarray(baseline_Q), resamples, seed)
    # 1e-12: a resample that equals the sample up to the order of summation is as far from 0 as the sample.
    extreme = np.abs(means_R - difference.mean) >= abs(difference.mean) - 1e-12
    return Comparison(difference, float((1 + extreme.sum()) / (1 + resamples)))


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for being several: Holm's step-down (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return corrected.tolist()


def _bootstrap(values_Q: np.ndarray, resamples: int, seed: int) -> tuple[Interval, np.ndarray]:
    values_Q = np.asarray(values_Q, dtype=np.float64)
    if len(values_Q) < 2:
        raise ValueError(f"an interval over queries needs at least 2 of them, not {len(values_Q)}")
    result = scipy.stats.bootstrap(
        (values_Q,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _DRAWS_AT_ONCE // len(values_Q)),
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(values_Q.mean()), float(low), float(high)), result.bootstrap_distribution
