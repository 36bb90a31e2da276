"""Mining, with positives and copies of them planted in the corpus, against a ranking in float64."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from corpus_tables import write_corpus

from components.corpus.schema import PAIRS, conform, passage
from components.model.embedder import Embedder
from components.monitor import Silent
from components.pairs.mining import mine_negatives
from components.storage import Folder

NUM_DOCUMENTS = 60


class Watching(Silent):
    """A monitor that keeps what it is given."""

    def __init__(self):
        object.__setattr__(self, "kept", {})

    def figure(self, name, figure):
        figure.savefig("/dev/null", format="png")
        self.kept[name] = figure

    def artifact(self, name, data):
        self.kept[name] = data


def words(generator, number):
    return " ".join(f"w{word}" for word in generator.integers(0, 200, number))


def pair(pair_id, query, positive, query_id, positive_id):
    return {
        "pair_id": pair_id,
        "query": query,
        "positive": positive,
        "query_id": query_id,
        "positive_id": positive_id,
        "task": "retrieval",
        "language": "en",
        "origin": "labelled",
    }


@pytest.fixture
def planted(tmp_path):
    """Documents d0 to d59, of which:

    d0 answers q0 (pair p0), d1 too (another pair of q0), d2 too (judged only), d3 answers the text of q0
    under another id; d4, d5, d6 are d0 in capitals and other spacing, with another title, and with none.
    """
    generator = np.random.default_rng(0)
    documents = {
        f"d{row}": (f"w{row} w{row + 1}" if row % 3 else None, words(generator, 10))
        for row in range(NUM_DOCUMENTS)
    }
    documents["d0"] = ("w9 w8", documents["d0"][1])
    documents["d4"] = ("W9  w8", documents["d0"][1].upper().replace(" ", "\n "))
    documents["d5"] = ("w7", documents["d0"][1])
    documents["d6"] = (None, documents["d0"][1])
    queries = {"q0": words(generator, 4), "q1": words(generator, 4), "q2": words(generator, 4)}
    queries["q0-again"] = queries["q0"].upper()
    pairs = [
        pair("p0", queries["q0"], passage(*documents["d0"]), "q0", "d0"),
        pair("p1", queries["q0"], passage(*documents["d1"]), "q0", "d1"),
        pair("p2", queries["q0-again"], passage(*documents["d3"]), "q0-again", "d3"),
        pair("p3", queries["q1"], documents["d10"][1], "q1", "d10"),
        pair("p4", queries["q2"], "w1 a positive outside the corpus", "q2", "elsewhere"),
    ]
    split = Folder(str(tmp_path / "split"))
    judgements = [("q0", "d2", "train"), ("q1", "d10", "train")]
    write_corpus(split / "train", documents, queries.items(), judgements)
    folder = Folder(str(tmp_path / "pairs"))
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(pairs), PAIRS))
    return folder, split, documents, pairs


def mine(planted, model_directory, output, monitor=None, **changes):
    settings = {
        "negatives_per_query": NUM_DOCUMENTS,
        "window": [0, NUM_DOCUMENTS],
        "relative_margin": 1.0,
    } | changes
    folder, split, _, _ = planted
    numbers = mine_negatives(
        pairs=folder,
        split=split,
        model=Folder(str(model_directory)),
        output=output,
        monitor=monitor or Silent(),
        **settings,
    )
    rows = output.read_table("pairs.parquet").to_pylist()
    return {row["pair_id"]: row for row in rows}, numbers


def ranking(model_directory, documents, row):
    """Ids by cosine, descending, with the cosines and the positive's, in float64."""
    embedder = Embedder.load(model_directory)
    query_D = embedder.encode([row["query"]], "query")[0].astype(np.float64)
    texts = [*(passage(*document) for document in documents.values()), row["positive"]]
    *scores, positive = (embedder.encode(texts, "document").astype(np.float64) @ query_D).tolist()
    score_of = dict(zip(documents, scores, strict=True))
    return sorted(score_of, key=lambda key: -score_of[key]), score_of, positive


BARRED = {"d0", "d1", "d2", "d3", "d4", "d5", "d6"}


@pytest.mark.parametrize("pair_id", ["p0", "p1", "p2"])
def test_no_positive_and_no_copy_of_one_is_ever_a_negative(planted, model_directory, tmp_path, pair_id):
    # margin 1 and the whole corpus as the window: only the rules about positives stand in the way
    rows, numbers = mine(planted, model_directory, Folder(str(tmp_path / "out")))
    assert not BARRED & set(rows[pair_id]["negative_ids"])
    assert numbers["share_known_positive"] > 0
    assert numbers["share_copy"] > 0


