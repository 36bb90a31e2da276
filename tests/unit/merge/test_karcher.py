"""The spherical mean against slerp's closed form, a general minimiser, and its symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from components.merge.karcher import karcher_coefficients, slerp_coefficients


def unit_rows(rng: np.random.Generator, count: int, size: int, spread: float) -> np.ndarray:
    vectors = rng.normal(size=size) + spread * rng.normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mean_of(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    coefficients, unique = karcher_coefficients((vectors @ vectors.T)[None], weights[None])
    assert unique.all()
    return coefficients[0] @ vectors


def closed_form(first: np.ndarray, second: np.ndarray, t: float) -> np.ndarray:
    # sin of the half angle from the chord: exact for small angles too
    angle = 2 * np.arcsin(np.linalg.norm(first - second) / 2)
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


@pytest.mark.parametrize("spread", [1e-5, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_two_directions_give_slerp(spread: float, t: float) -> None:
    first, second = unit_rows(np.random.default_rng(0), 2, 50, spread)
    expected = closed_form(first, second, t)
    mean = mean_of(np.stack([first, second]), np.array([1 - t, t]))
    assert np.abs(mean - expected).max() < 1e-12
    coefficients, unique = slerp_coefficients(np.array([first @ second]), t)
    assert unique.all()
    assert np.abs(coefficients[0] @ np.stack([first, second]) - expected).max() < 1e-12


def test_three_directions_minimise_the_squared_angles() -> None:
    vectors = unit_rows(np.random.default_rng(1), 3, 4, 0.8)
    weights = np.array([0.5, 0.2, 0.3])

    def squared_angles(x: np.ndarray) -> float:
        return float(weights @ np.arccos(np.clip(vectors @ (x / np.linalg.norm(x)), -1, 1)) ** 2)

    found = minimize(squared_angles, vectors.mean(axis=0), method="Nelder-Mead",
                     options={"xatol": 1e-10, "fatol": 1e-16, "maxiter": 20000, "maxfev": 20000})  # fmt: skip
    mean = mean_of(vectors, weights)
    assert np.abs(mean - found.x / np.linalg.norm(found.x)).max() < 1e-6
    assert squared_angles(mean) <= found.fun + 1e-12


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 6),
    size=st.integers(3, 40),
    spread=st.floats(0.01, 1.0),
    data=st.data(),
)
def test_order_does_not_matter(seed: int, count: int, size: int, spread: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    vectors, weights = unit_rows(rng, count, size, spread), rng.dirichlet(np.ones(count))
    order = np.array(data.draw(st.permutations(range(count))))
    mean, permuted = mean_of(vectors, weights), mean_of(vectors[order], weights[order])
    assert np.linalg.norm(mean) == pytest.approx(1, abs=1e-12)
    assert np.abs(mean - permuted).max() < 1e-6


def test_equal_directions_stay() -> None:
    vectors = np.repeat(unit_rows(np.random.default_rng(2), 1, 9, 1.0), 3, axis=0)
    assert np.abs(mean_of(vectors, np.full(3, 1 / 3)) - vectors[0]).max() < 1e-15


@pytest.mark.parametrize(
    "vectors",
    [
        np.array([[1.0, 0.0], [-1.0, 0.0]]),
        np.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]),
    ],
)
def test_directions_that_cancel_have_no_mean(vectors: np.ndarray) -> None:
    count = len(vectors)
    coefficients, unique = karcher_coefficients((vectors @ vectors.T)[None], np.full((1, count), 1 / count))
    assert not unique.any()
    assert np.isnan(coefficients).all()


def test_opposite_vectors_have_no_slerp():
    coefficients, unique = slerp_coefficients(np.array([-1.0, 1.0]), 0.25)
    assert unique.tolist() == [False, True]
    np.testing.assert_allclose(coefficients[1], [0.75, 0.25], atol=1e-15)


def test_many_means_side_by_side_are_those_found_alone():
    rng = np.random.default_rng(3)
    groups = [unit_rows(rng, 4, 6, spread) for spread in (0.01, 0.3, 1.0, 2.0)]
    cosines = np.stack([vectors @ vectors.T for vectors in groups])
    weights = rng.dirichlet(np.ones(4), size=4)
    together, _ = karcher_coefficients(cosines, weights)
    for row in range(4):
        alone, _ = karcher_coefficients(cosines[row : row + 1], weights[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=1e-12)
