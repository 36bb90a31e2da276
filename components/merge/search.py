"""Weights of a merge, searched: a pattern search over shares, by any score."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST_STEP = 1 / 16


@dataclass(frozen=True)
class Trial:
    """Shares that were tried, and how the merge by them scored."""

    shares: tuple[float, ...]
    score: float


def search_shares(score: Callable[[tuple[float, ...]], float], count: int, trials: int) -> list[Trial]:
    """Try shares of `count` models, from equal ones on; the best comes first.

    From the best so far a step is made towards each model and away from each; the best of those is taken if it
    scores higher, or else the step is halved, from 1/2 to 1/16. No model is treated apart from the others, so a
    search over the same models in another order finds the same merge (where no two candidates score alike).

    Args:
        score: higher is better; called once for each set of shares.
        trials: at most so many calls.

    Raises:
        ValueError: fewer than one trial.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1; it is {trials}")
    tried: dict[tuple[float, ...], float] = {}

    def attempt(shares_N: np.ndarray) -> None:
        shares = tuple(np.round(shares_N / shares_N.sum(), 12).tolist())
        if shares not in tried and len(tried) < trials:
            tried[shares] = score(shares)

    attempt(np.full(count, 1 / count))
    step = 0.5
    while step >= SMALLEST_STEP and len(tried) < trials:
        best = max(tried, key=tried.__getitem__)
        best_N, each_NN = np.array(best), np.eye(count)
        for own_N in each_NN:
            attempt((1 - step) * best_N + step * own_N)
            if (best_N * (1 - own_N)).sum() > 0:
                attempt(best_N * (1 - step * own_N))
        if max(tried, key=tried.__getitem__) == best:
            step /= 2
    ranked = sorted(tried.items(), key=lambda found: -found[1])
    return [Trial(shares, value) for shares, value in ranked]
