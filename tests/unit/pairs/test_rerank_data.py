"""Labelled rows for a reranker: what is kept, what is turned away and why."""

import numpy as np
import pyarrow as pa
import pytest
from tiny_rerankers import write_cross_encoder, write_yes_no_model

from components.corpus.schema import PAIRS
from components.model.reranker import load_reranker
from components.monitor import Silent
from components.pairs.reranking import prepare_reranking
from components.storage import Folder


def row(number, query="how to sort", positive="sort it", negatives=(), negative_ids=None, **values):
    given = {
        "pair_id": f"p{number}", "query": query, "positive": positive, "query_id": f"id of {query}",
        "positive_id": f"id of {positive}", "negatives": list(negatives),
        "negative_ids": negative_ids if negative_ids is not None else [f"id of {each}" for each in negatives],
        "task": "t", "language": "en", "origin": "o",
    }  # fmt: skip
    return given | values


def prepare(tmp_path, rows, **settings):
    """Numbers, rows by pair, and reasons of rows and of negatives that were turned away."""
    source, output = Folder(str(tmp_path / "pairs")), Folder(str(tmp_path / "output"))
    source.write_table("pairs.parquet", pa.Table.from_pylist(rows, schema=PAIRS))
    numbers = prepare_reranking(
        pairs=source, output=output, monitor=Silent(), state=Folder(str(tmp_path / "state")), **settings
    )
    found = {each["pair_id"]: each for each in output.read_table("pairs.parquet").to_pylist()}

    def reasons(name, *columns):
        if not output.exists(f"rejected/{name}.parquet"):
            return set()
        rejected = output.read_table(f"rejected/{name}.parquet").to_pylist()
        return {tuple(each[column] for column in columns) for each in rejected}

    return (
        numbers,
        found,
        reasons("rejected", "pair_id", "reason"),
        reasons("negatives/negatives", "pair_id", "document", "reason"),
    )


def test_bad_rows_and_bad_negatives_are_turned_away_with_reasons(tmp_path):
    rows = [
        row(0, negatives=["an array", "sort it too", "an array", " ", "a tree"]),
        row(
            1,
            positive="sort it too",
            negatives=["another rendering", "a heap"],
            negative_ids=["id of sort it", ""],
        ),
        row(2, query=" ", negatives=["x"]),
        row(3, query="q", positive="", negatives=["x"]),
        row(4, query="alone", positive="the answer"),
    ]
    numbers, found, rejected, documents = prepare(tmp_path, rows)
    assert {name: each["negatives"] for name, each in found.items()} == {
        "p0": ["an array", "a tree"],
        "p1": ["a heap"],
        "p4": [],
    }
    assert found["p0"]["negative_ids"] == ["id of an array", "id of a tree"]
    assert rejected == {("p2", "empty_query"), ("p3", "empty_positive")}
    assert documents == {
        ("p0", "sort it too", "answers_the_query"),  # by its text
        ("p0", "an array", "repeated"),
        ("p0", " ", "empty"),
        ("p1", "another rendering", "answers_the_query"),  # by its id
    }
    assert numbers == {
        "rows_in": 5, "rows_out": 3, "rejected_empty_query": 1, "rejected_empty_positive": 1,
        "documents_yes": 3, "documents_no": 3, "rows_without_negatives": 1,
        "rejected_negative_answers_the_query": 2, "rejected_negative_repeated": 1, "rejected_negative_empty": 1,
    }  # fmt: skip


def test_as_many_of_yes_as_of_no(tmp_path):
    rows = [row(number, query=f"q{number}", negatives=["a", "b", "c"][: number % 4]) for number in range(8)]
    numbers, found, rejected, _ = prepare(
        tmp_path, rows, negatives_per_positive=1, keep_without_negatives=False
    )
    assert numbers["documents_yes"] == numbers["documents_no"] == 6
    assert all(each["negatives"] == ["a"] for each in found.values())  # the hardest
    assert rejected == {("p0", "no_negative"), ("p4", "no_negative")}


def test_labels_all_of_one_kind_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="every label is yes: none of 2 pairs has a negative"):
        prepare(tmp_path, [row(0), row(1, negatives=[" "])])


def test_no_pairs_and_wrong_numbers_are_errors(tmp_path):
    with pytest.raises(ValueError, match="there are no pairs"):
        prepare(tmp_path, [])
    with pytest.raises(ValueError, match="pair p0 has 2 negatives but 1 negative_ids"):
        prepare(tmp_path, [row(0, negatives=["a", "b"], negative_ids=["a"])])
    with pytest.raises(ValueError, match="negatives_per_positive is 0"):
        prepare(tmp_path, [row(0, negatives=["a"])], negatives_per_positive=0)


def test_a_teacher_scores_every_document(tmp_path):
    teacher = write_yes_no_model(tmp_path / "teacher")
    rows = [row(n, query=f"query {n}", negatives=["a", "bb", "ccc"][: n % 4]) for n in range(6)]
    _, found, _, _ = prepare(tmp_path, rows, teacher=Folder(str(teacher)))
    reranker = load_reranker(teacher)
    for each in found.values():
        documents = [each["positive"], *each["negatives"]]
        count = len(documents)
        score = reranker.score([each["query"]] * count, documents, [None] * count).astype(float)
        np.testing.assert_allclose(each["teacher_scores"], np.log(score / (1 - score)), atol=1e-4)


def test_a_teacher_of_damaged_weights_is_refused(tmp_path):
    teacher = Folder(str(write_cross_encoder(tmp_path / "teacher", bias=float("nan"))))
    with pytest.raises(ValueError, match="the teacher gives 2 of 2 pairs a score that is no number"):
        prepare(tmp_path, [row(0, negatives=["an array"])], teacher=teacher)
