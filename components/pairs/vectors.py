"""Vectors of pairs, held against one another."""

import numpy as np


def cosines(left_ND: np.ndarray, right_ND: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors, row by row, float32 [N]."""
    return np.einsum("nd,nd->n", left_ND, right_ND)
