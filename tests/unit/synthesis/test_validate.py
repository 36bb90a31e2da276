"""Rows that must be turned away, each with its reason, and rows that must not."""

import json
from difflib import SequenceMatcher
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.corpus.words import words
from components.synthesis.prompts import load_prompts
from components.synthesis.validate import Judge, longest_common_run
from components.synthesis.written import (
    Query,
    Texts,
    UnreadableError,
    parse,
    parse_configuration,
    read_texts,
)

PASSAGE = (
    "numpy.linalg.norm This function is able to return one of eight different matrix norms, or one of an infinite "
    "number of vector norms, depending on the value of the ord parameter."
)
SENTENCE = "The old log files are deleted as soon as the disk is nearly full."
CHARACTER = "A numerical analyst who cares about matrices, eigenvalues and floating-point accuracy"
PROMPTS = load_prompts()
QUERIES = [example.query for example in PROMPTS.retrieval.query.examples]
LABELS = PROMPTS.classification.examples[0]
JUDGE = Judge(PROMPTS, longest_words=14)


def row(family: str, text: str, answer: dict[str, Any], **fields: str) -> dict[str, Any]:
    known = {"passage": text, "character": "", "language": "en", "asked_language": "en"} | fields
    return {"family": family, "text": text, "answer": json.dumps(answer), **known}


def of_query(query: str, language: str = "en") -> str | None:
    fields = {"character": CHARACTER, "asked_language": language}
    return JUDGE.reason(row("retrieval", PASSAGE, {"query": query}, **fields))


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("how do I compute the length of a vector", "en"),
        ("numpy.linalg.norm of a complex matrix", "en"),
        ("vector norms", "en"),
        ("which norm is used when ord is None", "en"),
        ("matrix norms in numpy, with an infinite order", "en"),
        ("why can I not subtract sorry intervals", "en"),
        ("如何计算矩阵的范数", "zh"),
        ("行列のノルムを計算する方法", "ja"),
        ("to the left to the left to the left to the left", "en"),
    ],
)
def test_a_fair_query_is_kept(query: str, language: str):
    assert of_query(query, language) is None


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "empty"),
        (" ?! ", "empty"),
        ("norm", "too_short"),
        ("very " + " ".join(f"word{number}" for number in range(29)), "too_long"),
        ("I'm sorry, but I cannot write that query", "refusal"),
        ("As an AI, I have no opinion on matrix norms", "refusal"),
        ("很抱歉，我无法回答这个问题", "refusal"),
        ("the polynomial.polynomial.polynomial.polynomial.polynomial", "loop"),
        ("norm of norm of norm of norm of", "loop"),
        ("one of an infinite number of vector norms", "copy"),
        (
            "tell me whether it is able to return one of eight different matrix norms in a single call or not",
            "copy",
        ),
        (QUERIES[0], "echo"),
        (QUERIES[5].upper() + "?", "echo"),
        ("a numerical analyst who cares about matrices and floating-point accuracy", "echo"),
        ("如何计算矩阵的范数", "wrong_language"),
        ("Wie berechnet man die Norm einer großen Matrix", "wrong_language"),
    ],
)
def test_a_bad_query_is_turned_away_with_its_reason(query: str, reason: str):
    assert of_query(query) == reason


@pytest.mark.parametrize(
    ("translation", "reason"),
    [
        ("Sobald die Festplatte fast voll ist, werden alte Protokolle entfernt.", None),
        (SENTENCE, "copy"),
        ("The oldest of all logs go away when there is little room left.", "wrong_language"),
        ("磁盘快满时会删除旧日志。", "wrong_language"),
        ("Protokolle weg", "too_short"),
        ("Die Festplatte ist voll, " * 20, "too_long"),
        ("voll voll voll voll voll voll", "loop"),
        ("", "empty"),
        ("I cannot translate this. As an AI I can't help", "refusal"),
        ("Die alten Protokolldateien werden gelöscht, wenn die Festplatte voll ist.", "echo"),
    ],
)
def test_a_translation_is_in_the_other_language(translation: str, reason: str | None):
    found = JUDGE.reason(row("bitext_mining", SENTENCE, {"translation": translation}, asked_language="de"))
    assert found == reason


