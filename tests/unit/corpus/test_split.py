import random
from pathlib import Path

import pytest
from corpus_tables import write_corpus, write_groups
from hypothesis import given, settings
from hypothesis import strategies as st

from components.corpus import split as split_module
from components.corpus.duplicates import group_duplicates
from components.corpus.readers import read_documents
from components.corpus.split import split_documents
from components.corpus.words import normalise
from components.monitor import Silent
from components.storage import Folder

SCIFACT = Path(__file__).parents[4] / "shared" / "data" / "scifact"


def split(root, name="split", **changes):
    sizes = {
        "evaluation_queries": 5,
        "evaluation_documents": 10,
        "training_documents": None,
        "synthesis_documents": 3,
        "evaluation_split": None,
        "seed": 0,
    } | changes
    numbers = split_documents(
        documents=root / "documents",
        duplicates=root / "duplicates",
        output=root / name,
        monitor=Silent(),
        **sizes,
    )
    return contents(root / name), numbers


def contents(folder):
    found = {}
    for side in ("train", "evaluation"):
        found[side] = {
            "documents": folder.read_table(f"{side}/documents.parquet")["document_id"].to_pylist(),
            "queries": {
                row["query_id"]: row["text"]
                for row in folder.read_table(f"{side}/queries.parquet").to_pylist()
            },
            "qrels": [
                (row["query_id"], row["document_id"])
                for row in folder.read_table(f"{side}/qrels.parquet").to_pylist()
            ],
        }
    found["synthesis"] = folder.read_table("synthesis/documents.parquet")["document_id"].to_pylist()
    return found


@st.composite
def corpora(draw):
    """Documents in groups, and queries of which some share a text or have several relevant documents."""
    size = draw(st.integers(40, 80))
    ids = [f"d{i:02}" for i in range(size)]
    parent = {key: ids[draw(st.integers(max(0, i - 2), i)) if i % 5 else i] for i, key in enumerate(ids)}
    group_of = {}
    for key in ids:
        group_of[key] = group_of.get(parent[key], key)
    qrels = [(f"q{i:02}", ids[i]) for i in range(size)]
    qrels += [
        (f"q{draw(st.integers(0, size - 1)):02}", ids[draw(st.integers(0, size - 1))])
        for _ in range(draw(st.integers(0, 5)))
    ]
    texts = {f"q{i:02}": f"Query {i % (size - 4)}" for i in range(size)}
    return ids, group_of, sorted(set(qrels)), texts


