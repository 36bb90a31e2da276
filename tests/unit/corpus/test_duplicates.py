import random

import networkx as nx
import pyarrow as pa
import pytest
from corpus_tables import write_corpus, write_groups
from datasketch import MinHash, MinHashLSH

from components.corpus.duplicates import group_duplicates, remove_duplicates
from components.corpus.schema import DOCUMENTS, conform
from components.corpus.signatures import sign
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


def groups_by_datasketch(texts, threshold, num_permutations, ngram, seed):
    """The same links by datasketch's own index, over everything in memory."""
    graph = nx.Graph()
    first = {}
    index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=num_permutations, weights=(0.1, 0.9))
    signatures = {}
    for key in sorted(texts):
        graph.add_edge(first.setdefault(normalise(texts[key]), key), key)
        signatures[key] = MinHash(num_perm=num_permutations, seed=seed, scheme="affine32")
        signatures[key].update_batch(set(shingles(texts[key], ngram)))
        for candidate in index.query(signatures[key]):
            if signatures[key].jaccard(signatures[candidate]) >= threshold:
                graph.add_edge(candidate, key)
        index.insert(key, signatures[key])
    return {key: min(members) for members in nx.connected_components(graph) for key in members}


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_groups_are_those_of_datasketch(tmp_path, threshold):
    random_ = random.Random(3)
    texts = {}
    for number in range(60):
        body = prose(number, length=60).split()
        for copy in range(random_.choice([1, 1, 2, 5])):
            changed = [random_.choice(WORDS) if random_.random() < 0.02 * copy else word for word in body]
            texts[f"{random_.random():.6f}"] = " ".join(changed)
    settings = {"threshold": threshold, "num_permutations": 64, "ngram": 3, "seed": 5}
    found, numbers = groups_of(tmp_path, texts, **settings)
    expected = groups_by_datasketch(texts, **settings)
    assert {key: group for key, (group, _) in found.items()} == expected
    assert numbers["groups"] == len(set(expected.values())) < len(texts)
    assert numbers["links_exact"] + numbers["links_near"] == numbers["duplicates"]


def test_texts_without_a_word_are_no_copies_of_one_another(tmp_path):
    groups, _ = groups_of(tmp_path, {"a": "!!!", "b": "???", "c": "!!!", "d": "\N{GRINNING FACE}"})
    assert groups == {"a": ("a", False), "b": ("b", False), "c": ("a", True), "d": ("d", False)}


def test_documents_of_a_title_alone_are_told_by_it(tmp_path):
    corpus = write_corpus(
        Folder(str(tmp_path / "c")),
        {"a": ("One", ""), "b": ("Two", " \n"), "c": (" one ", "\t"), "d": (None, " ")},
    )
    output = Folder(str(tmp_path / "g"))
    group_duplicates(documents=corpus, output=output, **SETTINGS)
    found = output.read_table("groups.parquet").to_pylist()
    assert [row["group_id"] for row in found] == ["a", "b", "a", "d"]


def test_a_corpus_of_one_document_and_one_of_duplicates_only(tmp_path):
    groups, numbers = groups_of(tmp_path, {"only": prose(0)})
    assert groups == {"only": ("only", False)}
    assert numbers["largest_group"] == 1
    texts = {f"{number:03}": prose(0) for number in range(300)}
    groups, numbers = groups_of(tmp_path, texts, name="copies")
    assert {group for group, _ in groups.values()} == {"000"}
    assert numbers["groups"] == 1


def test_no_document_and_ids_that_collide(tmp_path):
    with pytest.raises(ValueError, match="holds no document"):
        groups_of(tmp_path, {})
    rows = [{"document_id": key, "text": prose(n), "title": None} for n, key in enumerate("abca")]
    table = conform(
        pa.Table.from_pylist([row | {"language": "en", "source": "test"} for row in rows], schema=DOCUMENTS),
        DOCUMENTS,
    )
    corpus = Folder(str(tmp_path / "colliding"))
    corpus.write_table("documents.parquet", table)
    with pytest.raises(ValueError, match="document id `a` more than once"):
        group_duplicates(documents=corpus, output=Folder(str(tmp_path / "g")), **SETTINGS)


