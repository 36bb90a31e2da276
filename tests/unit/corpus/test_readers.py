import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.corpus.readers import changed_documents, read_documents, source_digests
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, content_id
from components.monitor import Silent
from components.storage import Folder

SCIFACT = Path(__file__).parents[4] / "shared" / "data" / "scifact"


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(tmp_path, sources, **limits):
    output = Folder(str(tmp_path / "output"))
    settings = {"language": "en", "min_characters": 1, "max_characters": None} | limits
    numbers = read_documents(sources=sources, output=output, monitor=Silent(), **settings)
    return output, numbers


@pytest.mark.skipif(not SCIFACT.is_dir(), reason="SciFact is not in ../shared/data")
def test_scifact_has_the_published_counts(tmp_path):
    output, numbers = read(tmp_path, [str(SCIFACT)])
    assert numbers == {"rows_in": 5183, "documents": 5183, "queries": 1109, "qrels": 1258}
    qrels = output.read_table("qrels.parquet").to_pylist()
    assert sum(row["split"] == "test" for row in qrels) == 339
    assert sum(row["split"] == "train" for row in qrels) == 919
    assert len({row["query_id"] for row in qrels if row["split"] == "test"}) == 300
    for name, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS)):
        assert output.read_table(f"{name}.parquet").schema.equals(schema)


def test_jsonl_gzip_and_parquet_give_the_same_documents(tmp_path):
    rows = [
        {"_id": "a", "title": "First", "text": "Text of a.", "language": "de", "year": 1999, "tags": ["x"]},
        {"id": 7, "text": "Text of seven."},
        {"text": "No id, no title: grüße."},
    ]
    jsonl(tmp_path / "in" / "one.jsonl", rows)
    with gzip.open(tmp_path / "two.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    columns = {"document_id": ["a", "7", None], "title": ["First", None, None], "year": [1999, None, None]}
    columns |= {"text": [row["text"] for row in rows], "language": ["de", None, None]}
    columns["tags"] = [["x"], None, None]
    pq.write_table(pa.table(columns), tmp_path / "three.parquet")

    found = []
    for number, source in enumerate(("in", "two.jsonl.gz", "three.parquet")):
        output, _ = read(tmp_path / str(number), [str(tmp_path / source)])
        table = output.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict")
        found.append([{name: value for name, value in row.items() if name != "source"} for row in table])
    assert found[0] == found[1] == found[2]
    assert found[0] == [
        {"document_id": "a", "text": "Text of a.", "title": "First", "language": "de",
         "metadata": {"tags": '["x"]', "year": "1999"}},
        {"document_id": "7", "text": "Text of seven.", "title": None, "language": "en", "metadata": {}},
        {"document_id": content_id("", rows[2]["text"]), "text": rows[2]["text"], "title": None,
         "language": "en", "metadata": {}},
    ]  # fmt: skip


def test_csv_gives_the_rows_of_a_library_that_writes_it(tmp_path):
    rows = pd.DataFrame(
        {
            "key": ["a", "b", None],
            "body": ['Said "yes",\n\nthen no.', "Grüße; a,b", "x" * 200_000],
            "subject": ["First", None, "Third"],
            "year": ["1999", None, None],
        }
    )
    columns = {"id": "key", "text": "body", "title": "subject"}
    found = []
    for name, options in (("a.csv", {}), ("b.csv", {"sep": ";"}), ("c.tsv.gz", {"sep": "\t"})):
        rows.to_csv(tmp_path / name, index=False, **options)
        output, _ = read(tmp_path / f"{name}-read", [str(tmp_path / name)], columns=columns)
        table = output.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict")
        found.append([(row["document_id"], row["title"], row["text"], row["metadata"]) for row in table])
    texts = rows["body"].to_list()
    assert found[0] == found[1] == found[2] == [
        ("a", "First", texts[0], {"year": "1999"}), ("b", None, texts[1], {}),
        (content_id("Third", texts[2]), "Third", texts[2], {}),
    ]  # fmt: skip


def test_an_id_that_several_files_use_can_be_left_out(tmp_path):
    for language in ("en", "de"):
        jsonl(
            tmp_path / "in" / f"{language}.jsonl",
            [{"_id": "tar", "text": f"In {language}.", "lang": language}],
        )
    _, numbers = read(tmp_path / "1", [str(tmp_path / "in")])
    assert numbers["rejected_id_collision"] == 1
    columns = {"id": None, "language": "lang"}
    output, numbers = read(tmp_path / "2", [str(tmp_path / "in")], columns=columns)
    rows = output.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict")
    assert numbers["documents"] == 2
    assert [(row["language"], row["metadata"]) for row in rows] == [
        ("de", {"_id": "tar"}),
        ("en", {"_id": "tar"}),
    ]


def test_a_tree_of_pages(tmp_path):
    docs = tmp_path / "docs"
    (docs / "guide").mkdir(parents=True)
    (docs / ".git").mkdir()
    (docs / ".git" / "notes.md").write_text("# Hidden\n\nNot read.")
    (docs / "index.md").write_text("# Start\n\nHere.")
    (docs / "guide" / "a.html").write_text("<h1>Guide</h1><p>There.")
    (docs / "empty.txt").write_text(" \n")
    (docs / "logo.png").write_bytes(b"\x89PNG")
    output, numbers = read(tmp_path, [str(docs)])
    rows = output.read_table("documents.parquet").to_pylist()
    assert [(row["document_id"], row["title"], row["text"]) for row in rows] == [
        ("guide/a.html", "Guide", "There."), ("index.md", "Start", "Here."),
    ]  # fmt: skip
    assert numbers["rejected_too_short"] == 1
    digest = source_digests([str(docs)])
    assert digest.keys() == {"docs"}
    (docs / ".git" / "notes.md").write_text("changed")
    assert source_digests([str(docs)]) == digest
    (docs / "index.md").write_text("# Start\n\nElsewhere.")
    assert source_digests([str(docs)]) != digest
    assert changed_documents(output, [str(docs)], "en", 1, None) == "1 document changed: `index.md` (Start)"
    one, _ = read(tmp_path / "one", [str(docs / "index.md")])
    assert one.read_table("documents.parquet")["document_id"].to_pylist() == ["index.md"]


def test_an_output_can_be_read_again(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"_id": "a", "text": "Text.", "year": 3}])
    first, _ = read(tmp_path / "1", [source])
    again, _ = read(tmp_path / "2", [first.path("documents.parquet")])
    row = again.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict")[0]
    assert (row["document_id"], row["text"], row["metadata"]["year"]) == ("a", "Text.", "3")


