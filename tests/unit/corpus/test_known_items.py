import pyarrow as pa
import pytest

from components.corpus.known_items import make_known_items
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES
from components.monitor import Silent
from components.storage import Folder


def write(folder, rows, qrels=()):
    documents = [
        {
            "document_id": f"d{at}",
            "title": title,
            "text": text,
            "language": "en",
            "source": "s",
            "metadata": {},
        }
        for at, (title, text) in enumerate(rows)
    ]
    folder.write_table("documents.parquet", pa.Table.from_pylist(documents, schema=DOCUMENTS))
    folder.write_table("queries.parquet", QUERIES.empty_table())
    folder.write_table("qrels.parquet", pa.Table.from_pylist(list(qrels), schema=QRELS))
    return folder


def make(tmp_path, rows, query, max_documents=2):
    source, output = Folder(str(tmp_path / "in")), Folder(str(tmp_path / "out"))
    numbers = make_known_items(
        documents=write(source, rows),
        query=query,
        max_documents=max_documents,
        output=output,
        monitor=Silent(),
    )
    texts = {row["query_id"]: row["text"] for row in output.read_table("queries.parquet").to_pylist()}
    judged = [
        (texts[row["query_id"]], row["document_id"]) for row in output.read_table("qrels.parquet").to_pylist()
    ]
    documents = [(row["title"], row["text"]) for row in output.read_table("documents.parquet").to_pylist()]
    return numbers, judged, documents


TITLED = [
    ("Open a file", "Open a file\nCall open with its name."),
    ("open  a File", "As above, elsewhere."),
    ("Introduction here", "One."), ("Introduction here", "Two."), ("Introduction here", "Three."),
    (None, "No title."), ("am", "One word."), ("Close a file", "Close a file"),
]  # fmt: skip


def test_titles_are_taken_out_of_their_documents(tmp_path):
    numbers, judged, documents = make(tmp_path, TITLED, "title")
    assert judged == [("Open a file", "d0"), ("Open a file", "d1")]
    assert documents == [
        (None, "Call open with its name."), (None, "As above, elsewhere."), *TITLED[2:]
    ]  # fmt: skip
    assert numbers == {
        "documents": 8, "queries": 1, "qrels": 2, "unjudged_too_common": 3, "unjudged_no_query": 2,
        "unjudged_nothing_left": 1,
    }  # fmt: skip


def test_first_sentences_are_taken_out_of_their_texts(tmp_path):
    _, judged, documents = make(
        tmp_path,
        [
            ("tar", "Archiving utility.\nCreate one: tar cf x. More."),
            ("tar", "归档工具。\n创建: tar cf x"),
            (None, "no end of a sentence in it"),
            (None, "A paragraph without a full stop\n\nand another."),
        ],
        "first_sentence",
    )
    assert judged == [
        ("Archiving utility.", "d0"), ("归档工具。", "d1"), ("A paragraph without a full stop", "d3"),
    ]  # fmt: skip
    assert documents == [
        ("tar", "Create one: tar cf x. More."), ("tar", "创建: tar cf x"), (None, "no end of a sentence in it"),
        (None, "and another."),
    ]  # fmt: skip


def test_real_queries_are_not_mixed_with_made_ones(tmp_path):
    judged = [{"query_id": "q", "document_id": "d0", "score": 1, "split": "test"}]
    source = write(Folder(str(tmp_path / "in")), TITLED, judged)
    with pytest.raises(ValueError, match="take `known_items` out of the recipe"):
        make_known_items(
            documents=source,
            query="title",
            max_documents=3,
            output=Folder(str(tmp_path / "out")),
            monitor=Silent(),
        )


def test_documents_that_give_no_query(tmp_path):
    with pytest.raises(ValueError, match=r"none of the 2 documents gives one \(2 no_query\)"):
        make(tmp_path, [(None, "one"), ("am", "two")], "title")
