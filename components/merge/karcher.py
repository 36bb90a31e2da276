"""The weighted spherical mean of N directions (Karcher mean), from their Gram matrix alone.

The mean on the sphere minimises sum_n w_n angle(x, v_n)^2 (Karcher 1977). It is found by gradient steps of
length one, which for two directions land on their slerp (Shoemake 1985) at once. It lies in the span of the
inputs, so the iteration works on coefficients over them and costs N x N, whatever the size of the tensors.
"""

import numpy as np

ITERATIONS = 1000
CONVERGED = 1e-15
OPPOSITE = 1e-6


def karcher_coefficients(cosine_NN: np.ndarray, weights_N: np.ndarray) -> np.ndarray | None:
    """Coefficients c with mean = sum_n c_n v_n, a unit vector, for unit vectors v_n of the given cosines.

    Args:
        cosine_NN: float64 Gram matrix of the unit vectors.
        weights_N: float64, not negative, summing up to 1.

    Returns:
        float64 [N], or None where the mean is not unique because the directions cancel or two are opposite.
    """
    start_norm = np.sqrt(max(weights_N @ cosine_NN @ weights_N, 0.0))
    if start_norm < OPPOSITE or cosine_NN[weights_N > 0][:, weights_N > 0].min() < OPPOSITE - 1:
        return None
    coefficients_N = weights_N / start_norm
    for _ in range(ITERATIONS):
        cosine_N = np.clip(cosine_NN @ coefficients_N, -1.0, 1.0)
        angle_N = np.arccos(cosine_N)
        # angle / sin(angle), 1 at 0
        stretch_N = weights_N / np.sinc(angle_N / np.pi)
        tangent_N = stretch_N - (stretch_N @ cosine_N) * coefficients_N
        length = np.sqrt(max(tangent_N @ cosine_NN @ tangent_N, 0.0))
        coefficients_N = np.cos(length) * coefficients_N + np.sinc(length / np.pi) * tangent_N
        coefficients_N = coefficients_N / np.sqrt(coefficients_N @ cosine_NN @ coefficients_N)
        if np.abs(tangent_N).max() < CONVERGED:
            break
    return coefficients_N
