"""How much each model counts in a merge: the same for all tensors, or otherwise for some of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np


@dataclass(frozen=True)
class Shares:
    """Weights of the models, each set summing up to 1.

    Attributes:
        everywhere: of tensors that no pattern names.
        layers: by a pattern of tensor names (`*` and `?`, as of file names); the first that fits counts.
    """

    everywhere: tuple[float, ...]
    layers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def of(self, name: str) -> np.ndarray:
        """Float64 [N] of a tensor."""
        fitting = (shares for pattern, shares in self.layers.items() if fnmatchcase(name, pattern))
        return np.array(next(fitting, self.everywhere), dtype=np.float64)

    def check_patterns(self, names: Sequence[str]) -> None:
        """Raises ValueError where a pattern fits none of the tensors."""
        for pattern in self.layers:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"no tensor is called {pattern!r}, which has weights of its own; one is called {names[0]!r}"
                )


def make_shares(
    weights: Sequence[float] | None, count: int, layers: Mapping[str, Sequence[float]] | None = None
) -> Shares:
    """Shares of `count` models from weights of any sum.

    Args:
        weights: at least 0, not all 0; None: all the same.

    Raises:
        ValueError: weights that are none, or not as many as there are models.
    """
    everywhere = _shares("weights", [1.0] * count if weights is None else weights, count)
    return Shares(everywhere, {name: _shares(name, own, count) for name, own in (layers or {}).items()})


def _shares(what: str, weights: Sequence[float], count: int) -> tuple[float, ...]:
    shares = np.array(weights, dtype=np.float64)
    if len(shares) != count or not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() <= 0:
        name = what if what == "weights" else f"weights of {what!r}"
        raise ValueError(
            f"{name} are {list(weights)}; they must be {count} numbers of at least 0, one a model, not all 0"
        )
    return tuple((shares / shares.sum()).tolist())
