"""What is asked for a document, and which documents are not asked about."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests
from components.synthesis.answers import Finished
from components.synthesis.draws import Draws
from components.synthesis.prompts import load_prompts
from components.synthesis.requests import make_requests

PROMPTS = load_prompts()
NOTHING = Finished(np.zeros(0, dtype=np.uint64), 0)
TEXT = "The lamp is cleaned by hand every morning. The street is closed\nto cars until noon."


def documents(rows: list[dict[str, Any]]) -> pa.Table:
    blank = {"title": "Lamps", "text": TEXT, "language": "en"}
    return pa.Table.from_pylist([blank | row for row in rows])


def ask(rows: list[dict[str, Any]], finished: Finished = NOTHING, **draws: Any) -> list[dict[str, Any]]:
    languages = {row.get("language", "en") for row in rows}
    rates = dict.fromkeys(languages, 1.0)
    made = make_requests(
        documents(rows), PROMPTS, Draws.model_validate(draws), rates, finished, passage_characters=30, seed=0
    )
    return made.to_pylist()


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"document_id": f"d{number}"} for number in range(count)]


def test_a_row_does_not_depend_on_its_company():
    draws = {"families": {"retrieval": 1, "sts": 1, "classification": 1}, "difficulties": {"phd": 1}}
    together = ask(numbered(50), **draws)
    alone = [row for document in numbered(50) for row in ask([document], **draws)]
    assert together == alone
    assert len({row["request_seed"] for row in together}) == 50


def test_what_goes_into_the_pair_is_whole_and_what_is_shown_is_cut():
    [row] = ask(numbered(1), length_words={"5-5": 1}, question_types={"summary": 1}, difficulties={"phd": 1})
    assert row["text"] == f"Lamps {TEXT}"
    assert row["passage"] == " ".join(f"Lamps {TEXT}".split())[:30]
    assert (row["question_type"], row["difficulty"], row["length"]) == ("summary", "phd", 5)
    [row] = ask(numbered(1), families={"classification": 1}, aspects={"field": 1})
    assert row["text"] == row["passage"] == " ".join(f"Lamps {TEXT}".split())[:30]
    assert row["question_type"] == "field"
    rows = ask(numbered(40), families={"sts": 1}, similarities={"4>1": 1})
    assert {row["text"] for row in rows} == {
        "The lamp is cleaned by hand every morning.",
        "The street is closed to cars until noon.",
    }
    assert {row["question_type"] for row in rows} == {"4>1"}


def test_left_to_the_writer_what_is_not_drawn():
    [row] = ask(numbered(1))
    assert (row["question_type"], row["difficulty"], row["asked_language"]) == ("", "", "en")


def test_a_translation_is_never_into_its_own_language():
    draws = {"families": {"bitext_mining": 1}, "translation_languages": {"en": 100, "zh": 1, "de": 1}}
    rows = ask(numbered(60), **draws)
    assert Counter(row["asked_language"] for row in rows).keys() == {"zh", "de"}
    [row] = ask(numbered(1), families={"bitext_mining": 1}, translation_languages={"en": 1})
    assert row["fault"] == "no_other_language"


def test_what_cannot_be_asked_says_why():
    rows = [
        {"document_id": "no sentence", "text": "ls -la"},
        {"document_id": "empty", "text": " ", "title": None},
        {"document_id": "unknown", "language": "tlh"},
        {"document_id": "none", "language": ""},
    ]
    assert [row["fault"] for row in ask(rows, families={"sts": 1})] == [
        "no_sentence",
        "empty_document",
        "language_without_name",
        "language_without_name",
    ]
    # Of retrieval the query's language alone must have a name.
    assert [row["fault"] for row in ask(rows, query_languages={"en": 1})] == ["", "empty_document", "", ""]


def test_finished_rows_and_languages_without_a_share_are_left_out():
    finished = Finished(digests(["d1"]), 0)
    assert [row["document_id"] for row in ask(numbered(3), finished)] == ["d0", "d2"]
    table = documents([{"document_id": "a"}, {"document_id": "b", "language": "zh"}])
    made = make_requests(table, PROMPTS, Draws(), {"zh": 1.0}, NOTHING, 30, seed=0)
    assert made.column("document_id").to_pylist() == ["b"]
    assert make_requests(table, PROMPTS, Draws(), {}, NOTHING, 30, seed=0).num_rows == 0


def test_a_document_of_ten_megabytes_is_cut_before_it_is_looked_at():
    [row] = ask([{"document_id": "long", "text": "The lamp is cleaned by hand. " * 360_000}])
    assert len(row["passage"]) == 30
    assert len(row["text"]) > 10_000_000