def test_sources_by_uri(tmp_path):
    folder = Folder("memory://corpus")
    folder.write("a.jsonl", b'{"_id": "a", "text": "In memory."}\n')
    _, numbers = read(tmp_path, [folder.uri])
    assert numbers["documents"] == 1
    assert list(source_digests([folder.uri])) == ["corpus/a.jsonl"]


def test_rejected_rows_are_kept_with_their_reason(tmp_path):
    folder = tmp_path / "beir"
    jsonl(
        folder / "corpus.jsonl",
        [
            {"_id": "a", "title": "", "text": "Long enough."},
            {"_id": "b", "title": "", "text": "Short"},
            {"_id": "c", "title": "", "text": "Much too long. " * 9},
            {"_id": "d", "title": "", "text": "A text."},
            {"_id": "d", "title": "", "text": "Another text."},
            {"_id": "a", "title": "", "text": "Long enough."},
        ],
    )
    jsonl(folder / "queries.jsonl", [{"_id": "1", "text": "one"}, {"_id": "2", "text": "two"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t1\n2\ta\t0\n1\ta\t2\n9\ta\t1\n1\td\t1\n"
    )
    output, numbers = read(tmp_path, [str(folder)], min_characters=6, max_characters=100)
    assert numbers == {
        "rows_in": 6, "documents": 2, "queries": 1, "qrels": 1,
        "rejected_too_short": 1, "rejected_too_long": 1, "rejected_id_collision": 2, "rejected_repeated": 2,
        "rejected_no_such_document": 1, "rejected_no_such_query": 1, "rejected_not_relevant": 1,
        "rejected_no_relevant_document": 1,
    }  # fmt: skip
    rejected = output.read_table("rejected/documents.parquet").to_pylist()
    assert [(row["document_id"], row["reason"]) for row in rejected] == [
        ("b", "too_short"), ("c", "too_long"), ("d", "id_collision"), ("a", "repeated"),
    ]  # fmt: skip
    assert rejected[2]["text"] == "Another text."


def test_folders_whose_ids_collide_judge_nothing_by_them(tmp_path):
    """Both count from 1: `2` is a query of either, `b` a document of either."""
    for name, document, query in (
        ("one", "About cats.", "what is a cat"),
        ("other", "About tax.", "what is tax"),
    ):
        own = name[:2]
        jsonl(
            tmp_path / name / "corpus.jsonl",
            [
                {"_id": own, "title": "", "text": f"Only here: {own}."},
                {"_id": "b", "title": "", "text": document},
            ],
        )
        jsonl(
            tmp_path / name / "queries.jsonl",
            [{"_id": f"q-{own}", "text": f"only {own}"}, {"_id": "2", "text": query}],
        )
        (tmp_path / name / "qrels").mkdir()
        (tmp_path / name / "qrels" / "test.tsv").write_text(
            f"query-id\tcorpus-id\tscore\n2\t{own}\t1\nq-{own}\tb\t1\nq-{own}\t{own}\t1\n"
        )
    output, numbers = read(tmp_path, [str(tmp_path / "one"), str(tmp_path / "other")])
    kept = output.read_table("qrels.parquet").to_pylist()
    assert {(row["query_id"], row["document_id"]) for row in kept} == {("q-on", "on"), ("q-ot", "ot")}
    assert numbers["rejected_id_collision"] == 2 + 4  # a document, a query, four judgements


def test_a_summary_that_objects_share_is_one_query_with_several_documents(tmp_path, monkeypatch):
    (tmp_path / "twinlib.py").write_text(
        'def a():\n    """Do the very same thing.\n\n    In the way of a.\n    """\n'
        'def b():\n    """Do the very same thing.\n\n    In the way of b.\n    """\n'
        'def c():\n    """Do the very same thing.\n\n    In the way of b.\n    """\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    output, numbers = read(tmp_path, ["docstrings://twinlib"])
    assert numbers == {
        "rows_in": 3,
        "documents": 2,
        "queries": 1,
        "qrels": 2,
        "rejected_repeated_docstring": 1,
    }
    documents = output.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict")
    assert [(row["title"], row["text"]) for row in documents] == [
        ("twinlib.a", "In the way of a."), ("twinlib.b", "In the way of b."),
    ]  # fmt: skip
    assert documents[0]["source"] == "docstrings://twinlib"
    assert documents[0]["metadata"] == {
        "object": "twinlib.a", "kind": "function", "file": "twinlib.py", "version": "no distribution",
    }  # fmt: skip
    assert output.read_table("rejected/documents.parquet")["title"].to_pylist() == ["twinlib.c"]


def test_docstrings_of_numpy(tmp_path):
    output, numbers = read(tmp_path, ["docstrings://numpy"])
    assert numbers["documents"] > 500
    documents = output.read_table("documents.parquet").to_pylist()
    texts = {row["document_id"]: " ".join(row["text"].split()) for row in documents}
    queries = {row["query_id"]: row["text"] for row in output.read_table("queries.parquet").to_pylist()}
    qrels = output.read_table("qrels.parquet").to_pylist()
    assert len(qrels) == len(documents) >= len(queries)
    assert all(queries[row["query_id"]] not in texts[row["document_id"]] for row in qrels)
    again, _ = read(tmp_path / "again", ["docstrings://numpy"])
    assert again.read_table("documents.parquet").equals(output.read_table("documents.parquet"))


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"documents.jsonl: no documents in it"),
        (b"\n  \n", r"documents.jsonl: no documents in it"),
        (GOOD + b'{"title": "t"}\n', r"documents.jsonl:2: the document has no `text`; its fields are title"),
        (GOOD * 2 + b'{"text": " \\n"}\n', r"documents.jsonl:3: the document's `text` is empty"),
        (GOOD + b'{"text": 5}\n', r"documents.jsonl:2: `text` is int"),
        (GOOD + b'{"text": "x", "title": []}\n', r"documents.jsonl:2: `title` is list"),
        (GOOD + b'{"text": "x", "_id": 1.5}\n', r"documents.jsonl:2: `_id` is float"),
        (GOOD + b'{"text": "caf\xe9"}\n', r"documents.jsonl:2: invalid UTF-8 at byte 13"),
        (GOOD + b'{"text": "half \\ud800"}\n', r"documents.jsonl:2: half of a surrogate pair"),
        (GOOD + b'{"text": "x"\n', r"documents.jsonl:2: not JSON"),
        (GOOD + b'["text"]\n', r"documents.jsonl:2: a JSON list"),
    ],
)
def test_a_malformed_file_is_one_sentence_with_its_line(tmp_path, content, message):
    path = tmp_path / "documents.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        source_digests([str(path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\n\na,b\n", "rows.csv:3: 2 cells, and the first line names 1 columns"),
        ("text,text\na,b\n", "rows.csv:1: the first line names the column `text` twice"),
        ('text\n"a" b\n', "rows.csv:2: not CSV"),
        (
            "body\na\n",
            "rows.csv:2: the document has no `text`; its fields are body; `documents.columns` says",
        ),
        ("text\n", "rows.csv: no documents in it"),
    ],
)
def test_a_malformed_csv_file(tmp_path, content, message):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        source_digests([str(tmp_path / "rows.csv")])


