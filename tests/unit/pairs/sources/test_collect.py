from pathlib import Path

import pyarrow as pa
import pytest
from corpus_tables import write_corpus, write_groups

from components.corpus.readers import read_documents
from components.corpus.schema import PAIRS
from components.corpus.split import split_documents
from components.monitor import Silent
from components.pairs.sources.collect import collect_pairs
from components.storage import Folder

SCIFACT = Path(__file__).parents[5] / "shared" / "data" / "scifact"

DOCUMENTS = {
    "a": ("Alpha", "Text of alpha."),
    "b": (None, "Text of beta."),
    "c": ("Same words", " Same  words\n"),
    "d": ("Alpha", "Text of alpha."),
}


def collect(split, output, **changes):
    settings = {
        "kinds": ["title_body", "labelled"],
        "instruction": "Find it",
        "task": "retrieval",
        "limit_per_kind": None,
        "seed": 0,
    } | changes
    numbers = collect_pairs(split=split, output=output, monitor=Silent(), **settings)
    return output.read_table("pairs.parquet"), numbers


@pytest.fixture
def split(tmp_path):
    folder = Folder(str(tmp_path / "split"))
    write_corpus(
        folder / "train",
        DOCUMENTS,
        [("q1", "what is first"), ("q2", "Text of beta.")],
        [("q1", "a", "all"), ("q1", "b", "all"), ("q2", "b", "all")],
    )
    return folder


def test_both_kinds(split, tmp_path):
    table, numbers = collect(split, Folder(str(tmp_path / "pairs")))
    assert table.schema.equals(PAIRS)
    rows = {(row["origin"], row["query"], row["positive"], row["positive_id"]) for row in table.to_pylist()}
    assert rows == {
        ("title_body", "Alpha", "Text of alpha.", "a"),
        ("labelled", "what is first", "Alpha Text of alpha.", "a"),
        ("labelled", "what is first", "Text of beta.", "b"),
    }
    assert set(table["instruction"].to_pylist()) == {"Find it"}
    assert numbers == {
        "rows_in": 7, "rows_out": 3, "pairs_title_body": 1, "pairs_labelled": 2,
        "rejected_empty": 1, "rejected_query_is_positive": 2, "rejected_repeated": 1,
    }  # fmt: skip
    rejected = Folder(str(tmp_path / "pairs")).read_table("rejected/rejected.parquet").to_pylist()
    assert {(row["positive_id"], row["reason"]) for row in rejected} == {
        ("b", "empty"), ("b", "query_is_positive"), ("c", "query_is_positive"), ("d", "repeated"),
    }  # fmt: skip


def test_the_order_of_rows_does_not_show(split, tmp_path):
    table, _ = collect(split, Folder(str(tmp_path / "pairs")))
    other = Folder(str(tmp_path / "other"))
    write_corpus(
        other / "train",
        dict(reversed(DOCUMENTS.items())),
        [("q2", "Text of beta."), ("q1", "what is first")],
        [("q2", "b", "all"), ("q1", "b", "all"), ("q1", "a", "all")],
    )
    assert collect(other, Folder(str(tmp_path / "again")))[0].equals(table)


