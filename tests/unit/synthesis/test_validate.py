"""Queries that must be turned away, each with its reason, and queries that must not."""

from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.synthesis.prompts import load_prompts
from components.synthesis.validate import (
    Candidate,
    UnreadableError,
    judge,
    longest_common_run,
    parse_configuration,
    parse_query,
    words,
)

PASSAGE = (
    "numpy.linalg.norm This function is able to return one of eight different matrix norms, or one of an infinite "
    "number of vector norms, depending on the value of the ord parameter."
)
CHARACTER = "A numerical analyst who cares about matrices, eigenvalues and floating-point accuracy"
EXAMPLES = [example.query for example in load_prompts().query.examples]


def reasons(*queries: str, character: str = CHARACTER) -> list[str | None]:
    return list(
        judge([Candidate(query, PASSAGE, character) for query in queries], EXAMPLES, longest_asked=14)
    )


@pytest.mark.parametrize(
    "query",
    [
        "how do I compute the length of a vector",
        "numpy.linalg.norm of a complex matrix",
        "vector norms",
        "which norm is used when ord is None",
        "matrix norms in numpy, with an infinite order",
        "why can I not subtract sorry intervals",
        "如何计算矩阵的范数",
        "行列のノルムを計算する方法",
    ],
)
def test_a_fair_query_is_kept(query: str):
    assert reasons(query) == [None]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "empty"),
        (" ?! ", "empty"),
        ("norm", "too_short"),
        ("very " + " ".join(f"word{number}" for number in range(29)), "too_long"),
        ("I'm sorry, but I cannot write that query", "refusal"),
        ("As an AI, I have no opinion on matrix norms", "refusal"),
        ("the polynomial.polynomial.polynomial.polynomial.polynomial", "loop"),
        ("to the left to the left to the left to the left", None),
        ("norm of norm of norm of norm of", "loop"),
        ("one of an infinite number of vector norms", "copy"),
        (
            "tell me whether it is able to return one of eight different matrix norms in a single call or not",
            "copy",
        ),
        (EXAMPLES[0], "echo"),
        (EXAMPLES[-1].upper() + "?", "echo"),
        ("a numerical analyst who cares about matrices and floating-point accuracy", "echo"),
    ],
)
def test_a_bad_query_is_turned_away_with_its_reason(query: str, reason: str | None):
    assert reasons(query) == [reason]


def test_of_equal_queries_the_first_is_kept_and_a_rejected_one_does_not_count():
    assert reasons("norm of a vector", "Norm of a vector?", "norm of vectors") == [None, "duplicate", None]
    assert reasons("norm", "norm", "norm of a vector") == ["too_short", "too_short", None]


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(WORDS, WORDS)
def test_the_longest_common_run_is_that_of_difflib(query: list[str], passage: list[str]):
    match = SequenceMatcher(None, query, passage, autojunk=False).find_longest_match()
    assert longest_common_run(query, passage) == match.size


def test_words_count_characters_where_a_script_has_no_spaces():
    assert words("numpy.linalg.norm(x_1)") == ["numpy", "linalg", "norm", "x", "1"]
    assert words("矩阵 norm") == ["矩", "阵", "norm"]
    assert words("Größe déjà") == ["größe", "déjà"]


def test_answers_are_read_as_json():
    assert parse_query('{"query": " two \\n words "}') == "two words"
    choice = parse_configuration(
        '{"character": "a", "question_type": "keywords", "difficulty": "phd"}', ["a", "b"]
    )
    assert (choice.character, choice.question_type, choice.difficulty) == ("a", "keywords", "phd")


@pytest.mark.parametrize("answer", ["", "{", '{"query": "cut', '{"query": 3}', "[]", '"query"', "null", "{}"])
def test_what_is_no_query_is_unreadable(answer: str):
    with pytest.raises(UnreadableError):
        parse_query(answer)


@pytest.mark.parametrize(
    "answer", ["{", "{}", '{"character": "c", "question_type": "keywords", "difficulty": "phd"}']
)
def test_what_is_no_configuration_is_unreadable(answer: str):
    with pytest.raises(UnreadableError):
        parse_configuration(answer, ["a", "b"])
