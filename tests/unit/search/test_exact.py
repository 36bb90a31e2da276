"""Exact search against numpy's stable sort of the whole score matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.search.exact import top_k


@settings(max_examples=60)
@given(
    queries=st.integers(1, 7),
    documents=st.integers(1, 40),
    k=st.integers(1, 12),
    tile=st.integers(1, 17),
    query_tile=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_equals_a_stable_sort_with_many_ties(queries, documents, k, tile, query_tile, seed):
    generator = np.random.default_rng(seed)
    # small whole numbers: products are exact, and ties are everywhere
    query_ND = generator.integers(-2, 3, (queries, 3)).astype(np.float32)
    document_MD = generator.integers(-2, 3, (documents, 3)).astype(np.float32)

    scores_NK, indices_NK = top_k(query_ND, document_MD, k, tile=tile, query_tile=query_tile)

    all_scores = query_ND.astype(np.float64) @ document_MD.astype(np.float64).T
    expected = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices_NK, expected)
    np.testing.assert_array_equal(scores_NK, np.take_along_axis(all_scores, expected, 1))


def test_real_vectors_across_tiles():
    generator = np.random.default_rng(0)
    query_ND = generator.standard_normal((50, 64)).astype(np.float32)
    document_MD = generator.standard_normal((5000, 64)).astype(np.float32)

    scores_NK, indices_NK = top_k(query_ND, document_MD, 100, tile=777)

    all_scores = query_ND.astype(np.float64) @ document_MD.astype(np.float64).T
    expected = np.sort(-all_scores, axis=1)[:, :100] * -1
    np.testing.assert_allclose(scores_NK, expected, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(all_scores, indices_NK, 1), expected, atol=1e-4)


def test_refuses_what_cannot_be_searched():
    vectors = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k(vectors, vectors, 0)
    with pytest.raises(ValueError, match="of one width"):
        top_k(vectors, np.zeros((2, 4), np.float32), 1)


def test_no_queries():
    scores_NK, indices_NK = top_k(np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), 5)
    assert scores_NK.shape == indices_NK.shape == (0, 2)