def test_negatives_are_the_ranking_below_the_margin(planted, model_directory, tmp_path):
    documents, pairs = planted[2], planted[3]
    rows, numbers = mine(planted, model_directory, Folder(str(tmp_path / "out")))
    for given in pairs:
        order, scores, positive = ranking(model_directory, documents, given)
        barred = {"p3": {"d10"}, "p4": set()}.get(given["pair_id"], BARRED)
        expected = [key for key in order if key not in barred and scores[key] < positive]
        if {"d0", "d4"} <= set(expected):  # copies of one another: the first in rank stands for both
            expected.remove(max("d0", "d4", key=order.index))
        mined = rows[given["pair_id"]]
        assert mined["negative_ids"] == expected
        assert mined["negatives"] == [passage(*documents[key]) for key in expected]
        assert mined["score"] == pytest.approx(positive, abs=1e-5)
    assert numbers["rows_in"] == numbers["rows_out"] == len(pairs)
    assert numbers["negatives"] == sum(len(row["negative_ids"]) for row in rows.values())


def test_margin_window_and_number(planted, model_directory, tmp_path):
    documents, pairs = planted[2], planted[3]
    margin = 0.97
    rows, numbers = mine(
        planted,
        model_directory,
        Folder(str(tmp_path / "out")),
        negatives_per_query=3,
        window=[5, 30],
        relative_margin=margin,
    )
    for given in pairs[:3]:
        order, scores, positive = ranking(model_directory, documents, given)
        window = [key for key in order if key not in BARRED][5:30]
        expected = [key for key in window if scores[key] < margin * positive][:3]
        assert rows[given["pair_id"]]["negative_ids"] == expected
    assert numbers["share_margin"] > 0
    short = [len(row["negative_ids"]) < 3 for row in rows.values()]
    assert numbers["share_short"] == np.mean(short)


def test_a_random_sample_does_not_depend_on_the_other_rows(planted, model_directory, tmp_path):
    settings = {"negatives_per_query": 4, "window": [0, 40], "sampling": "random", "seed": 7}
    rows, _ = mine(planted, model_directory, Folder(str(tmp_path / "all")), **settings)
    everything, _ = mine(planted, model_directory, Folder(str(tmp_path / "top")), window=[0, 40])
    other_seed, _ = mine(planted, model_directory, Folder(str(tmp_path / "other")), **settings | {"seed": 8})
    for key, row in rows.items():
        candidates = everything[key]["negative_ids"]
        places = [candidates.index(negative) for negative in row["negative_ids"]]
        assert places == sorted(places)
        assert len(places) == min(4, len(candidates))
    assert rows != other_seed

    folder, split, documents, pairs = planted
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(pairs[:3][::-1]), PAIRS))
    fewer, _ = mine(
        (folder, split, documents, pairs), model_directory, Folder(str(tmp_path / "few")), **settings
    )
    assert fewer == {key: rows[key] for key in ("p0", "p1", "p2")}


def test_audit_shows_the_cases_nearest_to_their_positive(planted, model_directory, tmp_path):
    monitor = Watching()
    rows, numbers = mine(planted, model_directory, Folder(str(tmp_path / "out")), monitor)
    assert "mined_scores.png" in monitor.kept
    shown = list(csv.DictReader(io.StringIO(monitor.kept["suspicious_negatives.csv"].decode())))
    near = [float(case["cosine_positive_negative"]) for case in shown]
    assert len(shown) == 20
    assert near == sorted(near, reverse=True)
    embedder = Embedder.load(model_directory)
    expected = max(
        float((embedder.encode(row["negatives"], "document") @ positive_D).max(initial=-1))
        for row in rows.values()
        for positive_D in embedder.encode([row["positive"]], "document")
    )
    assert near[0] == pytest.approx(expected, abs=1e-4)
    assert 0 <= numbers["estimated_false_negative_rate"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives_per_query": 0}, "negatives_per_query must be at least 1"),
        ({"window": [5, 5]}, "window must be two ranks"),
        ({"relative_margin": 1.5}, "relative_margin must be above 0"),
        ({"sampling": "hard"}, "sampling must be 'top' or 'random'"),
    ],
)
def test_refuses(planted, model_directory, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        mine(planted, model_directory, Folder(str(tmp_path / "out")), **changes)
