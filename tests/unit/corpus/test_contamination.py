import json
import random

import pyarrow as pa
import pytest
from corpus_tables import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from components.corpus.contamination import (
    evaluation_digests,
    remove_contaminated_documents,
    remove_contaminated_pairs,
)
from components.corpus.overlap import OverlapIndexBuilder, ngram_hashes
from components.corpus.schema import PAIRS
from components.corpus.words import normalise, words
from components.monitor import Silent
from components.storage import Folder

WORDS = [f"word{i}" for i in range(2000)]
SETTINGS = {"ngram": 13, "share": 0.3, "parts": ["queries", "relevant"], "monitor": Silent()}


def prose(seed, length=100):
    return random.Random(seed).sample(WORDS, length)


def text(seed, length=100):
    return " ".join(prose(seed, length))


def beir(folder, documents, queries, judgements):
    """judgements: split -> (query id, document id)."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": key, "title": title, "text": body} for key, (title, body) in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": key, "text": body} for key, body in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, pairs in judgements.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{document}\t1" for query, document in pairs)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture
def biology(tmp_path):
    return beir(
        tmp_path / "biology",
        {"e1": ("Cells", text(1)), "e2": ("", text(2)), "e3": ("", text(3))},
        {"q1": "what is a cell", "q2": text(4, 20), "q3": "who trains"},
        {"test": [("q1", "e1"), ("q2", "e1")], "train": [("q3", "e2")]},
    )


def clean(tmp_path, documents, evaluation_sets=(), name="out", queries=(), qrels=(), **settings):
    corpus = write_corpus(Folder(str(tmp_path / f"{name}-in")), documents, queries, qrels)
    output = Folder(str(tmp_path / name))
    numbers = remove_contaminated_documents(
        documents=corpus, evaluation_sets=evaluation_sets, output=output, **(SETTINGS | settings)
    )
    kept = output.read_table("documents.parquet")["document_id"].to_pylist()
    there = output.exists("rejected/documents.parquet")
    rejected = output.read_table("rejected/documents.parquet").to_pylist() if there else []
    return kept, {row["document_id"]: (row["reason"], row["detail"]) for row in rejected}, numbers, output


def test_documents_that_hold_evaluated_text_go_with_set_and_words(tmp_path, biology):
    half = [*prose(1)[30:80], *prose(90, 50)]
    documents = {
        "copy": ("Other title", text(1).upper()),
        "half": (None, " ".join(half)),
        "little": (None, " ".join([*prose(1)[:25], *prose(91, 150)])),
        "long": (None, " ".join([*prose(92, 1500), *prose(1), *prose(93, 400)])),
        "asks": (None, f"{text(94)} {text(4, 20)}"),
        "clean": (None, text(95)),
        "not relevant": (None, text(3)),
    }
    kept, rejected, numbers, _ = clean(tmp_path, documents, [biology])
    assert kept == ["little", "clean", "not relevant"]
    assert {reason for reason, _ in rejected.values()} == {"overlap_biology"}
    assert rejected["copy"][1] == f"biology 0.99: {' '.join(prose(1)[:13])}"  # one n-gram begins in the title
    assert rejected["half"][1].endswith(": " + " ".join(prose(1)[30:43]))
    assert rejected["long"][1].startswith("biology 0.99: ")
    assert rejected["asks"][1].endswith(": " + " ".join(prose(4, 20)[:13]))
    assert numbers["rejected_overlap_biology"] == numbers["overlapping_biology"] == 4
    assert (numbers["rows_in"], numbers["rows_out"]) == (7, 3)


def test_a_split_and_several_sets_are_reported_each(tmp_path, biology):
    other = beir(tmp_path / "other", {"e": ("", text(5))}, {"q": text(6, 30)}, {"dev": [("q", "e")]})
    unused = beir(tmp_path / "unused", {"e": ("", text(7))}, {"q": text(8, 30)}, {"dev": [("q", "e")]})
    documents = {"both": (None, f"{text(1)} {text(5)}"), "train": (None, text(2)), "clean": (None, text(9))}
    kept, rejected, numbers, _ = clean(tmp_path, documents, [f"{biology}#test", other, unused])
    assert kept == ["train", "clean"]
    assert rejected["both"][0] == "overlap_biology.test"
    assert "biology.test" in rejected["both"][1]
    assert "other 1.00" in rejected["both"][1]
    assert [numbers[f"overlapping_{name}"] for name in ("biology.test", "other", "unused")] == [1, 1, 0]
    assert numbers["rejected_overlap_biology.test"] == 1


def test_the_evaluation_side_of_a_split(tmp_path):
    split = Folder(str(tmp_path / "split"))
    write_corpus(
        split / "evaluation",
        {"e": ("T", text(1)), "distractor": (None, text(2))},
        queries=[("q", "A short question?")],
        qrels=[("q", "e", "all")],
    )
    documents = {
        "e-again": (None, text(1)),
        "distractor-again": (None, text(2)),
        "asks": (None, "a SHORT  question?"),
        "asks more": (None, "a short question? And more"),
    }
    kept, rejected, _, _ = clean(tmp_path, documents, split=split)
    assert kept == ["distractor-again", "asks more"]
    assert rejected["asks"] == ("overlap_evaluation", "evaluation 1.00: a short question?")
    kept, _, _, _ = clean(tmp_path, documents, split=split, parts=["corpus"], name="corpus")
    assert kept == ["asks", "asks more"]


def test_labelled_queries_go_too_with_their_judgements(tmp_path, biology):
    documents = {"a": (None, text(20)), "b": (None, text(1)), "c": (None, text(21))}
    queries = [
        ("1", "What is a  CELL"),
        ("2", "where is it"),
        ("3", "of b alone"),
        ("4", f"{text(4, 20)} indeed"),
    ]
    qrels = [("1", "a", "all"), ("2", "c", "all"), ("3", "b", "all"), ("4", "a", "all")]
    kept, _, numbers, output = clean(tmp_path, documents, [biology], queries=queries, qrels=qrels)
    assert kept == ["a", "c"]
    assert output.read_table("queries.parquet")["query_id"].to_pylist() == ["2"]
    assert output.read_table("qrels.parquet")["query_id"].to_pylist() == ["2"]
    rejected = {row["query_id"]: row for row in output.read_table("rejected/queries.parquet").to_pylist()}
    assert {key: row["reason"] for key, row in rejected.items()} == {
        "1": "overlap_biology", "4": "overlap_biology", "3": "no_relevant_document",
    }  # fmt: skip
    assert rejected["1"]["detail"] == "biology 1.00: what is a cell"
    reasons = {
        row["query_id"]: row["reason"] for row in output.read_table("rejected/qrels.parquet").to_pylist()
    }
    assert reasons == {"1": "no_such_query", "4": "no_such_query", "3": "no_such_document"}
    assert numbers["overlapping_queries_biology"] == 2
    assert (numbers["queries"], numbers["qrels"]) == (1, 1)


def test_pairs(tmp_path, biology):
    texts = [
        ("new question", text(30)),
        ("What is a “cell”?", text(31)),
        ("another", f"Cells {text(1)}"),
        ("fine", text(32)),
    ]
    rows = [
        {"pair_id": str(n), "query": query, "positive": positive, "query_id": f"q{n}", "positive_id": f"d{n}",
         "negatives": [text(1)], "negative_ids": ["e1"], "task": "t", "language": "en", "origin": "labelled"}
        for n, (query, positive) in enumerate(texts)
    ]  # fmt: skip
    pairs, output = Folder(str(tmp_path / "pairs")), Folder(str(tmp_path / "out"))
    pairs.write_table("pairs.parquet", pa.Table.from_pylist(rows, schema=PAIRS))
    numbers = remove_contaminated_pairs(pairs=pairs, evaluation_sets=[biology], output=output, **SETTINGS)
    assert output.read_table("pairs.parquet").equals(pairs.read_table("pairs.parquet").take([0, 3]))
    rejected = output.read_table("rejected/pairs.parquet").to_pylist()
    assert [(row["pair_id"], row["reason"]) for row in rejected] == [
        ("1", "overlap_biology"),
        ("2", "overlap_biology"),
    ]
    assert (numbers["rows_in"], numbers["rows_out"], numbers["overlapping_biology"]) == (4, 2, 2)


def overlap_coefficient(a, b, ngram):
    def ngrams(text):
        found = words(text)
        return {tuple(found[i : i + ngram]) for i in range(len(found) - ngram + 1)}

    return len(ngrams(a) & ngrams(b)) / min(len(ngrams(a)), len(ngrams(b)))


few_words = st.lists(st.sampled_from(["a", "b", "c", "検索", "Straße", "b!", "…"]), max_size=12).map(" ".join)


@given(
    st.lists(st.tuples(st.integers(0, 2), few_words), max_size=12),
    few_words,
    st.sampled_from([0.01, 0.5, 1.0]),
)
@settings(max_examples=200)
def test_overlaps_are_those_of_sets_of_ngrams(evaluated, given_text, share):
    ngram = 3
    builder = OverlapIndexBuilder(ngram)
    for number in range(3):
        builder.add(str(number), [text for of, text in evaluated if of == number])
    found = {each.evaluation_set: each for each in builder.index().overlaps([given_text], share)}
    expected = {}
    for number, other in evaluated:
        shorter = min(len(words(given_text)), len(words(other)))
        if not normalise(given_text):
            continue
        if shorter < ngram:
            ours, theirs = (words(each) or normalise(each) for each in (given_text, other))
            score = 1.0 if ours == theirs else 0.0
        else:
            score = overlap_coefficient(given_text, other, ngram)
        if score >= share:
            expected[str(number)] = max(score, expected.get(str(number), 0))
    assert {name: pytest.approx(each.share) for name, each in found.items()} == expected
    for each in found.values():
        assert each.words in " ".join(words(given_text)) or each.words == normalise(given_text)


def test_ngrams_that_differ_in_a_word_have_other_hashes():
    spoken = [f"w{n}" for n in range(20_000)]
    hashes = ngram_hashes(spoken, 13)
    assert len(set(hashes.tolist())) == 20_000 - 12
    assert ngram_hashes(spoken[5:18], 13)[0] == hashes[5]
    assert ngram_hashes([*spoken[6:18], spoken[5]], 13)[0] != hashes[5]


def test_a_document_of_ten_megabytes(tmp_path, biology):
    long = " ".join(random.Random(0).choices(WORDS, k=1_300_000))
    assert len(long) > 9_900_000
    kept, rejected, _, _ = clean(
        tmp_path, {"clean": (None, long), "holds": (None, f"{long} {text(1)}")}, [biology]
    )
    assert kept == ["clean"]
    assert rejected["holds"][0] == "overlap_biology"


def test_texts_without_a_word(tmp_path):
    evaluated = beir(tmp_path / "set", {"e": ("", "???")}, {"q": "!!!"}, {"test": [("q", "e")]})
    documents = {"empty": (None, ""), "white": (None, " \n"), "marks": (None, "???"), "other": (None, "...")}
    kept, _, _, _ = clean(tmp_path, documents, [evaluated])
    assert kept == ["empty", "white", "other"]


def test_digests_are_of_the_files_that_count(biology):
    whole, test = evaluation_digests([biology]), evaluation_digests([f"{biology}#test"])
    assert set(test) == {
        f"biology.test/biology/{n}" for n in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    }
    assert len(whole) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation_sets": []}, "no evaluation set to compare with"),
        ({"evaluation_sets": ["{biology}#dev"]}, "has no split `dev`; there is test, train"),
        ({"evaluation_sets": ["{biology}", "{biology}/"]}, "two evaluation sets are called biology"),
        ({"evaluation_sets": ["{root}/nothing"]}, "does not exist"),
        ({"evaluation_sets": ["{biology}/qrels"]}, "is no BEIR folder"),
        ({"ngram": 0}, "`ngram` is 0"),
        ({"share": 0}, "`share` is 0"),
        ({"share": 1.5}, "`share` is 1.5"),
        ({"parts": ["answers"]}, "`parts` is"),
        ({"parts": []}, "`parts` is"),
    ],
)
def test_wrong_settings(tmp_path, biology, change, message):
    given_sets = change.pop("evaluation_sets", [biology])
    sets = [each.format(biology=biology, root=tmp_path) for each in given_sets]
    with pytest.raises(ValueError, match=message):
        clean(tmp_path, {"a": (None, "x")}, sets, **change)


def test_a_corpus_that_is_all_contaminated(tmp_path, biology):
    with pytest.raises(ValueError, match=r"nothing is left of the 1 rows .*rejected_overlap_biology"):
        clean(tmp_path, {"a": (None, text(1))}, [biology])
