"""Search of vectors in files against numpy's stable sort of the whole score matrix, and against faiss."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.monitor import Silent
from components.search.exact import top_k
from components.search.running import pack, unpack
from components.search.sharded import search_shards
from components.search.shards import Shards
from components.storage import Folder


def write(folder, vectors, rows_per_shard):
    shards = Shards(Folder(str(folder)), len(vectors), rows_per_shard)
    for shard in range(len(shards)):
        span = shards.span(shard)
        shards.write(shard, vectors[span.start : span.stop])
    return shards


def search(directory, query_ND, document_MD, k, rows_per_query_shard=4, rows_per_shard=7, **settings):
    queries = write(directory / "queries", query_ND, rows_per_query_shard)
    documents = write(directory / "documents", document_MD, rows_per_shard)
    found = Shards(Folder(str(directory / "found")), len(query_ND), rows_per_query_shard)
    search_shards(queries, documents, k, found, Silent(), **settings)
    return unpack(found.take(np.arange(len(query_ND))))


@settings(max_examples=60)
@given(
    queries=st.integers(1, 9),
    documents=st.integers(1, 60),
    k=st.integers(1, 70),
    rows_per_shard=st.integers(1, 20),
    width=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_equals_a_stable_sort_with_many_ties(
    tmp_path_factory, queries, documents, k, rows_per_shard, width, seed
):
    generator = np.random.default_rng(seed)
    # small whole numbers: products are exact, ties are everywhere, and zeros come with both signs
    query_ND = generator.integers(-1, 2, (queries, width)).astype(np.float32)
    document_MD = generator.integers(-1, 2, (documents, width)).astype(np.float32)

    scores_NK, rows_NK = search(
        tmp_path_factory.mktemp("search"), query_ND, document_MD, k, rows_per_shard=rows_per_shard
    )

    all_scores = query_ND.astype(np.float64) @ document_MD.astype(np.float64).T
    expected = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows_NK[:, : expected.shape[1]], expected)
    np.testing.assert_array_equal(
        scores_NK[:, : expected.shape[1]], np.take_along_axis(all_scores, expected, 1)
    )
    assert (rows_NK[:, expected.shape[1] :] == -1).all()


def test_agrees_with_faiss_on_vectors_in_rising_order_of_score(tmp_path):
    """Every document beats all before it: the floor never spares any work."""
    generator = np.random.default_rng(0)
    query_ND = np.abs(generator.standard_normal((30, 16), dtype=np.float32))
    document_MD = np.abs(generator.standard_normal((9000, 16), dtype=np.float32))
    document_MD = document_MD[np.argsort(document_MD.sum(1))]
    index = faiss.IndexFlatIP(16)
    index.add(document_MD)
    expected_NK = index.search(query_ND, 100)[1]

    scores_NK, rows_NK = search(
        tmp_path, query_ND, document_MD, 100, rows_per_query_shard=20, rows_per_shard=4000
    )

    exact_NK = np.take_along_axis(query_ND.astype(np.float64) @ document_MD.astype(np.float64).T, rows_NK, 1)
    np.testing.assert_allclose(scores_NK, exact_NK, rtol=1e-5)
    assert (rows_NK == expected_NK).mean() > 0.99  # the rest are scores that differ in the last bit


def test_what_is_barred_is_not_found_and_the_next_takes_its_place(tmp_path):
    generator = np.random.default_rng(1)
    query_ND = generator.standard_normal((10, 8)).astype(np.float32)
    document_MD = generator.standard_normal((5000, 8)).astype(np.float32)
    order_NM = np.argsort(-(query_ND @ document_MD.T), axis=1)
    barred_NB = order_NM[:, [0, 3, 4]]

    def barred(shard):
        mine = barred_NB[shard * 4 : shard * 4 + 4]
        query_B, row_B = np.repeat(np.arange(len(mine)), 3), mine.reshape(-1)
        by_row = np.argsort(row_B)
        return query_B[by_row], row_B[by_row]

    _, rows_NK = search(tmp_path, query_ND, document_MD, 5, rows_per_shard=1500, barred=barred)
    np.testing.assert_array_equal(rows_NK, order_NM[:, [1, 2, 5, 6, 7]])


def test_files_that_are_there_are_not_searched_again(tmp_path):
    generator = np.random.default_rng(2)
    query_ND = generator.standard_normal((10, 8)).astype(np.float32)
    document_MD = generator.standard_normal((50, 8)).astype(np.float32)
    first = search(tmp_path, query_ND, document_MD, 5)
    files = sorted((tmp_path / "found").iterdir())
    files[1].unlink()
    before = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    again = search(tmp_path, query_ND, document_MD, 5)
    assert all(file.stat().st_mtime_ns == changed for file, changed in before.items())
    np.testing.assert_array_equal(again[1], first[1])


@pytest.mark.parametrize("documents", [1, 1000])
def test_one_document_and_a_corpus_of_duplicates_only(tmp_path, documents):
    query_ND = np.eye(3, 8, dtype=np.float32)
    document_MD = np.ones((documents, 8), np.float32)
    scores_NK, rows_NK = search(tmp_path, query_ND, document_MD, 4, rows_per_shard=300)
    expected = np.where(np.arange(4) < documents, np.arange(4), -1)
    np.testing.assert_array_equal(rows_NK, np.tile(expected, (3, 1)))
    assert (scores_NK[rows_NK >= 0] == 1).all()


@pytest.mark.parametrize(("place", "kind"), [("queries", "query 5"), ("documents", "document 33")])
def test_a_vector_that_is_not_finite_is_refused_by_name(tmp_path, place, kind):
    vectors = {"queries": np.ones((10, 8), np.float32), "documents": np.ones((50, 8), np.float32)}
    vectors[place][int(kind.split()[1]), 2] = np.nan
    with pytest.raises(ValueError, match=rf"the vector of {kind} is not finite"):
        search(tmp_path, vectors["queries"], vectors["documents"], 5)
    with pytest.raises(ValueError, match=rf"the vector of {kind} is not finite"):
        top_k(vectors["queries"], vectors["documents"], 5)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=20),
    st.integers(0, 100),
)
def test_keys_are_ordered_as_scores_and_then_as_rows(scores, seed):
    scores_J = np.array(scores, np.float32)
    rows_J = np.random.default_rng(seed).permutation(2**32 - 1 - np.arange(len(scores)))
    keys_J = pack(scores_J, rows_J)
    back_scores, back_rows = unpack(keys_J)
    np.testing.assert_array_equal(back_scores, scores_J)
    np.testing.assert_array_equal(back_rows, rows_J)
    np.testing.assert_array_equal(np.argsort(-keys_J), np.lexsort([rows_J, -scores_J]))