def test_a_document_of_ten_megabytes(tmp_path):
    """Its signature is the one that all its shingles have at once, however many parts they come in."""
    rng = random.Random(0)
    long = " ".join(rng.choices(WORDS, k=1_500_000))
    assert len(long) > 10_000_000
    groups, _ = groups_of(
        tmp_path, {"long": long, "nearly": long + " one more", "short": prose(1)}, num_permutations=64
    )
    assert groups["nearly"] == ("long", True)
    assert groups["short"] == ("short", False)
    whole = MinHash(num_perm=16, seed=0, scheme="affine32")
    whole.update_batch(set(shingles(long[:400_000], 3)))
    assert (sign([long[:400_000]], 16, 3, 0)[0] == whole.hashvalues).all()


def removed(tmp_path, corpus, name="kept"):
    groups, output = Folder(str(tmp_path / f"{name}-groups")), Folder(str(tmp_path / name))
    group_duplicates(documents=corpus, output=groups, **SETTINGS)
    return output, remove_duplicates(documents=corpus, duplicates=groups, output=output, monitor=Silent())


def test_one_document_of_a_group_stays_with_the_judgements_of_its_copies(tmp_path):
    documents = {"b": ("T", prose(1)), "a": ("T", prose(1).upper()), "c": (None, prose(2))}
    corpus = write_corpus(
        Folder(str(tmp_path / "c")),
        documents,
        queries=[("1", "one"), ("2", "two"), ("3", "three")],
        qrels=[("1", "b", "all"), ("2", "a", "all"), ("2", "b", "all"), ("3", "c", "all")],
    )
    output, numbers = removed(tmp_path, corpus)
    assert output.read_table("documents.parquet")["document_id"].to_pylist() == ["a", "c"]
    [row] = output.read_table("rejected/documents.parquet").to_pylist()
    assert (row["document_id"], row["reason"], row["detail"]) == ("b", "duplicate", "a")
    qrels = [(row["query_id"], row["document_id"]) for row in output.read_table("qrels.parquet").to_pylist()]
    assert qrels == [("1", "a"), ("2", "a"), ("3", "c")]
    assert output.read_table("queries.parquet").equals(corpus.read_table("queries.parquet"))
    del numbers["rows_per_second"]
    assert numbers == {
        "rows_in": 3, "rows_out": 2, "rejected_duplicate": 1, "queries": 3, "qrels": 3, "rejected_repeated": 1,
    }  # fmt: skip


def test_which_document_stays_does_not_depend_on_the_order_of_files(tmp_path):
    texts = {f"d{i:02}": prose(i // 3) + f" tail{i}" for i in range(45)}
    kept = []
    for name, keys in (
        ("ascending", sorted(texts)),
        ("shuffled", random.Random(1).sample(sorted(texts), 45)),
    ):
        corpus = Folder(str(tmp_path / name))
        for shard in range(3):
            rows = [
                {"document_id": key, "text": texts[key], "language": "en", "source": "test"}
                for key in keys[shard::3]
            ]
            corpus.write_table(
                f"documents.parquet/{shard}.parquet", pa.Table.from_pylist(rows, schema=DOCUMENTS)
            )
        output, _ = removed(tmp_path, corpus, name=f"{name}-kept")
        kept.append(set(output.read_table("documents.parquet")["document_id"].to_pylist()))
    assert kept[0] == kept[1] == {f"d{i:02}" for i in range(0, 45, 3)}


def test_groups_of_other_documents_are_refused(tmp_path):
    corpus = write_corpus(Folder(str(tmp_path / "c")), {"a": (None, prose(1)), "b": (None, prose(2))})
    groups = write_groups(Folder(str(tmp_path / "g")), {"a": "a", "c": "c"})
    with pytest.raises(ValueError, match="not those of the documents"):
        remove_duplicates(documents=corpus, duplicates=groups, output=corpus / "out", monitor=Silent())