@settings(max_examples=40)
@given(corpus=corpora(), seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_sides_share_no_group_and_no_query_in_any_order_of_rows(tmp_path_factory, corpus, seed, order):
    ids, group_of, qrels, texts = corpus
    found = []
    for shuffled in (False, True):
        if shuffled:
            ids, qrels = order.sample(ids, len(ids)), order.sample(qrels, len(qrels))
            group_of = {key: group_of[key] for key in ids}
        root = Folder(str(tmp_path_factory.mktemp("split")))
        write_corpus(
            root / "documents",
            {key: (None, f"Text {key}") for key in ids},
            texts.items(),
            [(query, document, "all") for query, document in qrels],
        )
        write_groups(root / "duplicates", group_of)
        found.append(split(root, seed=seed)[0])
    assert found[0] == found[1]

    train, evaluation = found[0]["train"], found[0]["evaluation"]
    train_groups = [group_of[key] for key in train["documents"]]
    evaluation_groups = {group_of[key] for key in evaluation["documents"]}
    assert not set(train_groups) & evaluation_groups
    assert len(train_groups) == len(set(train_groups))
    assert set(train_groups) | evaluation_groups == set(group_of.values())
    assert len(evaluation["documents"]) <= 10
    assert 1 <= len(evaluation["queries"]) <= 5
    assert set(found[0]["synthesis"]) <= set(train["documents"])

    # An evaluation query has all its answers in the evaluated corpus, and its text is never trained on.
    assert sorted(evaluation["qrels"]) == sorted(pair for pair in qrels if pair[0] in evaluation["queries"])
    assert {document for _, document in evaluation["qrels"]} <= set(evaluation["documents"])
    assert {document for _, document in train["qrels"]} <= set(train["documents"])
    assert not set(map(normalise, train["queries"].values())) & set(
        map(normalise, evaluation["queries"].values())
    )
    assert {query for query, _ in train["qrels"]} == train["queries"].keys()


def plain(root, size):
    ids = [f"d{i:04}" for i in range(size)]
    write_corpus(
        root / "documents",
        {key: (None, key) for key in ids},
        [(f"q{key}", f"About {key}") for key in ids],
        [(f"q{key}", key, "all") for key in ids],
    )
    write_groups(root / "duplicates", {key: key for key in ids})
    return root


def test_sizes_are_met_where_the_corpus_is_large_enough(tmp_path):
    root = plain(Folder(str(tmp_path)), 1000)
    found, numbers = split(
        root, evaluation_queries=40, evaluation_documents=200, training_documents=300, synthesis_documents=20
    )
    assert numbers["evaluation_documents"] == len(found["evaluation"]["documents"]) == 200
    assert numbers["evaluation_queries"] == len(found["evaluation"]["queries"]) == 40
    assert numbers["train_documents"] == numbers["train_pairs"] == 300
    assert numbers["synthesis_documents"] == 20


def test_a_small_corpus_gives_a_quarter(tmp_path):
    _, numbers = split(plain(Folder(str(tmp_path)), 40), evaluation_queries=400, evaluation_documents=3000)
    assert numbers["evaluation_documents"] == numbers["evaluation_queries"] == 10
    assert numbers["evaluation_documents_asked"] == 3000
    assert numbers["train_documents"] == 30


def test_more_documents_move_few_others(tmp_path):
    sizes = {"evaluation_queries": 20, "evaluation_documents": 100}
    before, _ = split(plain(Folder(str(tmp_path / "a")), 1000), **sizes)
    after, _ = split(plain(Folder(str(tmp_path / "b")), 1010), **sizes)
    assert len(set(before["evaluation"]["documents"]) - set(after["evaluation"]["documents"])) <= 10


def test_another_seed_holds_out_others(tmp_path):
    root = plain(Folder(str(tmp_path)), 400)
    one, two = (split(root, f"s{seed}", seed=seed)[0]["evaluation"]["documents"] for seed in (1, 2))
    assert one != two


def test_a_corpus_with_its_own_split_is_evaluated_whole(tmp_path):
    root = Folder(str(tmp_path))
    write_corpus(
        root / "documents",
        {key: (None, f"Text {key}") for key in "abcdef"},
        [("q1", "First"), ("q2", "Second"), ("q3", "Third"), ("q4", "  first")],
        [
            ("q1", "a", "test"),
            ("q2", "b", "train"),
            ("q2", "c", "train"),
            ("q3", "a", "train"),
            ("q4", "d", "train"),
        ],
    )
    write_groups(root / "duplicates", {"a": "a", "b": "a", "c": "c", "d": "d", "e": "d", "f": "f"})
    found, _ = split(root, evaluation_split="test")
    assert found["evaluation"]["documents"] == list("abcdef")
    assert found["evaluation"]["qrels"] == [("q1", "a")]
    # b is a near-copy of the answer a, e a copy of d, and q4 is q1 in other letters.
    assert found["train"]["documents"] == ["c", "d", "f"]
    assert found["train"]["qrels"] == [("q2", "c")]
    with pytest.raises(ValueError, match="`evaluation_split` is `dev`; there is test, train"):
        split(root, evaluation_split="dev")


@pytest.mark.skipif(not SCIFACT.is_dir(), reason="SciFact is not in ../shared/data")
def test_scifact_test_split_is_the_published_one(tmp_path):
    root = Folder(str(tmp_path))
    read_documents(
        sources=[str(SCIFACT)], language="en", min_characters=1, max_characters=None,
        output=root / "documents", monitor=Silent(),
    )  # fmt: skip
    group_duplicates(
        documents=root / "documents", threshold=0.7, num_permutations=32, ngram=3, seed=0,
        output=root / "duplicates", monitor=Silent(),
    )  # fmt: skip
    found, numbers = split(root, evaluation_split="test")
    assert (numbers["evaluation_documents"], numbers["evaluation_queries"], numbers["evaluation_pairs"]) == (
        5183, 300, 339,
    )  # fmt: skip
    published = {
        tuple(line.split("\t")[:2]) for line in (SCIFACT / "qrels" / "test.tsv").read_text().splitlines()[1:]
    }
    assert set(found["evaluation"]["qrels"]) == published
    assert not {document for _, document in published} & set(found["train"]["documents"])


def test_what_cannot_be_split_is_said_in_a_sentence(tmp_path):
    root = Folder(str(tmp_path))
    ids = [f"d{i}" for i in range(8)]
    write_corpus(root / "documents", {key: (None, key) for key in ids})
    write_groups(root / "duplicates", {key: key for key in ids})
    with pytest.raises(ValueError, match="no source has labelled queries"):
        split(root)
    root = plain(Folder(str(tmp_path / "tiny")), 3)
    with pytest.raises(ValueError, match="no query can be held out of 3 queries and 3 documents"):
        split(root)
    write_groups(root / "duplicates", {"other": "other"})
    with pytest.raises(ValueError, match="3 of the 3 documents stand in no group"):
        split(root)
    root = plain(Folder(str(tmp_path / "copies")), 40)
    write_groups(root / "duplicates", {f"d{i:04}": "d0000" for i in range(40)})
    with pytest.raises(
        ValueError, match=r"no query can be held out of 40 queries.*in whole groups of near-copies"
    ):
        split(root)
    with pytest.raises(ValueError, match="no query can be held out of 1 queries and 1 documents"):
        split(plain(Folder(str(tmp_path / "one")), 1))


def test_a_group_too_large_for_evaluation_goes_to_training(tmp_path):
    root = plain(Folder(str(tmp_path)), 60)
    ids = [f"d{i:04}" for i in range(60)]
    random.Random(0).shuffle(ids)
    large = set(ids[:30])
    write_groups(root / "duplicates", {key: min(large) if key in large else key for key in ids})
    found, numbers = split(root, evaluation_queries=10, evaluation_documents=15)
    assert not large & set(found["evaluation"]["documents"])
    assert numbers["train_copies_left_out"] == 29


def test_a_corpus_that_is_sorted_in_parts_is_split_as_in_one(tmp_path, monkeypatch):
    root = Folder(str(tmp_path))
    plain(root, 300)
    write_groups(root / "duplicates", {f"d{i:04}": f"d{i:04}" for i in range(300)})
    whole, _ = split(root, "whole")
    shuffled = random.Random(0).sample(range(300), 300)
    table = (root / "documents").read_table("documents.parquet").take(shuffled)
    (root / "documents").delete("documents.parquet")
    for shard in range(3):
        (root / "documents").write_table(f"documents.parquet/{shard}.parquet", table.slice(shard * 100, 100))
    monkeypatch.setattr(split_module, "SORTED_ROWS", 7)
    assert split(root, "parts")[0] == whole
    for name in ("train/documents.parquet", "evaluation/documents.parquet", "synthesis/documents.parquet"):
        assert (root / "parts").read_table(name).equals((root / "whole").read_table(name))


def test_of_a_group_whose_first_document_is_gone_the_next_is_trained_on(tmp_path):
    root = Folder(str(tmp_path))
    plain(root, 60)
    write_groups(
        root / "duplicates", {"a": "a"} | {f"d{i:04}": "a" if i < 5 else f"d{i:04}" for i in range(60)}
    )
    found, _ = split(root, evaluation_documents=4)
    assert [key for key in found["train"]["documents"] if key < "d0005"] == ["d0000"]
