"""Is a difference more than chance, and how large is it? Bootstrap and randomisation over queries, paired by query."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

RESAMPLES = 10_000
LEAST_RESAMPLES = 1000
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
    difference, means_R = _bootstrap(_differences(candidate_Q, baseline_Q), resamples, seed)
    # 1e-12: a resample that equals the sample up to the order of summation is as far from 0 as the sample.
    extreme = np.abs(means_R - difference.mean) >= abs(difference.mean) - 1e-12
    return Comparison(difference, float((1 + extreme.sum()) / (1 + resamples)))


def randomisation_test(
    candidate_Q: np.ndarray, baseline_Q: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """p of the mean difference of two systems, two-sided, by exchanging them at random in each query.

    Fisher's test as it is used in information retrieval (Smucker, Allan and Carterette 2007): if neither system is
    better, each difference might as well have the other sign. Every assignment of signs counts where there are few
    queries; the observed one counts as one draw otherwise, so p is never 0.

    Args:
        candidate_Q, baseline_Q: one value a query, in the same order of queries.

    Raises:
        ValueError: the two have not the same length, or hold fewer than two queries.
    """
    difference_Q = _differences(candidate_Q, baseline_Q)
    result = scipy.stats.permutation_test(
        (difference_Q,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _DRAWS_AT_ONCE // len(difference_Q)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def effect_size(candidate_Q: np.ndarray, baseline_Q: np.ndarray) -> float:
    """Cohen's d of paired values: the mean difference over the standard deviation of the differences.

    It does not grow with the number of queries, as a p value shrinks: 0.2 is called small, 0.8 large (Cohen 1988).
    Infinite where every query differs by the same amount.

    Raises:
        ValueError: as of `randomisation_test`.
    """
    difference_Q = _differences(candidate_Q, baseline_Q)
    mean, deviation = float(difference_Q.mean()), float(difference_Q.std(ddof=1))
    if deviation > 1e-12:
        return mean / deviation
    return float(np.copysign(np.inf, mean)) if abs(mean) > 1e-12 else 0.0


def bootstrap_statistic(
    statistic: Callable[..., float], columns: Sequence[np.ndarray], *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """A number that is no mean over rows (a correlation, for example), with its 95 % percentile interval.

    Args:
        statistic: of columns of one length.
        columns: they are resampled together, row by row.

    Raises:
        ValueError: fewer than two rows.
    """
    rows = len(columns[0])
    if rows < 2:
        raise ValueError(f"an interval over rows needs at least 2 of them, not {rows}")
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        drawn = rng.integers(rows, size=rows)
        draws.append(statistic(*(column[drawn] for column in columns)))
    # A resample may have no such number, all its labels being one.
    low, high = np.nanpercentile(np.array(draws), [2.5, 97.5])
    return Interval(float(statistic(*columns)), float(low), float(high))


@dataclass(frozen=True)
class Draws:
    """A figure of S systems on the same rows, and on R resamples of these rows.

    Attributes:
        seen_S: on the rows as they are.
        drawn_RS: on each resample. All systems see the same ones, so their differences are paired.
    """

    seen_S: np.ndarray
    drawn_RS: np.ndarray

    def compare(self, candidate: int, baseline: int) -> Comparison:
        """The difference of two of them, tested as by `paired_bootstrap`."""
        difference = float(self.seen_S[candidate] - self.seen_S[baseline])
        # A resample may have no such number, all its labels being one.
        drawn_R = self.drawn_RS[:, candidate] - self.drawn_RS[:, baseline]
        drawn_R = drawn_R[~np.isnan(drawn_R)]
        low, high = np.percentile(drawn_R, [2.5, 97.5])
        extreme = np.abs(drawn_R - difference) >= abs(difference) - 1e-12
        return Comparison(
            Interval(difference, float(low), float(high)), float((1 + extreme.sum()) / (1 + len(drawn_R)))
        )

    def interval(self, system: int) -> Interval:
        """The figure of one of them with its 95 % percentile interval."""
        low, high = np.nanpercentile(self.drawn_RS[:, system], [2.5, 97.5])
        return Interval(float(self.seen_S[system]), float(low), float(high))


def bootstrap_systems(
    figures: Callable[[np.ndarray], Sequence[float]], rows: int, *, resamples: int, seed: int = 0
) -> Draws:
    """Resample rows for several systems at once.

    Args:
        figures: of numbers of rows (some twice, some not at all) -> the figure of each system on these.
        rows: how many there are.

    Raises:
        ValueError: fewer than two rows.
    """
    if rows < 2:
        raise ValueError(f"a test over rows needs at least 2 of them, not {rows}")
    rng = np.random.default_rng(seed)
    drawn = [figures(rng.integers(rows, size=rows)) for _ in range(resamples)]
    return Draws(np.asarray(figures(np.arange(rows)), dtype=np.float64), np.asarray(drawn, dtype=np.float64))


def resamples_for(comparisons: int) -> int:
    """Resamples that leave room for a correction: the smallest p there can be, times `comparisons`, is 0.025."""
    return max(LEAST_RESAMPLES, 40 * comparisons)


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for being several: Holm's step-down (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return corrected.tolist()


def _differences(candidate_Q: np.ndarray, baseline_Q: np.ndarray) -> np.ndarray:
    if len(candidate_Q) != len(baseline_Q):
        sizes = f"{len(candidate_Q)} queries against {len(baseline_Q)}"
        raise ValueError(f"{sizes}: a paired test needs the same ones")
    if len(candidate_Q) < 2:
        raise ValueError(f"a test over queries needs at least 2 of them, not {len(candidate_Q)}")
    return np.asarray(candidate_Q, dtype=np.float64) - np.asarray(baseline_Q, dtype=np.float64)


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
