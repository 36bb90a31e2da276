"""EncodingSpec: what it refuses, what it formats, and what makes two vector spaces one."""

import json
from dataclasses import replace

import pytest

from components.model.spec import EncodingSpec, Side

SPEC = EncodingSpec(
    query_length=64,
    document_length=128,
    dimensions=32,
    pooling="last",
    query_template="Instruct: {instruction}\nQuery:{text}",
    instruction="Given a web search query, retrieve relevant passages that answer the query",
    end_token="<|endoftext|>",
    attention="causal",
)


def formatted(spec: EncodingSpec, side: Side, text: str, instruction: str | None = None) -> str:
    """A text as the backbone reads it."""
    return spec.prefix(side, instruction) + text + spec.suffix(side)


def test_query_is_formatted_as_on_the_model_card_of_qwen3_embedding():
    # https://huggingface.co/Qwen/Qwen3-Embedding-0.6B, get_detailed_instruct
    task = "Given a web search query, retrieve relevant passages that answer the query"
    query = "What is the capital of China?"
    assert formatted(SPEC, "query", query) == f"Instruct: {task}\nQuery:{query}"
    assert formatted(SPEC, "query", query, "Find it") == f"Instruct: Find it\nQuery:{query}"
    assert (
        formatted(SPEC, "document", "The capital of China is Beijing.") == "The capital of China is Beijing."
    )


def test_a_template_may_go_on_behind_the_text():
    spec = replace(SPEC, query_template='This "{text}" means in one word:"', end_token=None)
    assert formatted(spec, "query", "{text}") == 'This "{text}" means in one word:"'
    assert (spec.prefix("query"), spec.suffix("query")) == ('This "', '" means in one word:"')


def test_an_instruction_on_either_side():
    spec = replace(SPEC, document_template="{instruction}: {text}", document_instruction="Represent it")
    assert formatted(spec, "document", "x") == "Represent it: x"
    assert spec.prefix("document", "Other") == "Other: "
    assert spec.prefix("query").startswith("Instruct: Given")
    assert spec.space_id("d") != replace(spec, document_instruction="Another").space_id("d")


def test_spaces_from_before_there_was_a_choice_keep_their_id():
    plain = EncodingSpec(query_length=8, document_length=8, dimensions=4, pooling="mean")
    # recorded when the fields of projection and template did not exist
    assert plain.space_id("digest") == "f8ce52e15d37350ed5be6fdbe6ceb48a"


def test_text_and_instruction_are_never_read_as_templates():
    assert (
        formatted(SPEC, "query", "f'{instruction} {x}'", "{text}")
        == "Instruct: {text}\nQuery:f'{instruction} {x}'"
    )


def test_json_round_trip():
    assert EncodingSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooler": "mean"}, "unknown encoding field pooler"),
        ({"pooling": "median"}, "pooling must be one of"),
        ({"attention": "sliding"}, "attention must be one of"),
        ({"padding_side": "both"}, "padding_side must be one of"),
        ({"query_length": 0}, "query_length must be a whole number above 0"),
        ({"dimensions": True}, "dimensions must be a whole number above 0"),
        ({"query_template": "query: "}, "query_template must hold {text} once"),
        ({"document_template": "{text} {text}"}, "document_template must hold {text} once"),
        (
            {"document_template": "{text}{instruction}"},
            "document_template must hold {instruction} before {text}",
        ),
        ({"pool_template": False}, "pool_template is false but pooling 'last' does not go over tokens"),
        ({"pooling": "prompt"}, "takes the state at the template's prompt; document_template has none"),
        ({"projection": "conv"}, "projection must be one of"),
        ({"projection_dimensions": 8}, "a whole number above 0 beside a projection"),
        ({"pooling_queries": 0}, "pooling_queries must be a whole number above 0"),
        ({"normalize": "yes"}, "normalize must be true or false"),
        ({"end_token": ""}, "end_token must be a token or null"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        EncodingSpec.from_json(SPEC.to_json() | change)


def test_says_what_is_missing():
    with pytest.raises(ValueError, match="lacks dimensions, pooling"):
        EncodingSpec.from_json({"query_length": 1, "document_length": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"query_template": "{text}"},
        {"instruction": "another"},
        {"query_length": 5},
        {"dimensions": 8},
        {"padding_side": "left"},
    ],
)
def test_what_belongs_to_a_request_leaves_the_space(change):
    assert replace(SPEC, **change).space_id("digest") == SPEC.space_id("digest")


@pytest.mark.parametrize(
    "change",
    [
        {"document_template": "passage: {text}"},
        {"document_length": 64},
        {"end_token": None},
        {"attention": "own"},
        {"pooling": "mean"},
        {"normalize": False},
        {"projection": "mlp"},
        {"pooling": "mean", "pool_template": False},
    ],
)
def test_what_changes_a_document_vector_changes_the_space(change):
    assert replace(SPEC, **change).space_id("digest") != SPEC.space_id("digest")
    assert SPEC.space_id("other weights") != SPEC.space_id("digest")
