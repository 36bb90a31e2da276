"""Pairs of every kind: by hand on tables of a few rows, and on real sets against a plain reading of their files."""

import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.corpus.schema import PAIRS
from components.monitor import Silent
from components.pairs.sources import ordering, write
from components.pairs.sources.imports import import_pairs
from components.pairs.sources.kinds import KINDS
from components.pairs.sources.outside import Source, check_source, source_digests
from components.storage import Folder

DATA = Path(__file__).parents[5] / "shared" / "data"


def needs(name):
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"{name} is not in ../shared/data")


def lines(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def imported(tmp_path, source, kind, **settings):
    """Rows, rejected rows, numbers."""
    output = Folder(str(tmp_path / "pairs"))
    output.delete()
    numbers = import_pairs(source=str(source), kind=kind, output=output, monitor=Silent(), **settings)
    table = output.read_table("pairs.parquet")
    assert table.schema.equals(PAIRS)
    there = output.exists("rejected/rejected.parquet")
    rejected = output.read_table("rejected/rejected.parquet").to_pylist() if there else []
    assert numbers["rows_out"] == table.num_rows
    assert numbers["rows_in"] == table.num_rows + len(rejected)
    reasons = Counter(row["reason"] for row in rejected)
    assert {f"rejected_{name}": count for name, count in reasons.items()} == {
        name: count for name, count in numbers.items() if name.startswith("rejected_")
    }
    return table.to_pylist(), rejected, numbers


def written(tmp_path, rows, name="table.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def sides(rows):
    return {(row["query"], row["positive"]) for row in rows}


# ---- one kind after the other, by hand


def test_labelled_triples_in_jsonl_and_parquet(tmp_path):
    rows = [
        {"anchor": "q", "positive": "p", "negative": "n"},
        {"anchor": "q2", "positive": "p2", "negative": "p2 "},
        {"anchor": "", "positive": "p3", "negative": "n"},
        {"anchor": "q4", "positive": None, "negative": "n"},
        {"anchor": "same words", "positive": "same  words", "negative": "n"},
        {"anchor": "q", "positive": "p", "negative": "n"},
    ]
    path = written(tmp_path, rows)
    found, rejected, _ = imported(tmp_path, path, "labelled", instruction="Find", task="t", language="de")
    assert sides(found) == {("q", "p"), ("q2", "p2")}
    by_query = {row["query"]: row for row in found}
    assert by_query["q"]["negatives"] == ["n"]
    assert by_query["q2"]["negatives"] is None  # its only negative was the positive
    assert {(row["task"], row["instruction"], row["language"], row["origin"]) for row in found} == {
        ("t", "Find", "de", "labelled")
    }
    assert Counter(row["reason"] for row in rejected) == {"empty": 2, "query_is_positive": 1, "repeated": 1}
    Folder(str(tmp_path)).write_table("table.parquet", pa.Table.from_pylist(rows))
    assert (
        imported(
            tmp_path, tmp_path / "table.parquet", "labelled", instruction="Find", task="t", language="de"
        )[0]
        == found
    )


def test_the_negatives_of_triples_with_one_each_are_united(tmp_path, monkeypatch):
    """As most data sets of triples are written; the rows of a pair may stand far from one another."""
    rows = [
        {"anchor": f"q{n % 7}", "positive": f"p{n % 7}", "negative": f"n{n}", "negative_ids": f"i{n}"}
        for n in range(70)
    ]
    twice = {"negative": ["n7", "n7"], "negative_ids": ["i7", "i7"]}
    rows.append({"anchor": "q0", "positive": "p0"} | twice)
    path = written(tmp_path, rows)
    whole, rejected, _ = imported(tmp_path, path, "labelled")
    assert {row["query"]: set(row["negatives"]) for row in whole} == {
        f"q{pair}": {f"n{number}" for number in range(70) if number % 7 == pair} for pair in range(7)
    }
    assert all(len(row["negatives"]) == 10 for row in whole)
    assert all([f"i{text[1:]}" for text in row["negatives"]] == row["negative_ids"] for row in whole)
    assert Counter(row["reason"] for row in rejected) == {"repeated": 64}
    monkeypatch.setattr(write, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(ordering, "PART_ROWS", 10)
    assert imported(tmp_path, path, "labelled")[0] == whole


def test_negative_ids_of_another_number_cost_their_row(tmp_path):
    rows = [
        {"query": "q", "positive": "p", "negatives": ["n", "m"], "negative_ids": ["i"]},
        {"query": "q2", "positive": "p2", "negatives": "n", "negative_ids": "id of n"},
    ]
    found, rejected, _ = imported(tmp_path, written(tmp_path, rows), "labelled")
    assert [(row["query"], row["negative_ids"]) for row in found] == [("q2", ["id of n"])]
    assert [(row["query"], row["reason"]) for row in rejected] == [("q", "negative_ids_differ")]


def test_of_several_positives_each_is_a_pair(tmp_path):
    """As FlagEmbedding writes its files."""
    rows = [
        {"query": "q", "pos": ["p", "p2"], "neg": ["n", "m"], "positive_id": "of both"},
        {"query": "q2", "pos": [], "neg": ["n"]},
        {"query": "q3", "pos": ["p3"], "neg": ["n", "m"], "positive_id": "own"},
    ]
    found, rejected, _ = imported(tmp_path, written(tmp_path, rows), "labelled")
    assert sides(found) == {("q", "p"), ("q", "p2"), ("q3", "p3")}
    assert [row["negatives"] for row in found] == [["n", "m"]] * 3
    assert len({row["positive_id"] for row in found} - {"of both"}) == 3
    assert [row["positive_id"] for row in found if row["query"] == "q3"] == ["own"]
    assert len({row["query_id"] for row in found if row["query"] == "q"}) == 1
    assert [row["reason"] for row in rejected] == ["empty"]


def test_scores_below_the_least_or_none_are_turned_away(tmp_path):
    rows = [
        {"sentence1": f"a{n}", "sentence2": f"b{n}", "score": score}
        for n, score in enumerate([5, 3.5, 3.49, float("nan"), None, "high", "4"])
    ]
    path = written(tmp_path, rows)
    found, rejected, _ = imported(tmp_path, path, "labelled", options={"min_score": 3.5})
    assert {(row["query"], row["score"]) for row in found} == {("a0", 5.0), ("a1", 3.5), ("a6", 4.0)}
    assert {row["query"]: row["reason"] for row in rejected} == {
        "a2": "below_min_score", "a3": "score_is_nan", "a4": "no_score", "a5": "score_is_no_number",
    }  # fmt: skip


def test_nli_groups_a_premise_with_what_it_entails_and_what_contradicts_it(tmp_path):
    rows = [
        {"premise": "p1", "hypothesis": "e1", "label": 0},
        {"premise": "p2", "hypothesis": "c3", "label": "contradiction"},
        {"premise": "p1", "hypothesis": "c1", "label": 2},
        {"premise": "p1", "hypothesis": "e2", "label": "Entailment"},
        {"premise": "p1", "hypothesis": "n1", "label": 1},
        {"premise": "p1", "hypothesis": "c2", "label": 2},
        {"premise": "p3", "hypothesis": "x", "label": -1},
        {"premise": "p3", "hypothesis": "e3", "label": 0},
    ]
    found, rejected, _ = imported(tmp_path, written(tmp_path, rows), "nli")
    assert {(r["query"], r["positive"], tuple(sorted(r["negatives"] or ()))) for r in found} == {
        ("p1", "e1", ("c1", "c2")), ("p1", "e2", ("c1", "c2")), ("p3", "e3", ()),
    }  # fmt: skip
    assert {(row["positive"], row["reason"]) for row in rejected} == {
        ("n1", "neutral"), ("c3", "no_entailment"), ("x", "no_label"),
    }  # fmt: skip


def test_answers_comments_and_translations_are_two_sides(tmp_path):
    path = written(tmp_path, [{"question": "q", "answers": ["a", "b", ""], "id": 7}])
    found, rejected, _ = imported(tmp_path, path, "question_answer")
    assert sides(found) == {("q", "a"), ("q", "b")}
    assert [row["reason"] for row in rejected] == ["empty"]
    path = written(tmp_path, [{"question": "q", "answers": {"text": ["a"], "answer_start": [3]}}])
    found, _, _ = imported(tmp_path, path, "question_answer", columns={"positive": "answers.text"})
    assert sides(found) == {("q", "a")}
    path = written(tmp_path, [{"body": "post", "comments": ["c", "c"]}])
    found, rejected, _ = imported(tmp_path, path, "body_comment")
    assert sides(found) == {("post", "c")}
    path = written(
        tmp_path, [{"translation": {"de": "Haus", "en": "house"}}, {"translation": {"de": "OK", "en": "OK"}}]
    )
    found, rejected, _ = imported(
        tmp_path, path, "translation", columns={"query": "translation.de", "positive": "translation.en"}
    )
    assert sides(found) == {("Haus", "house")}
    assert [row["reason"] for row in rejected] == ["query_is_positive"]
    assert found[0]["task"] == "bitext"


def test_neighbours_are_passages_one_after_the_other(tmp_path):
    sentences = [f"This is sentence number {number} of a text." for number in range(30)]
    text = " ".join(sentences)
    path = written(tmp_path, [{"text": text}, {"text": "Short."}, {"text": "x" * 250}, {"text": None}])
    found, rejected, _ = imported(tmp_path, path, "neighbours", options={"passage_characters": 100})
    following = {row["query"]: row["positive"] for row in found if row["query"].startswith("This")}
    start = next(iter(set(following) - set(following.values())))
    whole = [start]
    while whole[-1] in following:
        whole.append(following[whole[-1]])
    assert " ".join(whole) == text
    assert all(len(passage) <= 100 and passage.endswith(".") for passage in whole)
    assert sides(found) - set(following.items()) == {("x" * 100, "x" * 50)}  # x100 to itself is no pair
    assert Counter(row["reason"] for row in rejected) == {"one_passage": 2, "query_is_positive": 1}


@pytest.mark.timeout(120)
def test_a_document_of_ten_megabytes_has_its_neighbours(tmp_path):
    """In seconds: what is left of a text is not copied for each passage of it."""
    text = " ".join(f"This is sentence {number}." for number in range(450_000))
    path = written(tmp_path, [{"text": text}])
    _, _, numbers = imported(tmp_path, path, "neighbours", options={"passage_characters": 400})
    assert len(text) > 10_000_000
    assert len(text) / 401 - 1 <= numbers["rows_out"] <= len(text) / 350


def test_same_text_may_be_equal_on_both_sides(tmp_path):
    path = written(tmp_path, [{"text": "a", "_id": "1"}, {"text": "b"}, {"text": " "}])
    found, rejected, _ = imported(tmp_path, path, "same_text")
    assert sides(found) == {("a", "a"), ("b", "b")}
    assert {row["positive_id"] for row in found} >= {"1"}
    assert [row["reason"] for row in rejected] == ["empty"]


def test_class_labels(tmp_path):
    rows = [
        {"text": "t1", "label": "lost_card"}, {"text": "t2", "label": "lost_card"}, {"text": "t3", "label": "top_up"},
        {"text": "t4", "label": "refund"}, {"text": "t5", "label": None}, {"text": "t2", "label": "lost_card"},
        {"text": "t6", "label": "lost_card"},
    ]  # fmt: skip
    path = written(tmp_path, rows)
    found, rejected, _ = imported(tmp_path, path, "class_label", options={"negatives": 9})
    assert sides(found) >= {("t1", "lost card"), ("t3", "top up")}
    for row in found:
        assert {row["positive"], *row["negatives"]} == {"lost card", "top up", "refund"}
    one_each = imported(tmp_path, path, "class_label", options={"negatives": 1})[0]
    assert all(len(row["negatives"]) == 1 and row["negatives"][0] != row["positive"] for row in one_each)
    words = {"lost_card": "I lost my card", "top_up": "Adding money", "refund": "Money back"}
    told = imported(tmp_path, path, "class_label", options={"label_texts": words})[0]
    assert {row["positive"] for row in told} == set(words.values())
    with pytest.raises(ValueError, match="`label_texts` lacks 1 labels, the first is 'refund'"):
        imported(tmp_path, path, "class_label", options={"label_texts": {"lost_card": "x", "top_up": "y"}})

    found, rejected, _ = imported(tmp_path, path, "same_class")
    cycle = dict(sides(found))
    assert cycle.keys() == set(cycle.values()) == {"t1", "t2", "t6"}  # each asks once and answers once
    assert len({row["query_id"] for row in found} | {row["positive_id"] for row in found}) == 1
    assert Counter(row["reason"] for row in rejected) == {"alone_in_class": 2, "no_label": 1, "repeated": 1}


# ---- what holds for all


ROWS = {
    "labelled": {"query": "abc", "positive": "xyz", "negative": "no"},
    "title_body": {"title": "abc", "text": "xyz"},
    "neighbours": {"text": "abc xyz"},
    "same_text": {"text": "abc"},
    "nli": {"premise": "ab", "hypothesis": "xyz", "label": "012"},
    "body_comment": {"body": "abc", "comment": "xyz"},
    "question_answer": {"question": "abc", "answer": "xyz"},
    "translation": {"source": "abc", "target": "xyz"},
    "class_label": {"text": "abc", "label": "xy"},
    "same_class": {"text": "abc", "label": "xy"},
}
"""Letters that each column is made of."""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_same_rows_in_any_order_give_the_same_pairs(kind, data, tmp_path):
    row = st.fixed_dictionaries({name: st.text(letters, max_size=4) for name, letters in ROWS[kind].items()})
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    seed = data.draw(st.integers(0, 3))
    limit = data.draw(st.none() | st.integers(1, 4))
    options = {"passage_characters": 2} if kind == "neighbours" else {}
    found = []
    for order in (rows, random.Random(seed).sample(rows, len(rows))):
        path = written(tmp_path, order)
        try:
            found.append(imported(tmp_path, path, kind, options=options, seed=seed, limit=limit)[0])
        except ValueError as error:
            assert "no pair of kind" in str(error)  # noqa: PT017
            found.append([])
    assert found[0] == found[1]
    ids = [row["pair_id"] for row in found[0]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("labeled", {}, r"kind 'labeled' is no kind of pairs; the kinds are labelled, title_body"),
        ("labelled", {"options": {"least": 1}}, r"kind labelled has no option 'least'; its options are: min_score"),
        ("labelled", {"columns": {"anchor": "a"}}, r"kind labelled reads no 'anchor'; it reads query, positive"),
        (
            "labelled",
            {"columns": {"query": "a", "positive": "c"}},
            r"has no column 'c', which `columns` names for positive; it has a, b",
        ),
        (
            "labelled",
            {"columns": {"query": "a", "positive": "b", "score": "s"}},
            r"no row has the column 's', which `columns` names for score",
        ),
        ("labelled", {}, r"has no column for query of kind labelled \(one of query, .*\); it has a, b: say in"),
        ("same_text", {"columns": {"text": "n"}}, r"table\.jsonl:1: `n` is int, it must be a string"),
        ("neighbours", {"options": {"passage_characters": 0}}, r"`passage_characters` of kind neighbours is 0: .*to 1"),
        ("labelled", {"options": {"min_score": "0.5"}}, r"`min_score` of kind labelled is '0\.5': .*valid number"),
        ("labelled", {"options": {"min_score": float("nan")}}, r"option `min_score` of kind labelled is nan: .*finite"),
        ("class_label", {"options": {"negatives": -1}}, r"`negatives` of kind class_label is -1: .*or equal to 0"),
        ("nli", {"options": {"labels": "entailment"}}, r"option `labels` of kind nli is 'entailment'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, kind, given, message):
    row = {"a": "text", "b": "text too"} if "n" not in given.get("columns", {}).values() else {"n": 3}
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, written(tmp_path, [row]), kind, **given)


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        imported(tmp_path, tmp_path / "nowhere.jsonl", "labelled")
    with pytest.raises(ValueError, match=r"no pair of kind labelled is left of .*: it holds no row"):
        imported(tmp_path, written(tmp_path, []), "labelled")
    with pytest.raises(ValueError, match="holds no row"):
        check_source(Source(str(written(tmp_path, [])), None, "train"), "labelled", {})
    with pytest.raises(ValueError, match=r"no pair of kind labelled is left of .*: 1 empty"):
        imported(tmp_path, written(tmp_path, [{"query": "", "positive": "p"}]), "labelled")


def test_a_judgement_of_what_is_not_there_is_turned_away(tmp_path):
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    written(beir, [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two"}], "corpus.jsonl")
    written(beir, [{"_id": "q1", "text": "which"}], "queries.jsonl")
    judged = "q1\td1\t2\nq1\td2\t0\nq1\tgone\t1\nq9\td2\t2\n"
    (beir / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    found, rejected, _ = imported(tmp_path, beir, "labelled")
    assert [(r["query"], r["positive"], r["query_id"], r["positive_id"]) for r in found] == [
        ("which", "T one", "q1", "d1")
    ]
    assert [row["score"] for row in found] == [2.0]
    assert {row["reason"] for row in rejected} == {"not_relevant", "no_such_document", "no_such_query"}
    graded, rejected, _ = imported(tmp_path, beir, "labelled", options={"min_score": 2})
    assert graded == found
    assert {row["positive_id"]: row["reason"] for row in rejected}["gone"] == "no_such_document"
    with pytest.raises(ValueError, match=r"has no qrels/dev\.tsv; its splits are train"):
        imported(tmp_path, beir, "labelled", split="dev")
    assert source_digests(Source(str(beir), None, "train"), "labelled").keys() == {
        "beir/corpus.jsonl", "beir/queries.jsonl", "beir/qrels/train.tsv",
    }  # fmt: skip
    titles, _, _ = imported(tmp_path, beir, "title_body", split="none")
    assert sides(titles) == {("T", "one")}
    assert source_digests(Source(str(beir), None, "none"), "title_body").keys() == {"beir/corpus.jsonl"}


# ---- data sets of the hub, from a directory in its layout


@pytest.fixture
def hub_directory(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["contradiction", "entailment", "neutral"]),
        }
    )
    rows = {"premise": ["p", "p", "p", "p"], "hypothesis": ["c", "e", "n", "u"], "label": [0, 1, 2, -1]}
    directory = tmp_path / "set"
    directory.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(directory / "train.parquet")
    return directory


def test_class_names_of_a_hub_set_are_read(hub_directory, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found, rejected, _ = imported(tmp_path, f"hub://{hub_directory}", "nli")
    assert [(row["query"], row["positive"], row["negatives"]) for row in found] == [("p", "e", ["c"])]
    assert {(row["positive"], row["reason"]) for row in rejected} == {("n", "neutral"), ("u", "no_label")}
    with pytest.raises(ValueError, match=r"hub://.*/set cannot be read: .*test"):
        imported(tmp_path, f"hub://{hub_directory}", "nli", split="test")
    (digest,) = source_digests(Source(f"hub://{hub_directory}", None, "train"), "nli").values()
    (hub_directory / "train.parquet").write_bytes(b"other")
    assert source_digests(Source(f"hub://{hub_directory}", None, "train"), "nli") != {
        f"hub://{hub_directory}": digest
    }


def test_a_commit_is_its_own_digest():
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert source_digests(Source(f"hub://somebody/set@{commit}", None, "train"), "nli") == {
        "hub://somebody/set": commit
    }


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from components.monitor import Silent\n"
        "from components.pairs.sources.imports import import_pairs\n"
        "from components.storage import Folder\n"
        f"import_pairs(source='hub://a/b', kind='nli', output=Folder({str(tmp_path)!r}), monitor=Silent())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "ValueError: hub://a/b: data sets of the hub need the package `datasets`; install embedloom[hub]"
    )


# ---- real sets


@needs("banking77")
def test_banking77_as_labels_and_as_classmates(tmp_path):
    source = DATA / "banking77" / "train.jsonl"
    raw = lines(source)
    found, _, _ = imported(tmp_path, source, "class_label", options={"negatives": 5}, limit=500)
    expected = {(row["text"], row["label"].replace("_", " ")) for row in raw}
    labels = {label for _, label in expected}
    assert len(found) == 500
    assert sides(found) <= expected
    assert all(set(row["negatives"]) <= labels - {row["positive"]} for row in found)
    assert all(len(set(row["negatives"])) == 5 for row in found)
    found, rejected, _ = imported(tmp_path, source, "same_class")
    label_of = {row["text"]: row["label"] for row in raw}
    assert len(label_of) == len(found)
    assert all(label_of[row["query"]] == label_of[row["positive"]] for row in found)
    assert {row["positive"] for row in found} == set(label_of)
    assert len(found) + len(rejected) == len(raw)


@needs("tatoeba")
def test_tatoeba_as_translations(tmp_path):
    source = DATA / "tatoeba" / "cmn-eng.jsonl"
    found, rejected, _ = imported(tmp_path, source, "translation", language="zh")
    expected = {(row["sentence1"], row["sentence2"]) for row in lines(source)}
    assert sides(found) == expected
    assert {row["language"] for row in found} == {"zh"}
    assert {row["reason"] for row in rejected} <= {"repeated"}
    turned = {"query": "sentence2", "positive": "sentence1"}
    back, _, _ = imported(tmp_path, source, "translation", columns=turned)
    assert {(positive, query) for query, positive in sides(back)} == expected


@needs("jsts")
def test_jsts_above_a_score(tmp_path):
    source = DATA / "jsts" / "valid.jsonl"
    found, _, numbers = imported(tmp_path, source, "labelled", options={"min_score": 4.0}, task="similarity")
    expected = {(r["sentence1"], r["sentence2"]) for r in lines(source) if r["score"] >= 4}
    unlike = {(query, positive) for query, positive in expected if query.split() != positive.split()}
    assert sides(found) == unlike
    assert all(row["score"] >= 4 for row in found)
    assert numbers["rejected_below_min_score"] == sum(r["score"] < 4 for r in lines(source))


@needs("tldr")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_tldr_as_title_and_body_and_as_neighbours(tmp_path, language):
    source = DATA / "tldr" / f"corpus.{language}.jsonl.gz"
    found, _, _ = imported(tmp_path, source, "title_body")
    raw = lines(source)
    assert sides(found) == {(row["title"], row["text"]) for row in raw}
    assert {row["language"] for row in found} == {language}  # the rows name it
    assert {row["positive_id"] for row in found} <= {row["_id"] for row in raw}
    found, _, _ = imported(tmp_path, source, "neighbours", options={"passage_characters": 80}, limit=200)
    texts = {row["text"] for row in raw}
    for row in found:
        assert any(row["query"] in text and row["positive"] in text for text in texts)


@needs("medquad-nih")
@pytest.mark.parametrize("name", ["medquad-nih", "scifact"])
def test_training_judgements_of_a_beir_folder(tmp_path, name):
    folder = DATA / name
    found, rejected, _ = imported(tmp_path, folder, "labelled")
    documents = {
        row["_id"]: f"{row['title']} {row['text']}".split() for row in lines(folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in lines(folder / "queries.jsonl")}
    judged = [line.split("\t")[:2] for line in (folder / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    expected = {(queries[query], tuple(documents[document])) for query, document in judged}
    assert {(query, tuple(positive.split())) for query, positive in sides(found)} == expected
    assert {(row["query_id"], row["positive_id"]) for row in found} <= {tuple(pair) for pair in judged}
    assert len(found) + len(rejected) == len(judged)
    assert {row["reason"] for row in rejected} <= {"repeated"}


@needs("xquad-zh2en")
def test_xquad_questions_and_their_paragraphs(tmp_path):
    found, _, numbers = imported(tmp_path, DATA / "xquad-zh2en", "labelled", split="test", language="zh")
    assert numbers["rows_in"] == 1190
    assert numbers["rejected_repeated"] == 9  # asked twice in the same words
    bodies = {row["text"] for row in lines(DATA / "xquad-zh2en" / "corpus.jsonl")}
    assert all(any(row["positive"].endswith(body) for body in bodies) for row in found[:50])
