"""Codes against sentence-transformers and FAISS, and against what they stand for."""

import faiss
import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from components.search.exact import top_k
from components.search.indexes.faiss_index import build
from components.search.quantise import cut, from_bits, from_int8, ranges_of, rescore, to_bits, to_int8


def unit(rows: int, dimensions: int = 64, seed: int = 0) -> np.ndarray:
    vector_ND = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


@pytest.fixture
def vectors() -> np.ndarray:
    vectors = unit(500)
    vectors[:, 7] = 0.25  # a dimension that says nothing
    return vectors


def test_codes_are_those_of_sentence_transformers(vectors):
    ranges = ranges_of([vectors[:200], vectors[200:]])
    np.testing.assert_array_equal(to_int8(vectors, ranges), quantize_embeddings(vectors, "int8"))
    np.testing.assert_array_equal(to_bits(vectors), quantize_embeddings(vectors, "ubinary"))
    # Vectors that the ranges do not know are cut off, not wrapped around.
    both = np.stack([ranges.low_D, ranges.high_D])
    np.testing.assert_array_equal(
        to_int8(2 * unit(9), ranges), quantize_embeddings(2 * unit(9), "int8", ranges=both)
    )


def test_a_code_stands_for_the_middle_of_its_step(vectors):
    ranges = ranges_of([vectors])
    error_ND = np.abs(from_int8(to_int8(vectors, ranges), ranges) - vectors)
    half_D = (ranges.high_D - ranges.low_D) / 255 / 2
    varies = half_D > 0
    assert (error_ND[:, varies] <= half_D[varies] * 1.001 + 1e-7).all()
    assert error_ND[:, varies].max() > half_D[varies].min() * 0.9  # the bound is reached: steps are no finer


def test_int8_is_searched_as_faiss_does(vectors):
    vectors = np.delete(vectors, 7, axis=1)
    ranges = ranges_of([vectors])
    index = faiss.deserialize_index(build([vectors[:100], vectors[100:]], "int8", ranges))
    decoded_ND = from_int8(to_int8(vectors, ranges), ranges)
    theirs_ND = index.reconstruct_n(0, 500)
    step_D = ranges.steps()
    assert np.abs(theirs_ND - decoded_ND).max() <= step_D.max() * 1.01  # where rounding falls the other way
    assert np.mean(np.abs(theirs_ND - decoded_ND) > step_D / 10) < 1e-3


def test_the_product_of_bits_is_the_hamming_distance(vectors):
    code_NB = to_bits(vectors)
    hamming_NN = np.bitwise_count(code_NB[:, None] ^ code_NB[None]).sum(axis=2)
    np.testing.assert_array_equal(from_bits(code_NB) @ from_bits(code_NB).T, 64 - 2.0 * hamming_NN)


def test_a_cut_vector_is_the_direction_of_its_first_dimensions(vectors):
    cut_ND = cut(vectors, 16)
    expected_ND = vectors[:, :16] / np.linalg.norm(vectors[:, :16].astype(np.float64), axis=1)[:, None]
    np.testing.assert_allclose(cut_ND, expected_ND, rtol=1e-5)


def test_rescoring_all_candidates_is_a_search(vectors):
    query_ND = unit(5, seed=1)
    everything = np.tile(np.random.default_rng(2).permutation(500), (5, 1))
    scores_NK, rows_NK = rescore(query_ND, vectors, everything, 10)
    expected = top_k(query_ND, vectors, 10)
    np.testing.assert_array_equal(rows_NK, expected[1])
    np.testing.assert_allclose(scores_NK, expected[0], rtol=1e-5)
