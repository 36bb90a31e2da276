import base64

import numpy as np
import pytest
from pydantic import ValidationError

from components.serving.schema import MAX_INPUTS, EmbeddingRequest, encode_vector


@pytest.mark.parametrize(
    ("given", "read", "is_tokens"),
    [
        ("a text", ["a text"], False),
        (["a", "b"], ["a", "b"], False),
        ([1, 2, 3], [[1, 2, 3]], True),
        ([[1, 2], [3]], [[1, 2], [3]], True),
    ],
)
def test_the_four_forms_of_input(given, read, is_tokens):
    request = EmbeddingRequest(model="m", input=given)
    assert (request.token_ids if is_tokens else request.texts) == read
    assert (request.texts if is_tokens else request.token_ids) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "input[0]"),
        ([], "not empty"),
        (["a", ""], "input[1]"),
        (["a", 1], "input[1]"),
        ([1, "a"], "input[0]"),
        ([[1], "a"], "input[1]"),
        ([[]], "input[0]"),
        ([True], "input[0]"),
        ([-1], "input[0]"),
        ([1.5], "input[0]"),
        (None, "input must be"),
        ({"a": 1}, "input must be"),
        (["a"] * (MAX_INPUTS + 1), "at most 2048"),
        ("\ud800", "surrogate"),
        (["a", "a" * 1_000_001], "input[1] has 1,000,001 characters"),
    ],
)
def test_bad_input_is_one_error_that_says_where(given, says):
    with pytest.raises(ValidationError) as caught:
        EmbeddingRequest(model="m", input=given)
    assert caught.value.error_count() == 1
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "field", [{"dimensions": 0}, {"dimensions": -1}, {"dimensions": 1.5}, {"dimensions": "8"}]
)
def test_dimensions_must_be_a_positive_integer(field):
    with pytest.raises(ValidationError):
        EmbeddingRequest(model="m", input="a", **field)


def test_an_instruction_needs_a_query():
    with pytest.raises(ValidationError, match="input_type"):
        EmbeddingRequest(model="m", input="a", instruction="find")
    assert (
        EmbeddingRequest(model="m", input="a", instruction="find", input_type="query").instruction == "find"
    )


def test_fields_of_other_clients_are_ignored():
    EmbeddingRequest.model_validate({"model": "m", "input": "a", "user": "u", "truncate": "END"})


def test_base64_holds_little_endian_float32():
    vectors_ND = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    decoded = [
        np.frombuffer(base64.b64decode(encode_vector(vector_D, "base64")), "<f4") for vector_D in vectors_ND
    ]
    np.testing.assert_array_equal(decoded, vectors_ND)
    np.testing.assert_array_equal(
        np.float32([encode_vector(each, "float") for each in vectors_ND]), vectors_ND
    )