@pytest.mark.parametrize(
    ("similar", "different", "reason"),
    [
        ("Logs that are old go away when there is little room left.", "A disk can hold many files.", None),
        (SENTENCE, "A disk can hold many files.", "copy"),
        ("The old log files are deleted as soon as the disk is full.", "A disk can hold many files.", "copy"),
        ("Logs that are old go away when there is little room left.", SENTENCE.upper(), "copy"),
        ("Old logs go when room is little.", "When room is little, old logs go.", "negative_is_positive"),
        ("Logs that are old go away when there is little room left.", "", "empty"),
        ("Logs that are old go away.", "I'm sorry, I cannot do that for you.", "refusal"),
        ("Gone.", "A disk can hold many files.", "too_short"),
        (PROMPTS.sts.examples[0].levels[5], "A disk can hold many files.", "echo"),
        (
            "Alte Protokolle werden entfernt, wenn wenig Platz ist.",
            "Eine Platte fasst viel.",
            "wrong_language",
        ),
    ],
)
def test_sentences_are_near_and_less_near(similar: str, different: str, reason: str | None):
    answer = {"similar": similar, "different": different}
    assert JUDGE.reason(row("sts", SENTENCE, answer)) == reason


@pytest.mark.parametrize(
    ("label", "others", "reason"),
    [
        ("matrix norms", ["cooking", "sailing", "tax law"], None),
        (LABELS.label, ["cooking", "sailing", "tax law"], None),
        ("matrix norms", LABELS.other_labels, "echo"),
        ("Cooking!", ["cooking", "sailing", "tax law"], "negative_is_positive"),
        ("", ["cooking", "sailing", "tax law"], "empty"),
        ("matrix norms", ["cooking", "", "tax law"], "empty"),
        ("matrix norms", [], "empty"),
        ("no text was given", ["cooking", "sailing", "tax law"], "refusal"),
        ("a label that goes on and on as if it were a whole long sentence", ["a", "b", "c"], "too_long"),
        ("one of an infinite number of vector norms, depending", ["a", "b", "c"], "copy"),
    ],
)
def test_a_label_is_told_from_the_others(label: str, others: list[str], reason: str | None):
    answer = {"label": label, "other_labels": others}
    assert JUDGE.reason(row("classification", PASSAGE, answer)) == reason


def test_what_was_written_becomes_the_texts_of_a_pair():
    assert read_texts(row("retrieval", "doc", {"query": " two \n words "})) == Texts("two words", "doc", [])
    assert read_texts(row("bitext_mining", "one", {"translation": "eins"})) == Texts("one", "eins", [])
    answer: dict[str, Any] = {"similar": "a  b", "different": "c"}
    assert read_texts(row("sts", "s", answer)) == Texts("s", "a b", ["c"])
    answer = {"label": "x", "other_labels": ["y", "z", "y"]}
    assert read_texts(row("classification", "p", answer)) == Texts("p", "x", ["y", "z"])


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(WORDS, WORDS)
def test_the_longest_common_run_is_that_of_difflib(query: list[str], passage: list[str]):
    match = SequenceMatcher(None, query, passage, autojunk=False).find_longest_match()
    assert longest_common_run(query, passage) == match.size


def test_words_count_characters_where_a_script_has_no_spaces():
    assert words("numpy.linalg.norm(x_1)") == ["numpy", "linalg", "norm", "x", "1"]
    assert words("矩阵 norm") == ["矩", "阵", "norm"]
    assert words("Größe déjà") == ["größe", "déjà"]


@pytest.mark.parametrize(
    "answer",
    [
        '{"query": "two words"}',
        '```json\n{"query": "two words"}\n```',
        '<think>They want {"query": "x"}.</think>\n{"query": "two words"}',
        ' \n{"query": "two words", "note": "done"}',
    ],
)
def test_an_answer_is_read_out_of_its_wrapping(answer: str):
    assert parse(answer, Query).query == "two words"


@pytest.mark.parametrize("answer", ["", "{", '{"query": "cut', '{"query": 3}', "[]", '"query"', "null", "{}"])
def test_what_is_no_query_is_unreadable(answer: str):
    with pytest.raises(UnreadableError):
        parse(answer, Query)


@pytest.mark.parametrize(
    "answer",
    [
        "{",
        "{}",
        '{"character": "c", "question_type": "keywords", "difficulty": "phd"}',
        '{"character": "a", "question_type": "riddle", "difficulty": "phd"}',
        '{"character": "a", "question_type": "keywords", "difficulty": "nursery"}',
    ],
)
def test_what_is_no_configuration_is_unreadable(answer: str):
    with pytest.raises(UnreadableError):
        parse_configuration(answer, ["a", "b"], ["keywords"], ["phd"])


def test_a_configuration_is_read():
    answer = '{"character": "a", "question_type": "keywords", "difficulty": "phd"}'
    choice = parse_configuration(answer, ["a", "b"], ["keywords"], ["phd"])
    assert (choice.character, choice.question_type, choice.difficulty) == ("a", "keywords", "phd")
