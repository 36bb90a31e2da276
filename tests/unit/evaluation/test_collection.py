"""Reading test collections, from a split and from BEIR's layout."""

from dataclasses import replace

import pyarrow as pa
import pytest

from components.corpus.schema import DOCUMENTS, QRELS, QUERIES
from components.evaluation.collection import read_beir, read_collection
from components.storage import Folder


def beir(path, corpus=None, queries=None, qrels="q1\td1\t1\nq2\td9\t2\nq3\td1\t0\n"):
    corpus = corpus or (
        '{"_id": "d1", "title": "One", "text": "first", "metadata": {"a": [1]}}\n{"_id": "d2", "text": "2"}\n'
    )
    queries = queries or "".join(f'{{"_id": "q{n}", "text": "query {n}"}}\n' for n in (1, 2, 3, 4))
    (path / "qrels").mkdir()
    (path / "corpus.jsonl").write_text(corpus)
    (path / "queries.jsonl").write_text(queries)
    (path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return Folder(str(path))


def split(path, documents, queries, qrels):
    folder = Folder(str(path))
    for name, rows, schema in (
        ("documents", documents, DOCUMENTS),
        ("queries", queries, QUERIES),
        ("qrels", qrels, QRELS),
    ):
        folder.write_table(f"evaluation/{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
    return folder


def test_beir_folder(tmp_path):
    found = read_beir(beir(tmp_path), "test")
    assert found.document_ids == ["d1", "d2"]
    assert found.passages == ["One first", "2"]
    assert found.query_ids == ["q1", "q2"]
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d9": 2}}
    assert found.queries_left_out == 2  # one judged not relevant, one not judged
    assert found.relevant_outside == 1


def test_split_and_beir_folder_of_the_same_content_have_one_digest(tmp_path):
    (tmp_path / "beir").mkdir()
    document = {"language": "en", "source": "s"}
    from_split = split(
        tmp_path / "split",
        [
            document | {"document_id": "d2", "text": "2"},
            document | {"document_id": "d1", "title": "One", "text": "first"},
        ],
        [{"query_id": f"q{n}", "text": f"query {n}"} for n in (4, 3, 2, 1)],
        [
            {"query_id": q, "document_id": d, "score": s, "split": "test"}
            for q, d, s in (("q3", "d1", 0), ("q2", "d9", 2), ("q1", "d1", 1))
        ],
    )
    found = read_collection(from_split)
    assert found.digest == read_beir(beir(tmp_path / "beir"), "test").digest
    assert found.digest != replace(found, queries=["other", "words"]).digest
    assert found.digest != replace(found, qrels={"q1": {"d2": 1}, "q2": {"d9": 2}}).digest
    assert found.digest != replace(found, passages=["2", "One  first"]).digest


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has not qrels/dev\.tsv"):
        read_beir(beir(tmp_path), "dev")


def test_malformed_corpus_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"corpus\.jsonl is not JSON lines"):
        read_beir(beir(tmp_path, corpus="not json\n"), "test")


def test_no_judged_query_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no query in .* has a text and a relevant document"):
        read_beir(beir(tmp_path, qrels="q1\td1\t0\n"), "test")


def test_empty_corpus_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"corpus in .* is empty"):
        read_collection(split(tmp_path, [], [], []))
