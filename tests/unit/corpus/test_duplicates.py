import random

import pytest
from corpus_tables import write_corpus

from components.corpus.duplicates import group_duplicates
from components.corpus.words import normalise, shingles
from components.monitor import Silent
from components.storage import Folder

WORDS = [f"word{i}" for i in range(500)]
SETTINGS = {"threshold": 0.7, "num_permutations": 256, "ngram": 3, "seed": 0, "monitor": Silent()}


def jaccard(a, b):
    return len(a & b) / len(a | b)


def prose(seed, length=120):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def groups_of(tmp_path, texts, name="corpus", **settings):
    corpus = write_corpus(Folder(str(tmp_path / name)), {key: (None, text) for key, text in texts.items()})
    output = Folder(str(tmp_path / f"{name}-groups"))
    numbers = group_duplicates(documents=corpus, output=output, **(SETTINGS | settings))
    rows = output.read_table("groups.parquet").to_pylist()
    return {row["document_id"]: (row["group_id"], row["is_duplicate"]) for row in rows}, numbers


def test_planted_copies_are_found_and_strangers_are_not(tmp_path):
    texts = {f"d{seed:03}": prose(seed) for seed in range(100)}
    texts["x-exact"] = texts["d007"].upper().replace(" ", "  \n")
    words = texts["d011"].split()
    words[60] = "changed"  # one word of 120: 3 of 118 shingles
    texts["x-near"] = " ".join(words)
    texts["x-chained"] = " ".join([*words[:-1], "another"])
    words[::4] = ["other"] * len(words[::4])
    texts["x-far"] = " ".join(words)
    true = jaccard(set(shingles(texts["d011"], 3)), set(shingles(texts["x-near"], 3)))
    assert true > 0.9
    assert jaccard(set(shingles(texts["d011"], 3)), set(shingles(texts["x-far"], 3))) < 0.3

    groups, numbers = groups_of(tmp_path, texts)
    assert groups["x-exact"] == ("d007", True)
    assert groups["x-near"] == groups["x-chained"] == ("d011", True)
    assert groups["x-far"] == ("x-far", False)
    assert all(groups[key] == (key, False) for key in texts if key.startswith("d"))
    assert numbers["duplicates"] == 3
    assert numbers["largest_group"] == 3
    assert numbers["documents"] == 104


def test_groups_do_not_depend_on_the_order_of_rows(tmp_path):
    texts = {f"d{i:02}": prose(i // 2) + f" tail{i}" for i in range(40)}
    forward, _ = groups_of(tmp_path, texts)
    backward, _ = groups_of(tmp_path, dict(reversed(texts.items())), name="backward")
    assert forward == backward
    assert len({group for group, _ in forward.values()}) == 20


def test_equal_texts_under_two_titles_are_one_group(tmp_path):
    corpus = write_corpus(
        Folder(str(tmp_path / "c")), {"a": ("One", "Short body."), "b": ("Two", "short  Body.")}
    )
    numbers = group_duplicates(documents=corpus, output=Folder(str(tmp_path / "g")), **SETTINGS)
    assert numbers["groups"] == 1


def test_shingles():
    assert set(shingles("One two  three four", 3)) == {b"one two three", b"two three four"}
    assert set(shingles("One", 3)) == {b"one"}
    # Japanese has no spaces: its characters are its words.
    assert len(set(shingles("検索の評価", 2))) == 4
    assert normalise("Ｆｕｌｌ  width\n") == "full width"


def test_a_threshold_that_is_no_similarity(tmp_path):
    with pytest.raises(ValueError, match=r"`threshold` is 1\.5"):
        groups_of(tmp_path, {"a": "x"}, threshold=1.5)
    with pytest.raises(ValueError, match="`num_permutations` is 2, too few for a threshold"):
        groups_of(tmp_path, {"a": "x"}, threshold=0.95, num_permutations=2)


def test_a_threshold_of_one_links_equal_sets_only(tmp_path):
    text = prose(1)
    groups, _ = groups_of(tmp_path, {"a": text, "b": text + ".", "c": text + " tail"}, threshold=1.0)
    assert groups["b"] == ("a", True)
    assert groups["c"] == ("c", False)
