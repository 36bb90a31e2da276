"""Which texts a decoder reads in one row."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rerankers import write_cross_encoder, write_yes_no_model

from components.model.pair_tokens import Tokens
from components.model.reranker import YesNoReranker, load_reranker
from components.training.shared_rows import arithmetic_of, rows_of, tokens_of


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> YesNoReranker:
    found = load_reranker(write_yes_no_model(tmp_path_factory.mktemp("yes-no")))
    assert isinstance(found, YesNoReranker)
    return found


@settings(max_examples=50)
@given(
    prefix=st.integers(1, 900),
    own=st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=6), min_size=1, max_size=4),
    most=st.integers(1, 3000),
)
def test_every_text_once_and_no_more_work_than_alone(
    reranker: YesNoReranker, prefix: int, own: list[list[int]], most: int
) -> None:
    pairs, queries = [], []
    for query, lengths in enumerate(own):
        for number, length in enumerate(lengths):
            ids = [query] * prefix + [10 + number] * length
            pairs.append(Tokens(ids, ids))
            queries.append(query)
    rows = rows_of(reranker, pairs, np.array(queries), most)
    assert np.concatenate(rows).tolist() == list(range(len(pairs)))
    arithmetic = arithmetic_of(reranker)
    for row in rows:
        assert len({queries[text] for text in row}) == 1
        assert len(row) == 1 or tokens_of(pairs, row) <= most
        assert tokens_of(pairs, row) == prefix * (len(row) > 1) + sum(
            len(pairs[text].ids) - prefix * (len(row) > 1) for text in row
        )
        alone = sum(arithmetic.of(len(pairs[text].ids)) for text in row)
        assert arithmetic.of(tokens_of(pairs, row)) <= alone


def test_a_prompt_before_short_documents_is_shared_and_an_encoder_shares_nothing(
    reranker: YesNoReranker, tmp_path: Path
) -> None:
    query = np.array([0, 0, 0, 1, 1])
    texts = (
        ["how to sort"] * 3 + ["what is a query"] * 2,
        ["sort", "the list", "a", "b", "the query"],
        [None] * 5,
    )
    rows = rows_of(reranker, reranker.tokenize(*texts), query, 2048)
    assert [row.tolist() for row in rows] == [[0, 1, 2], [3, 4]]
    encoder = load_reranker(write_cross_encoder(tmp_path))
    assert len(rows_of(encoder, encoder.tokenize(*texts), query, 2048)) == 5
