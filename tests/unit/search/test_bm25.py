"""BM25 against its formula, and against the published SciFact figure."""

import math
from pathlib import Path

import numpy as np
import pytest

from components.evaluation.collection import read_beir
from components.evaluation.evaluation import rank_and_score
from components.search.bm25 import Bm25Index
from components.storage import Folder

SCIFACT = Path(__file__).resolve().parents[4] / "shared" / "data" / "scifact"


def test_scores_follow_lucenes_formula():
    # ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean length))
    texts = ["zebra zebra river", "river mountain", "mountain cloud stone forest"]
    scores, indices = Bm25Index(texts).search(["zebra river"], k=3)
    lengths, mean = (3, 2, 4), 3.0

    def weight(tf, df, length):
        return math.log(1 + (3 - df + 0.5) / (df + 0.5)) * tf / (tf + 1.5 * (0.25 + 0.75 * length / mean))

    expected = [weight(2, 1, lengths[0]) + weight(1, 2, lengths[0]), weight(1, 2, lengths[1])]
    np.testing.assert_allclose(scores[0, :2], expected, rtol=1e-6)
    assert indices.tolist() == [[0, 1, -1]]
    assert scores[0, 2] == 0


def test_words_are_stemmed_and_stopwords_left_out():
    index = Bm25Index(["the running horses", "a sleeping cat"])
    _, indices = index.search(["the horse runs", "the and of", "unheard"], k=2)
    assert indices.tolist() == [[0, -1], [-1, -1], [-1, -1]]


def test_equal_scores_come_in_the_order_of_the_corpus():
    index = Bm25Index(["apple"] * 50 + ["pear"])
    _, indices = index.search(["apple"], k=7)
    assert indices.tolist() == [list(range(7))]


def test_k_is_at_most_the_number_of_texts():
    scores, indices = Bm25Index(["apple", "pear"]).search(["pear"], k=100)
    assert scores.shape == indices.shape == (1, 2)


@pytest.mark.parametrize("texts", [[], ["", "the of"]])
def test_nothing_to_index_is_an_error(texts):
    with pytest.raises(ValueError, match="has a word to index"):
        Bm25Index(texts)


@pytest.mark.skipif(not SCIFACT.is_dir(), reason="no SciFact in ../shared/data/scifact")
def test_scifact_reaches_the_published_figure():
    collection = read_beir(Folder(str(SCIFACT)), "test")
    scores, indices = Bm25Index(collection.passages).search(collection.queries, 100)
    evaluation = rank_and_score(collection, scores, indices, seconds=0.0)
    assert (evaluation.corpus_size, evaluation.queries) == (5183, 300)
    # 0.687 by the bm25s paper; the rest is the version of the stemmer and of the stopword list.
    assert evaluation.metrics["ndcg@10"].mean == pytest.approx(0.687, abs=0.002)
