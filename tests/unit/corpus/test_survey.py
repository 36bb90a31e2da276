import json

import pytest

from components.corpus.formats import find_files
from components.corpus.survey import SAMPLE, find_columns, survey

LONG = "A text of more than forty characters, as documents are."


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"_id": "a", "title": "T", "text": "x", "content": "y"}, {}),
        ({"url": "u", "Content": "x", "Name": "n"}, {"id": "url", "text": "Content", "title": "Name"}),
        (
            {"question": "q", "answer": "a", "lang": "en"},
            {"title": "question", "text": "answer", "language": "lang"},
        ),
        ({"nr": 1, "notes": LONG, "heading": "h"}, {"title": "heading", "text": "notes"}),
        ({"id": 5, "name": LONG}, {"text": "name"}),
    ],
)
def test_fields_by_their_names_and_the_text_by_its_length(tmp_path, row, columns):
    assert find_columns(find_files(jsonl(tmp_path / "a.jsonl", [row]))) == columns


def test_rows_without_a_text(tmp_path):
    with pytest.raises(ValueError, match="no field of the rows is a text: a, b"):
        survey([jsonl(tmp_path / "a.jsonl", [{"a": 1, "b": "short"}])])


def test_what_two_files_hold(tmp_path):
    en = [
        {"_id": f"p{n}", "title": title, "text": f"{LONG} {n}", "lang": "en"}
        for n in range(1500)
        for title in [f"Page number {n}" if n % 2 else "Overview of it"]
    ]
    de = [
        {"_id": f"p{n}", "text": f"Ein deutscher Text mit der Nummer {n}.", "lang": "de"} for n in range(500)
    ]
    found = survey([jsonl(tmp_path / "en.jsonl", en), jsonl(tmp_path / "de.jsonl", de)])
    assert (found.documents, found.shared_ids, len(found.sample)) == (2000, 500, SAMPLE)
    assert found.stated == {"en": 1500, "de": 500}
    assert found.files == {".jsonl": 2}
    # 750 of 2,000 have a title that is their own; the 750 overviews are one another's.
    assert found.askable["title"] == pytest.approx(0.375, abs=0.05)
    assert found.titled == pytest.approx(0.75, abs=0.05)


def test_languages_are_detected_where_they_are_not_stated(tmp_path):
    rows = [
        {"text": "The quick brown fox jumps over the lazy dog and runs away."},
        {"text": "Der schnelle braune Fuchs springt über den faulen Hund und läuft weg."},
        {"text": "今天天气很好，我们一起去公园散步吧，然后回家吃饭。"},
        {"text": "x = 1"},
    ]
    assert survey([jsonl(tmp_path / "a.jsonl", rows)]).detected == {"en": 1, "de": 1, "zh": 1}


def test_queries_of_a_beir_folder_and_files_that_are_not_read(tmp_path):
    jsonl(tmp_path / "corpus.jsonl", [{"_id": "a", "text": LONG}])
    jsonl(tmp_path / "queries.jsonl", [{"_id": "1", "text": "one"}, {"_id": "2", "text": "two"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t2\n2\ta\t0\n")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF")
    found = survey([str(tmp_path)])
    assert found.queries == {"test": 1}
    assert found.left_out == {".pdf": 1}
