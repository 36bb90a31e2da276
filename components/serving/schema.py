"""What a client may ask of `POST /v1/embeddings` and what it gets: OpenAI's format, with a few fields more.

The extra fields are optional, so clients made for OpenAI work unchanged: `input_type` and `instruction` say
how a text is encoded, and every answer names the version and the `space_id` of its vectors.
"""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from components.serving.calls import Kind

MAX_INPUTS = 2048
"""Texts in one request, as at OpenAI."""
MAX_CHARACTERS = 1_000_000
"""Of one text. A model reads its beginning only, but all of it would be tokenized."""

_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
_INPUT_SCHEMA = {
    "description": "A text, a list of texts, or token ids of this model's tokenizer (a list, or one a text).",
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_INPUTS},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
            "maxItems": MAX_INPUTS,
        },
    ],
    "examples": ["How do I sort an array?", ["Return a sorted copy of an array.", "Sum over an axis."]],
}


def _check_input(value: Any) -> list[str] | list[list[int]]:
    """The inputs as a list of texts or of token id lists.

    Written by hand, because a union of lists would report one error for each of 100,000 wrong items.
    """
    if isinstance(value, str) or (isinstance(value, list) and value and _is_token(value[0])):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("input must be a text, a list of texts, or token ids, and not empty")
    if len(value) > MAX_INPUTS:
        raise ValueError(f"input holds {len(value)} items; at most {MAX_INPUTS} go into one request")
    if isinstance(value[0], str):
        for index, text in enumerate(value):
            if not isinstance(text, str) or not text:
                raise ValueError(f"input[{index}] must be a text that is not empty")
            check_text(text, f"input[{index}]")
        return value
    for index, ids in enumerate(value):
        if not isinstance(ids, list) or not ids or not all(_is_token(token) for token in ids):
            raise ValueError(f"input[{index}] must be a text or a list of token ids, all of one kind")
    return value


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_text(text: str, name: str = "it") -> str:
    """The text. Raises ValueError if it is too long, or if UTF-8 cannot say it: JSON can hold half a surrogate pair."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"{name} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read of a text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds a lone surrogate, which is no valid Unicode") from error
    return text


Text = Annotated[str, AfterValidator(check_text)]


class EmbeddingRequest(BaseModel):
    """The body of `POST /v1/embeddings`; fields that are not listed (OpenAI's `user`) are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "docs-search", "input": "Return a sorted copy of an array."},
                {"model": "docs-search", "input": ["sort an array"], "input_type": "query"},
            ]
        }
    )

    model: Text = Field(min_length=1, description="A name as `GET /v1/models` lists it, or name/version.")
    input: Annotated[list[str] | list[list[int]], PlainValidator(_check_input), WithJsonSchema(_INPUT_SCHEMA)]
    dimensions: int | None = Field(None, ge=1, strict=True, description="Length of the prefix, renormalised.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: the little-endian float32 bytes."
    )
    input_type: Literal["document", "query"] = Field("document", description="Which template is applied.")
    instruction: Text | None = Field(None, description="Replaces the model's own query instruction.")

    @model_validator(mode="after")
    def _instruction_is_for_queries(self) -> "EmbeddingRequest":
        if self.instruction is not None and self.input_type != "query":
            raise ValueError('instruction applies to queries: send "input_type": "query" with it')
        return self

    @property
    def texts(self) -> list[str]:
        """The inputs, if they are texts; else empty."""
        return [each for each in self.input if isinstance(each, str)]

    @property
    def token_ids(self) -> list[list[int]]:
        """The inputs, if they are token ids; else empty."""
        return [each for each in self.input if not isinstance(each, str)]


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """OpenAI's list of embeddings, and which version of which vector space they belong to."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    version: str
    space_id: str


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "embedloom"
    version: str
    kind: Kind
    space_id: str
    dimensions: int | None
    engine: str
    current: bool


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    error: ErrorBody


def encode_vector(vector_D: np.ndarray, encoding_format: str) -> list[float] | str:
    """A float32 vector as a JSON value: numbers, or base64 of their little-endian bytes."""
    if encoding_format == "base64":
        return base64.b64encode(vector_D.astype("<f4", copy=False).tobytes()).decode()
    return vector_D.tolist()
