"""Mining, with positives and copies of them planted in the corpus, against a ranking in float64."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from corpus_tables import write_corpus
from tiny_rerankers import write_cross_encoder

from components.corpus.schema import PAIRS, conform, passage
from components.model.embedder import Embedder
from components.model.reranker import load_reranker
from components.monitor import Silent
from components.pairs import candidates, known
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
        "score": 0.25,
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
        "near_copy_cosine": None,
        "state": Folder(f"{output.uri}-state"),
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
        assert mined["measured"] == pytest.approx(positive, abs=1e-5)
        assert mined["score"] == 0.25  # what the source says
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


def test_audit_shows_the_cases_nearest_to_a_known_positive(planted, model_directory, tmp_path):
    monitor = Watching()
    rows, _ = mine(planted, model_directory, Folder(str(tmp_path / "out")), monitor)
    assert "mined_scores.png" in monitor.kept
    shown = list(csv.DictReader(io.StringIO(monitor.kept["suspicious_negatives.csv"].decode())))
    near = [max(float(case["cosine_positive_negative"]), float(case["words_in_common"])) for case in shown]
    assert len(shown) == 20
    assert near == sorted(near, reverse=True)
    embedder = Embedder.load(model_directory)
    positives = {row["pair_id"]: [row["positive"]] for row in rows.values()}
    of_q0 = [passage(*planted[2][key]) for key in ("d0", "d1", "d2", "d3")]
    positives |= dict.fromkeys(("p0", "p1", "p2"), of_q0)
    positives["p3"].append(passage(*planted[2]["d10"]))
    expected = max(
        float((embedder.encode(row["negatives"], "document") @ positive_D).max(initial=-1))
        for row in rows.values()
        for positive_D in embedder.encode(positives[row["pair_id"]], "document")
    )
    assert near[0] == pytest.approx(expected, abs=1e-4)


def test_with_exclusion_switched_off_positives_and_copies_are_found(planted, model_directory, tmp_path):
    rows, numbers = mine(
        planted, model_directory, Folder(str(tmp_path / "out")), exclude=[], relative_margin=None
    )
    documents = planted[2]
    found = set(rows["p0"]["negative_ids"])
    # of copies of one another the first in rank stands for all
    assert {"d1", "d2", "d3", "d5", "d6"} <= found
    assert len({"d0", "d4"} & found) == 1
    assert len(found) == len(documents) - 1
    assert numbers["share_known_positive"] == numbers["share_copy"] == 0
    assert numbers["positives_missing"] == 1


def test_an_absolute_margin_is_kept(planted, model_directory, tmp_path):
    documents, pairs = planted[2], planted[3]
    rows, _ = mine(
        planted,
        model_directory,
        Folder(str(tmp_path / "out")),
        relative_margin=None,
        absolute_margin=0.05,
    )
    for given in pairs[3:]:
        order, scores, positive = ranking(model_directory, documents, given)
        expected = [key for key in order if scores[key] < positive - 0.05 and key != given["positive_id"]]
        if {"d0", "d4"} <= set(expected):
            expected.remove(max("d0", "d4", key=order.index))
        assert rows[given["pair_id"]]["negative_ids"] == expected


def test_spread_takes_ranks_at_even_distances(planted, model_directory, tmp_path):
    free = {"relative_margin": None}
    everything, _ = mine(planted, model_directory, Folder(str(tmp_path / "all")), **free)
    free |= {"sampling": "spread", "negatives_per_query": 5}
    rows, _ = mine(planted, model_directory, Folder(str(tmp_path / "out")), **free)
    for key, row in rows.items():
        candidates = everything[key]["negative_ids"]
        assert len(candidates) > 10
        gaps = np.diff([candidates.index(negative) for negative in row["negative_ids"]])
        assert len(gaps) == 4
        assert gaps.max() - gaps.min() <= 1
        assert row["negative_ids"][0] == candidates[0]


@pytest.fixture
def paraphrased(tmp_path):
    """d1 is d0, which answers q0, with three words of 25 changed; the other documents have their own words."""
    generator = np.random.default_rng(3)
    answer = [f"w{word}" for word in range(25)]
    documents = {"d0": (None, " ".join(answer)), "d1": (None, " ".join([*answer[3:], "w97", "w98", "w99"]))}
    documents |= {f"d{row}": (None, f"{words(generator, 12)} w{100 + row}") for row in range(2, 30)}
    split = Folder(str(tmp_path / "split"))
    write_corpus(split / "train", documents, [("q0", "w3 w4")], [])
    pairs = [pair("p0", "w3 w4", documents["d0"][1], "q0", "d0")]
    folder = Folder(str(tmp_path / "pairs"))
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(pairs), PAIRS))
    return folder, split, documents, pairs


@pytest.mark.parametrize(
    ("changes", "excluded"),
    [
        ({}, True),
        ({"near_copy_words": 0.9}, False),  # 22 of 28 words are shared
        ({"near_copy_words": None}, False),
        ({"exclude": ["known_positives", "copies"]}, False),
        ({"near_copy_words": None, "near_copy_cosine": 0.9}, True),
    ],
)
def test_near_copies_of_a_positive_are_excluded(paraphrased, model_directory, tmp_path, changes, excluded):
    rows, numbers = mine(
        paraphrased, model_directory, Folder(str(tmp_path / "out")), relative_margin=None, **changes
    )
    assert ("d1" in rows["p0"]["negative_ids"]) is not excluded
    assert (numbers["share_near_copy"] > 0) is excluded


def test_a_step_that_is_tried_again_goes_on_where_it_was(planted, model_directory, tmp_path):
    class Dying(Silent):
        """Dies as the findings are handed on."""

        def progress(self, done, total, unit, **facts):
            if unit == "pairs":
                raise OSError("lost")

    state = Folder(str(tmp_path / "state"))
    with pytest.raises(OSError, match="lost"):
        mine(planted, model_directory, Folder(str(tmp_path / "lost")), Dying(), state=state)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*") if path.is_file()}
    assert sum("vectors" in str(path) for path in before) >= 3
    again = mine(planted, model_directory, Folder(str(tmp_path / "again")), state=state)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again == mine(planted, model_directory, Folder(str(tmp_path / "fresh")))


def replaced(planted, model_directory, tmp_path, first_scores, **changes):
    """Rows before and after a second round over what a first one mined."""
    first = Folder(str(tmp_path / "first"))
    before, _ = mine(planted, model_directory, first, negatives_per_query=2, relative_margin=None)
    table = first.read_table("negative_scores.parquet")
    scores = pa.array(first_scores(table["first_score"].to_numpy()), pa.float32())
    first.write_table("negative_scores.parquet", table.set_column(1, "first_score", scores))
    after, numbers = mine(
        (first, *planted[1:]),
        model_directory,
        Folder(str(tmp_path / "second")),
        negatives_per_query=3,
        relative_margin=None,
        replace="outgrown",
        **changes,
    )
    return before, after, numbers, Folder(str(tmp_path / "second"))


def test_negatives_stay_until_the_model_has_outgrown_them(planted, model_directory, tmp_path):
    """The tiny model puts all at high cosines: `below` is raised, so that the other half of the rule decides."""
    before, after, numbers, second = replaced(
        planted,
        model_directory,
        tmp_path,
        lambda scores: scores * np.array([1, 1.2, 1.1, 2, 0.9]),
        outgrown_below=1.0,
    )
    kept = {"p0": True, "p1": False, "p2": True, "p3": False, "p4": True}
    for key, stays in kept.items():
        same = after[key]["negative_ids"] == before[key]["negative_ids"]
        assert same is stays
        assert len(after[key]["negative_ids"]) == (2 if stays else 3)
    assert numbers["rows_kept"] == 3
    assert numbers["negatives_dropped"] == 2 * 2
    first_scores = second.read_table("negative_scores.parquet")["first_score"].to_pylist()
    embedder = Embedder.load(model_directory)
    for row, factor in ((0, 1), (1, None), (2, 1.1), (3, None), (4, 0.9)):
        mined = list(before.values() if factor else after.values())[row]
        query_D = embedder.encode([mined["query"]], "query")[0]
        mean = (embedder.encode(mined["negatives"], "document") @ query_D).mean()
        assert first_scores[row] == pytest.approx(mean * (factor or 1), abs=1e-5)


def test_negatives_that_the_model_still_finds_hard_stay(planted, model_directory, tmp_path):
    before, after, _, _ = replaced(
        planted, model_directory, tmp_path, lambda scores: scores * 2, outgrown_below=0.01
    )
    assert {key: row["negative_ids"] for key, row in after.items()} == {
        key: row["negative_ids"] for key, row in before.items()
    }


@pytest.mark.parametrize(("positive_words", "exclude", "found"), [
    (30, ["near_copies"], False), (30, ["known_positives", "copies"], True), (8, ["near_copies"], True),
])  # fmt: skip
def test_a_page_is_no_negative_of_a_passage_that_it_holds(
    planted, model_directory, tmp_path, positive_words, exclude, found
):
    folder, split, documents, pairs = planted
    passage_of_page = " ".join(f"w{word}" for word in range(100, 100 + positive_words))
    before, after = (words(np.random.default_rng(seed), 90) for seed in (1, 2))
    documents["page"] = ("w3", f"{before}\n{passage_of_page.upper()}  {after}")
    write_corpus(split / "train", documents, [], [])
    rows = [pairs[4] | {"positive": passage_of_page}]
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(rows), PAIRS))
    mined, numbers = mine(
        planted, model_directory, Folder(str(tmp_path / "out")), exclude=exclude, relative_margin=None,
        window=[0, 61], negatives_per_query=61,
    )  # fmt: skip
    assert ("page" in mined["p4"]["negative_ids"]) is found
    assert (numbers["share_near_copy"] > 0) is not found


def test_negatives_that_are_mined_anew_are_counted_before_they_go(planted, model_directory, tmp_path):
    first = Folder(str(tmp_path / "first"))
    _, numbers = mine(planted, model_directory, first, negatives_per_query=2)
    assert numbers["negatives_dropped"] == 0
    _, again = mine((first, *planted[1:]), model_directory, Folder(str(tmp_path / "second")))
    assert again["negatives_dropped"] == numbers["negatives"]


def test_classes_too_large_to_know_all_answers_are_refused(planted, model_directory, tmp_path, monkeypatch):
    folder, *_, pairs = planted
    one_class = [row | {"query_id": "class", "positive_id": "class"} for row in pairs]
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(one_class), PAIRS))
    mine(planted, model_directory, Folder(str(tmp_path / "all")))
    monkeypatch.setattr(known, "MOST_LINKS", 20)
    with pytest.raises(ValueError, match="mine: 4 queries have 31 known positives by id and by text, and 20"):
        mine(planted, model_directory, Folder(str(tmp_path / "none")))


def test_what_is_near_the_positives_does_not_depend_on_how_many_are_looked_at_at_once(
    planted, model_directory, tmp_path, monkeypatch
):
    whole, audited = mine(planted, model_directory, Folder(str(tmp_path / "whole")), near_copy_words=0.2)
    monkeypatch.setattr(candidates, "_NUMBERS_AT_ONCE", 64)
    parts, again = mine(planted, model_directory, Folder(str(tmp_path / "parts")), near_copy_words=0.2)
    assert (parts, again) == (whole, audited)


def test_a_negative_that_has_become_a_known_positive_does_not_stay(planted, model_directory, tmp_path):
    first = Folder(str(tmp_path / "first"))
    before, _ = mine(planted, model_directory, first, negatives_per_query=2)
    _, split, documents, _ = planted
    now_known = before["p3"]["negative_ids"][0]
    write_corpus(split / "train", documents, [("q1", before["p3"]["query"])], [("q1", now_known, "train")])
    after, numbers = mine(
        (first, *planted[1:]), model_directory, Folder(str(tmp_path / "second")), replace="outgrown"
    )
    assert now_known not in after["p3"]["negative_ids"]
    assert numbers["rows_kept"] == len(before) - 1


def test_first_scores_of_other_rows_are_refused(planted, model_directory, tmp_path):
    first = Folder(str(tmp_path / "first"))
    mine(planted, model_directory, first, negatives_per_query=2)
    table = first.read_table("negative_scores.parquet")
    first.write_table("negative_scores.parquet", table.take([1, 0, 2, 3, 4]))
    with pytest.raises(ValueError, match="is not of the rows of"):
        mine((first, *planted[1:]), model_directory, Folder(str(tmp_path / "second")), replace="outgrown")


def test_a_reranker_vetoes_and_the_next_takes_the_place(planted, model_directory, tmp_path):
    directory = write_cross_encoder(tmp_path / "reranker")
    free, _ = mine(planted, model_directory, Folder(str(tmp_path / "free")))
    rows, numbers = mine(
        planted,
        model_directory,
        Folder(str(tmp_path / "out")),
        negatives_per_query=3,
        reranker=Folder(str(directory)),
        veto_margin=0.9,
    )
    reranker = load_reranker(directory)
    vetoed = 0
    for key, row in free.items():
        texts = [*row["negatives"], row["positive"]]
        *scores, positive = reranker.score([row["query"]] * len(texts), texts, [None] * len(texts)).tolist()
        expected = [
            document
            for document, score in zip(row["negative_ids"], scores, strict=True)
            if score < 0.9 * positive
        ]
        assert rows[key]["negative_ids"] == expected[:3]
        vetoed += row["negative_ids"].index(expected[2]) - 2 if len(expected) > 2 else 0
    assert vetoed > 0
    assert numbers["share_veto"] > 0


def test_a_reranker_of_damaged_weights_is_refused(planted, model_directory, tmp_path):
    """It would veto nothing."""
    reranker = Folder(str(write_cross_encoder(tmp_path / "reranker", bias=float("nan"))))
    with pytest.raises(
        ValueError, match="reranker gives 5 of 5 pairs a score that is no number, the first with"
    ):
        mine(planted, model_directory, Folder(str(tmp_path / "out")), reranker=reranker)


def test_a_document_of_ten_megabytes_is_a_negative_or_a_copy_like_any_other(model_directory, tmp_path):
    text = ("w1 w2 w3 " + 990 * "z" + " ") * 10_500
    documents = {"long": (None, text), "copy": ("w9", text.upper()), "d0": (None, "w7 w8")}
    pairs = [pair("p0", "w7", "w7 w8", "q0", "d0"), pair("p1", "w1", text, "q1", "long")]
    given = corpus_of(tmp_path, documents, pairs)
    rows, _ = mine(given, model_directory, Folder(str(tmp_path / "out")), relative_margin=None)
    assert rows["p1"]["negative_ids"] == ["d0"]
    assert set(rows["p0"]["negative_ids"]) == {"long", "copy"}
    assert text in rows["p0"]["negatives"]


def corpus_of(tmp_path, documents, pairs, judgements=()):
    split, folder = Folder(str(tmp_path / "split")), Folder(str(tmp_path / "pairs"))
    write_corpus(split / "train", documents, [], judgements)
    folder.write_table("pairs.parquet", conform(pa.Table.from_pylist(pairs), PAIRS))
    return folder, split, documents, pairs


@pytest.mark.parametrize("copies", [1, 5])
def test_a_corpus_of_one_document_or_of_its_copies_gives_no_negative(model_directory, tmp_path, copies):
    documents = {f"d{row}": (None, "w1 w2 w3") for row in range(copies)}
    given = corpus_of(tmp_path, documents, [pair("p0", "w1", "w1 w2 w3", "q0", "d0")])
    rows, numbers = mine(given, model_directory, Folder(str(tmp_path / "out")))
    assert rows["p0"]["negative_ids"] == rows["p0"]["negatives"] == []
    assert numbers["share_without"] == numbers["share_short"] == 1
    assert numbers["negatives"] == 0
    assert "estimated_false_negative_rate" not in numbers


def test_one_of_several_copies_can_be_a_negative(model_directory, tmp_path):
    documents = {f"d{row}": (None, "w1 w2 w3") for row in range(5)} | {"d9": (None, "w7 w8")}
    given = corpus_of(tmp_path, documents, [pair("p0", "w1", "w7 w8", "q0", "d9")])
    rows, _ = mine(given, model_directory, Folder(str(tmp_path / "out")), relative_margin=None)
    assert rows["p0"]["negative_ids"] == ["d0"]


def test_two_documents_of_one_id_are_refused(planted, model_directory, tmp_path):
    split = planted[1]
    table = split.read_table("train/documents.parquet")
    both = pa.concat_tables([table, table.slice(3, 1)])
    split.write_table("train/documents.parquet", both)
    with pytest.raises(ValueError, match=r"document id 'd3' stands for rows 3 and 60"):
        mine(planted, model_directory, Folder(str(tmp_path / "out")))


def test_two_queries_of_one_id_have_each_others_positives_excluded(model_directory, tmp_path):
    documents = {f"d{row}": (None, f"w{row} w{row + 1}") for row in range(10)}
    pairs = [pair("p0", "w1", "w1 w2", "q0", "d1"), pair("p1", "w5", "w5 w6", "q0", "d5")]
    given = corpus_of(tmp_path, documents, pairs)
    rows, _ = mine(given, model_directory, Folder(str(tmp_path / "out")), relative_margin=None)
    for row in rows.values():
        assert set(row["negative_ids"]) == documents.keys() - {"d1", "d5"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "attention.self.query.weight",
            float("nan"),
            "weights that are not finite, the first of them in .*query",
        ),
        ("output.LayerNorm.weight", 3e38, "a vector that is not finite, the first is 'w"),
    ],
)
def test_a_model_of_damaged_weights_is_refused(planted, model_directory, tmp_path, name, value, message):
    embedder = Embedder.load(model_directory)
    with torch.no_grad():
        embedder.backbone.encoder.layer[1].get_parameter(name).view(-1)[0] = value
    embedder.save(tmp_path / "damaged")
    with pytest.raises(ValueError, match=message):
        mine(planted, tmp_path / "damaged", Folder(str(tmp_path / "out")))


def test_no_pairs_and_no_documents_are_refused(planted, model_directory, tmp_path):
    _, split, _, pairs = planted
    empty = Folder(str(tmp_path / "empty"))
    empty.write_table("pairs.parquet", PAIRS.empty_table())
    with pytest.raises(ValueError, match="there are no pairs"):
        mine((empty, split, {}, []), model_directory, Folder(str(tmp_path / "out")))
    nothing = corpus_of(tmp_path / "nothing", {}, pairs)
    with pytest.raises(ValueError, match="there are no training documents"):
        mine(nothing, model_directory, Folder(str(tmp_path / "out2")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives_per_query": 0}, "negatives_per_query must be at least 1"),
        ({"window": [5, 5]}, "window must be two ranks"),
        ({"relative_margin": 1.5}, "relative_margin must be above 0"),
        ({"absolute_margin": -0.1}, "absolute_margin must be 0 or above"),
        ({"near_copy_words": 0}, "near_copy_words must be above 0"),
        ({"near_copy_cosine": 2}, "near_copy_cosine must be above 0"),
        ({"exclude": ["positives"]}, "exclude names known_positives, copies, near_copies"),
        ({"sampling": "hard"}, "sampling must be 'top', 'random' or 'spread'"),
        ({"replace": "some"}, "replace must be 'all' or 'outgrown'"),
        ({"veto_margin": 0}, "veto_margin must be above 0"),
    ],
)
def test_refuses(planted, model_directory, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        mine(planted, model_directory, Folder(str(tmp_path / "out")), **changes)
