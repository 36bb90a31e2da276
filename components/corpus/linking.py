"""Which rows belong together: rows that agree in a key, and pairs of rows whose signatures agree.

All that is held of a row are a few numbers; signatures stay where they are, on disk, and are read for the pairs
that are compared.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

COMPARED_AT_ONCE = 65536
"""Pairs of signatures in memory."""
NEIGHBOURS = 8
"""So many neighbours in a run of equal keys are compared in all runs at once, before the long runs are taken one
by one."""


class Components:
    """Connected components of rows 0 to N - 1, as links are added. Each is named by its first row.

    Holds an int64 a row.
    """

    def __init__(self, rows: int) -> None:
        self._parent_N = np.arange(rows, dtype=np.int64)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The component of each row."""
        found = self._parent_N[rows]
        while True:
            above = self._parent_N[found]
            if np.array_equal(above, found):
                return found
            found = above

    def of_all(self) -> np.ndarray:
        """The component of every row, int64 [N]; shortens the way to it, too."""
        self._parent_N = self.of(slice(None))  # type: ignore[arg-type]
        return self._parent_N

    def link(self, first: np.ndarray, second: np.ndarray) -> int:
        """Join the components of rows, pair by pair. Returns by how many there are fewer now."""
        first, second = self.of(first), self.of(second)
        roots, number = np.unique(np.concatenate([first, second]), return_inverse=True)
        edges = number[: len(first)], number[len(first) :]
        graph = coo_array((np.ones(len(first), dtype=np.int8), edges), shape=(len(roots), len(roots)))
        count, label = connected_components(graph, directed=False)
        # roots ascend, so a label's first one is the smallest
        _, smallest = np.unique(label, return_index=True)
        self._parent_N[roots] = roots[smallest][label]
        return len(roots) - count

    def link_equal(self, key_N: np.ndarray) -> int:
        """Join all rows that have one key."""
        order = np.argsort(key_N, kind="stable")
        equal = np.flatnonzero(key_N[order[1:]] == key_N[order[:-1]])
        return self.link(order[equal], order[equal + 1])


def link_alike(
    components: Components, rows: np.ndarray, key_N: np.ndarray, signature_NP: np.ndarray, threshold: float
) -> int:
    """Join rows that have one key and whose signatures agree in at least the share `threshold`.

    The components are those that a comparison of all pairs with one key gives; pairs that stand in one already are
    left out. A run of k rows with one key takes at most about k times (k - its largest component)
    comparisons.

    Args:
        rows: int64 [M] those that take part.
        key_N: uint64 of every row.
        signature_NP: uint32, may be a memory map.

    Returns:
        by how many there are fewer components.
    """
    order = rows[np.argsort(key_N[rows], kind="stable")]
    sorted_keys = key_N[order]
    merged = 0
    at = np.arange(len(order), dtype=np.int64)
    for step in range(1, NEIGHBOURS + 1):
        at = at[at + step < len(order)]
        at = at[sorted_keys[at] == sorted_keys[at + step]]
        merged += _compare(components, order[at], order[at + step], signature_NP, threshold)
    # What is left in `at` begins at least one pair that is farther apart than NEIGHBOURS.
    starts = np.flatnonzero(np.diff(sorted_keys[at], prepend=~sorted_keys[at[:1]]))
    for start in at[starts]:
        end = np.searchsorted(sorted_keys, sorted_keys[start], side="right")
        merged += _link_run(components, order[start:end], signature_NP, threshold)
    return merged


def _link_run(components: Components, run: np.ndarray, signature_NP: np.ndarray, threshold: float) -> int:
    """One row after the other is compared with all that stand in other components, of the smallest one first:
    where most of a run is one component already, only the others are compared with it."""
    merged = 0
    while True:
        component = components.of(run)
        names, sizes = np.unique(component, return_counts=True)
        if len(names) == 1:
            return merged
        pivot = np.argmax(component == names[np.argmin(sizes)])
        others = run[component != component[pivot]]
        merged += _compare(components, np.full_like(others, run[pivot]), others, signature_NP, threshold)
        run = np.delete(run, pivot)


def _compare(
    components: Components, first: np.ndarray, second: np.ndarray, signature_NP: np.ndarray, threshold: float
) -> int:
    """Link the pairs whose signatures agree in enough places."""
    merged = 0
    apart = components.of(first) != components.of(second)
    first, second = first[apart], second[apart]
    for start in range(0, len(first), COMPARED_AT_ONCE):
        a, b = first[start : start + COMPARED_AT_ONCE], second[start : start + COMPARED_AT_ONCE]
        equal = np.count_nonzero(signature_NP[a] == signature_NP[b], axis=1)
        alike = equal / signature_NP.shape[1] >= threshold
        if alike.any():
            merged += components.link(a[alike], b[alike])
    return merged
