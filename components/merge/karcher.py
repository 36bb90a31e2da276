"""Means on the sphere: the weighted Karcher mean of N directions, and slerp between two, from cosines alone.

The Karcher mean minimises sum_n w_n angle(x, v_n)^2 (Karcher 1977). It is found by gradient steps of length one,
which for two directions land on their slerp (Shoemake 1985) at once. It lies in the span of the inputs, so the
iteration works on coefficients over them and costs N x N, whatever the size of the tensors. R means (of the rows of
a matrix, for example) are found side by side.
"""

import numpy as np

ITERATIONS = 1000
CONVERGED = 1e-14
OPPOSITE = 1e-6


def karcher_coefficients(cosine_RNN: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients c with mean = sum_n c_n v_n, a unit vector, for unit vectors v_n of the given cosines.

    Args:
        cosine_RNN: float64 Gram matrices of unit vectors.
        weights_RN: float64, not negative, each row summing up to 1.

    Returns:
        coefficients float64 [R, N], and bool [R]: whether the mean is unique. It is not where the directions
        cancel, or two of them with a weight are opposite; the coefficients are NaN there.
    """
    start_norm_R = np.sqrt(np.maximum(np.einsum("rn,rnm,rm->r", weights_RN, cosine_RNN, weights_RN), 0.0))
    counted_RNN = (weights_RN[:, :, None] > 0) & (weights_RN[:, None, :] > 0)
    nearest_opposite_R = np.where(counted_RNN, cosine_RNN, 1.0).min(axis=(1, 2))
    unique_R = (start_norm_R >= OPPOSITE) & (nearest_opposite_R >= OPPOSITE - 1)
    coefficients_RN = np.full_like(weights_RN, np.nan)
    coefficients_RN[unique_R] = weights_RN[unique_R] / start_norm_R[unique_R, None]
    moving = np.flatnonzero(unique_R)
    for _ in range(ITERATIONS):
        if not len(moving):
            break
        coefficients_MN, tangent_MN = _step(cosine_RNN[moving], weights_RN[moving], coefficients_RN[moving])
        coefficients_RN[moving] = coefficients_MN
        moving = moving[np.abs(tangent_MN).max(axis=1) >= CONVERGED]
    return coefficients_RN, unique_R


def _step(
    cosine_MNN: np.ndarray, weights_MN: np.ndarray, coefficients_MN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One gradient step along a great circle: the coefficients after it, and those of the tangent before it."""
    cosine_MN = np.clip(_times(cosine_MNN, coefficients_MN), -1.0, 1.0)
    angle_MN = np.arccos(cosine_MN)
    # angle / sin(angle), 1 at 0
    stretch_MN = weights_MN / np.sinc(angle_MN / np.pi)
    along_M1 = (stretch_MN * cosine_MN).sum(axis=1, keepdims=True)
    tangent_MN = stretch_MN - along_M1 * coefficients_MN
    length_M1 = np.sqrt(
        np.maximum((tangent_MN * _times(cosine_MNN, tangent_MN)).sum(axis=1, keepdims=True), 0.0)
    )
    moved_MN = np.cos(length_M1) * coefficients_MN + np.sinc(length_M1 / np.pi) * tangent_MN
    norm_M1 = np.sqrt((moved_MN * _times(cosine_MNN, moved_MN)).sum(axis=1, keepdims=True))
    return moved_MN / norm_M1, tangent_MN


def slerp_coefficients(cosine_R: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Shoemake's coefficients sin((1 - t) a) / sin(a), sin(t a) / sin(a) of two vectors at an angle a.

    Args:
        cosine_R: float64, of the angles.
        t: 0 gives the first vector, 1 the second.

    Returns:
        coefficients float64 [R, 2], and bool [R]: False where the vectors are opposite, which have no one arc.
    """
    angle_R = np.arccos(np.clip(cosine_R, -1.0, 1.0))
    unique_R = cosine_R >= OPPOSITE - 1
    shares_2 = np.array([1 - t, t])
    # sin(x a) / sin(a) = x sinc(x a) / sinc(a), which is x at a = 0
    inside_R = np.where(unique_R, angle_R, 0.0)
    coefficients_R2 = shares_2 * np.sinc(shares_2 * inside_R[:, None] / np.pi)
    coefficients_R2 /= np.sinc(inside_R / np.pi)[:, None]
    coefficients_R2[~unique_R] = np.nan
    return coefficients_R2, unique_R


def _times(matrix_MNN: np.ndarray, vector_MN: np.ndarray) -> np.ndarray:
    return np.matmul(matrix_MNN, vector_MN[:, :, None])[:, :, 0]