def test_a_malformed_parquet_file(tmp_path):
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet row 2: the document has no `text`"):
        source_digests([str(tmp_path / "rows.parquet")])
    (tmp_path / "no.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"no.parquet: not a Parquet file"):
        source_digests([str(tmp_path / "no.parquet")])


def test_sources_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.pdf").write_text("x")
    for source, message in (
        ("missing.jsonl", "does not exist"),
        ("empty", "holds no file"),
        ("notes.pdf", "must end in"),
    ):
        with pytest.raises(ValueError, match=message):
            source_digests([str(tmp_path / source)])
    with pytest.raises(ValueError, match="no library of this import name"):
        source_digests(["docstrings://no_such_library_here"])
    with pytest.raises(ValueError, match="`sources` is empty"):
        source_digests([])


def test_beir_folders_that_are_not_whole(tmp_path):
    folder = tmp_path / "beir"
    jsonl(folder / "corpus.jsonl", [{"_id": "a", "text": "x"}])
    jsonl(folder / "queries.jsonl", [{"_id": "1", "text": "one"}])
    with pytest.raises(ValueError, match=r"needs corpus.jsonl, queries.jsonl and at least one"):
        source_digests([str(folder)])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\thigh\n")
    with pytest.raises(ValueError, match=r"beir/qrels/test.tsv:2: a judgement is"):
        source_digests([str(folder)])


def test_nothing_left_says_why(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}])
    with pytest.raises(ValueError, match=r"no document is left of the 2 rows.*2 rejected_too_short"):
        read(tmp_path, [source], min_characters=5)


