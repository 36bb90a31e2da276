"""Components against networkx on all pairs."""

import tracemalloc

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.corpus.linking import Components, link_alike
from components.corpus.signatures import band_keys, choose_bands, hash_rows


def components_of(edges, rows):
    graph = nx.Graph()
    graph.add_nodes_from(range(rows))
    graph.add_edges_from(edges)
    return {row: min(members) for members in nx.connected_components(graph) for row in members}


@given(st.integers(1, 30), st.data())
@settings(max_examples=60)
def test_links_in_any_portions_give_the_components(rows, data):
    node = st.integers(0, rows - 1)
    portions = data.draw(st.lists(st.lists(st.tuples(node, node), min_size=1, max_size=8), max_size=6))
    found = Components(rows)
    merged = sum(found.link(*np.array(portion, dtype=np.int64).T) for portion in portions)
    expected = components_of([edge for portion in portions for edge in portion], rows)
    assert found.of_all().tolist() == [expected[row] for row in range(rows)]
    assert merged == rows - len(set(expected.values()))


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_runs_of_any_length_are_compared_pair_by_pair(seed, values):
    """Few distinct values make long runs and many near-misses."""
    rng = np.random.default_rng(seed)
    rows, permutations, threshold = 120, 12, 0.75
    signature_NP = rng.integers(0, values, (rows, permutations), dtype=np.uint32)
    key_N = rng.integers(0, 4, rows).astype(np.uint64)
    found = Components(rows)
    merged = link_alike(found, np.arange(rows), key_N, signature_NP, threshold)
    alike = (signature_NP[:, None] == signature_NP[None]).mean(axis=2) >= threshold
    pairs = np.argwhere(alike & (key_N[:, None] == key_N[None]))
    expected = components_of(pairs.tolist(), rows)
    assert found.of_all().tolist() == [expected[row] for row in range(rows)]
    assert merged == rows - len(set(expected.values()))


def test_only_the_rows_that_take_part_are_linked():
    signature_NP = np.zeros((5, 4), dtype=np.uint32)
    found = Components(5)
    link_alike(found, np.array([0, 3]), np.zeros(5, dtype=np.uint64), signature_NP, 1.0)
    assert found.of_all().tolist() == [0, 1, 2, 0, 4]


def test_a_run_that_is_nearly_one_component_takes_few_comparisons(monkeypatch):
    """20,000 rows of one text's template and one other: all pairs would be 200 million."""
    import components.corpus.linking as linking

    compared = 0
    real = linking._compare

    def counting(components, first, second, signature_NP, threshold):
        nonlocal compared
        compared += len(first)
        return real(components, first, second, signature_NP, threshold)

    monkeypatch.setattr(linking, "_compare", counting)
    rng = np.random.default_rng(0)
    signature_NP = np.zeros((20_001, 16), dtype=np.uint32)
    signature_NP[np.arange(20_000), rng.integers(8, 16, 20_000)] = rng.integers(1, 2**32, 20_000)
    signature_NP[20_000, 4:] = 7
    found = Components(20_001)
    merged = link_alike(found, np.arange(20_001), np.zeros(20_001, dtype=np.uint64), signature_NP, 0.8)
    assert merged == 19_999
    assert compared < 12 * 20_001


def test_equal_rows_have_equal_keys_and_others_do_not():
    rng = np.random.default_rng(1)
    signature_NP = rng.integers(0, 2**32, (4000, 64), dtype=np.uint32)
    assert len(np.unique(hash_rows(signature_NP))) == 4000
    signature_NP[1, :7] = signature_NP[0, :7]
    bands = choose_bands(0.8, 64)
    key_BN = band_keys(signature_NP, bands)
    assert key_BN.shape == (bands.count, 4000)
    assert [key_BN[band, 0] == key_BN[band, 1] for band in range(bands.count)] == [
        (band + 1) * bands.rows <= 7 for band in range(bands.count)
    ]
    # structured values, as little numbers, do not collide either
    small = np.stack(np.meshgrid(*[np.arange(16, dtype=np.uint32)] * 4), axis=-1).reshape(-1, 4)
    assert len(np.unique(hash_rows(small))) == 16**4


def test_memory_is_a_few_numbers_a_row(tmp_path):
    """Signatures lie in a file; numpy's own arrays are what is counted here."""
    rows, permutations = 200_000, 16
    rng = np.random.default_rng(0)
    signature_NP = np.memmap(tmp_path / "s", np.uint32, mode="w+", shape=(rows, permutations))
    for start in range(0, rows, 50_000):
        signature_NP[start : start + 50_000] = rng.integers(0, 2**32, (50_000, permutations), dtype=np.uint32)
    signature_NP[1::20] = signature_NP[0::20]
    key_BN = band_keys(np.asarray(signature_NP), choose_bands(0.8, permutations))
    tracemalloc.start()
    found = Components(rows)
    for key_N in key_BN:
        link_alike(found, np.arange(rows), key_N, signature_NP, 0.8)
        found.of_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(found.of_all())) == rows - rows // 20
    assert peak < 64 * rows + 2 * 65536 * permutations * 5
