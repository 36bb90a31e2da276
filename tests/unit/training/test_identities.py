"""Who counts as one, against networkx; known positives, against sets."""

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.identities import NO_ID, Answers, digest, number_identities


@settings(max_examples=200)
@given(pairs=st.lists(st.tuples(st.integers(-9, -1), st.integers(0, 8)), min_size=1, max_size=40))
def test_texts_and_ids_connect(pairs: list[tuple[int, int]]) -> None:
    texts, ids = np.array(pairs, dtype=np.int64).T
    graph = nx.Graph()
    graph.add_nodes_from(texts.tolist())
    graph.add_edges_from((text, name) for text, name in pairs if name != NO_ID)
    expected = {node: number for number, part in enumerate(nx.connected_components(graph)) for node in part}
    found = number_identities(texts, ids)
    for i, j in np.ndindex(len(pairs), len(pairs)):
        assert (found[i] == found[j]) == (expected[pairs[i][0]] == expected[pairs[j][0]])


@settings(max_examples=200)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=30),
    batch=st.lists(st.integers(0, 29), min_size=1, max_size=8),
    met=st.sets(st.integers(0, 9)),
)
def test_known_positives_are_the_others_that_are_met(
    pairs: list[tuple[int, int]], batch: list[int], met: set[int]
) -> None:
    queries, positives = np.array(pairs, dtype=np.int64).T
    own = [pairs[row % len(pairs)] for row in batch]
    known = Answers.of(queries, positives).known_positives(
        np.array([query for query, _ in own]),
        np.array([positive for _, positive in own]),
        np.array(list(met)),
    )
    for ids, (query, positive) in zip(known, own, strict=True):
        assert set(ids.tolist()) == ({d for q, d in pairs if q == query} - {positive}) & met


def test_a_digest_is_the_same_on_any_machine() -> None:
    """BLAKE2b with 8 bytes, as `b2sum -l 64` prints it."""
    assert digest("abc") == int.from_bytes(bytes.fromhex("d8bb14d833d59559"), signed=True)
    assert digest("") == NO_ID