def test_digest_follows_content_not_place(tmp_path):
    one = jsonl(tmp_path / "x" / "a.jsonl", [{"text": "x"}])
    two = jsonl(tmp_path / "y" / "a.jsonl", [{"text": "x"}])
    assert source_digests([one]) == source_digests([two])
    assert len(source_digests([one, two])) == 2
    jsonl(tmp_path / "y" / "a.jsonl", [{"text": "z"}])
    assert source_digests([one]) != source_digests([two])


def test_changed_documents_are_named(tmp_path):
    rows = [{"_id": f"d{i}", "title": f"Title {i}", "text": f"Text {i}."} for i in range(9)]
    path = tmp_path / "a.jsonl"
    limits = {"language": "en", "min_characters": 1, "max_characters": None}
    output, _ = read(tmp_path, [jsonl(path, rows)])
    assert changed_documents(output, [str(path)], **limits).startswith("no document differs")

    rows[4]["text"] = "Another text."
    jsonl(path, rows)
    assert changed_documents(output, [str(path)], **limits) == "1 document changed: `d4` (Title 4)"

    jsonl(path, [*rows[2:], {"_id": "new", "text": "Fresh words."}])
    assert changed_documents(output, [str(path)], **limits) == (
        "1 document changed: `d4` (Title 4); 1 document added: `new` (Fresh words.); "
        "2 documents removed: `d0` (Title 0), `d1` (Title 1)"
    )