@pytest.mark.skipif(not SCIFACT.is_dir(), reason="SciFact is not in ../shared/data")
def test_scifact_pairs_are_training_judgements_only(tmp_path):
    root = Folder(str(tmp_path))
    read_documents(
        sources=[str(SCIFACT)], language="en", min_characters=1, max_characters=None,
        output=root / "documents", monitor=Silent(),
    )  # fmt: skip
    ids = (root / "documents").read_table("documents.parquet")["document_id"].to_pylist()
    write_groups(root / "duplicates", {document_id: document_id for document_id in ids})
    split_documents(
        documents=root / "documents", duplicates=root / "duplicates", evaluation_queries=1,
        evaluation_documents=1, training_documents=None, synthesis_documents=1, evaluation_split="test",
        seed=0,
        output=root / "split", monitor=Silent(),
    )  # fmt: skip
    table, _ = collect(root / "split", root / "pairs")
    labelled = [row for row in table.to_pylist() if row["origin"] == "labelled"]
    judged = {}
    for name in ("train", "test"):
        lines = (SCIFACT / "qrels" / f"{name}.tsv").read_text().splitlines()[1:]
        judged[name] = {tuple(line.split("\t")[:2]) for line in lines}
    answers = {document for _, document in judged["test"]}
    expected = {(query, document) for query, document in judged["train"] if document not in answers}
    found = {(row["query_id"], row["positive_id"]) for row in labelled}
    # SciFact repeats two claims word for word under two ids; their second pair is the first again.
    assert found <= expected
    assert len(expected) - len(found) == 2

    # A limit takes the first rows of the whole order: a sample that grows with it.
    small, numbers = collect(root / "split", root / "small", limit_per_kind=100)
    assert numbers["pairs_labelled"] == numbers["pairs_title_body"] == 100
    chosen = [row["pair_id"] for row in small.to_pylist() if row["origin"] == "labelled"]
    assert chosen == [row["pair_id"] for row in labelled][:100]
    other, _ = collect(root / "split", root / "other", limit_per_kind=100, seed=1)
    assert set(other["pair_id"].to_pylist()) != set(small["pair_id"].to_pylist())


def test_neighbours_and_same_text(split, tmp_path):
    table, numbers = collect(
        split, Folder(str(tmp_path / "pairs")), kinds=["same_text", "neighbours"], passage_characters=9
    )
    rows = {(row["origin"], row["query"], row["positive"]) for row in table.to_pylist()}
    texts = {text for _, text in DOCUMENTS.values()}
    assert {(query, positive) for origin, query, positive in rows if origin == "same_text"} == {
        (text, text) for text in texts
    }
    assert {(query, positive) for origin, query, positive in rows if origin == "neighbours"} == {
        ("Text of", "alpha."), ("Text of", "beta."), ("Same", "words"),
    }  # fmt: skip
    assert numbers["rejected_repeated"] == 2


def test_pairs_of_other_steps_are_added_as_they_are(split, tmp_path):
    pairs, _ = collect(split, Folder(str(tmp_path / "pairs")), kinds=["labelled"])
    other = Folder(str(tmp_path / "other"))
    for part in range(2):
        other.write_table(f"pairs.parquet/{part}.parquet", pairs.slice(part, 1))
    both, numbers = collect(
        split,
        Folder(str(tmp_path / "both")),
        kinds=["title_body"],
        labelled=other,
        synthetic=Folder(str(tmp_path / "pairs")),
    )
    assert both.slice(1).equals(pa.concat_tables([pairs, pairs]))
    assert (numbers["pairs_title_body"], numbers["pairs_labelled"], numbers["rows_out"]) == (1, 4, 5)
    alone, _ = collect(split, Folder(str(tmp_path / "alone")), kinds=[], labelled=other)
    assert alone.equals(pairs)


def test_a_judgement_without_its_document_is_turned_away(split, tmp_path):
    write_corpus(
        split / "train",
        {"a": DOCUMENTS["a"]},
        [("q1", "what is first")],
        [("q1", "a", "all"), ("q1", "gone", "all")],
    )
    table, numbers = collect(split, Folder(str(tmp_path / "pairs")), kinds=["labelled"])
    assert table.num_rows == 1
    assert numbers["rejected_no_such_document"] == 1


def test_bad_input_is_one_sentence(split, tmp_path):
    with pytest.raises(
        ValueError, match=r"`kinds` is \['titles'\]; it names one or more of title_body, labelled"
    ):
        collect(split, Folder(str(tmp_path / "x")), kinds=["titles"])
    bare = Folder(str(tmp_path / "bare"))
    write_corpus(bare / "train", {"a": (None, "No title.")})
    with pytest.raises(
        ValueError, match="no pair of kind title_body is left of 1 training documents: 1 rejected_empty"
    ):
        collect(bare, Folder(str(tmp_path / "y")), kinds=["title_body"])
