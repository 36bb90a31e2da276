"""Where keys stand in an array that is not in their order."""

import numpy as np


class Lookup:
    """Where keys stand in an array that is not in their order; 16 bytes a key.

    Args:
        key_K: int64; a key may stand in several places.
    """

    def __init__(self, key_K: np.ndarray) -> None:
        self._order_K = np.argsort(key_K, kind="stable")
        self._sorted_K = key_K[self._order_K]

    def find(self, wanted_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every place at which a wanted key stands: number of the wanted, and place, int64 [found] each; by the
        first and then by the second."""
        first_W, count_W = np.searchsorted(self._sorted_K, wanted_W, side="left"), self.count(wanted_W)
        which = np.repeat(np.arange(len(wanted_W)), count_W)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count_W) - count_W, count_W)
        return which, self._order_K[first_W[which] + within]

    def count(self, wanted_W: np.ndarray) -> np.ndarray:
        """At how many places each wanted key stands, int64 [W]."""
        first_W = np.searchsorted(self._sorted_K, wanted_W, side="left")
        return np.searchsorted(self._sorted_K, wanted_W, side="right") - first_W

    def repeated(self) -> tuple[int, int] | None:
        """Two places of one key, if there are such."""
        again = np.flatnonzero(self._sorted_K[1:] == self._sorted_K[:-1])
        return (int(self._order_K[again[0]]), int(self._order_K[again[0] + 1])) if len(again) else None
