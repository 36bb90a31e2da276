"""What a client may ask of `/v1/rerank`, `/v2/rerank` (Cohere's and Jina's format) and `/score` (vLLM's)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from components.serving.schema import MAX_CHARACTERS, Text, Usage, check_text

MAX_DOCUMENTS = 1000
"""Documents in one request, as at Cohere."""

_TEXT_SCHEMA = {"type": "string", "maxLength": MAX_CHARACTERS}
_DOCUMENTS_SCHEMA = {
    "description": "Texts, or objects with a field `text`.",
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_DOCUMENTS,
    "items": {
        "anyOf": [
            _TEXT_SCHEMA,
            {"type": "object", "properties": {"text": _TEXT_SCHEMA}, "required": ["text"]},
        ]
    },
}
_TEXTS_SCHEMA = {
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_DOCUMENTS},
    ],
}


def _check_documents(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError("documents must be a list of texts that is not empty")
    if len(value) > MAX_DOCUMENTS:
        raise ValueError(f"documents holds {len(value)} items; at most {MAX_DOCUMENTS} go into one request")
    texts = []
    for index, document in enumerate(value):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            raise ValueError(f"documents[{index}] must be a text, or an object with a field `text`")
        texts.append(check_text(text, f"documents[{index}]"))
    return texts


def _check_texts(value: Any) -> list[str]:
    return _check_documents([value] if isinstance(value, str) else value)


Documents = Annotated[list[str], PlainValidator(_check_documents), WithJsonSchema(_DOCUMENTS_SCHEMA)]
Texts = Annotated[list[str], PlainValidator(_check_texts), WithJsonSchema(_TEXTS_SCHEMA)]


class RerankRequest(BaseModel):
    """The body of `/v1/rerank` and `/v2/rerank`. Fields that are not listed are ignored.

    A document that is longer than the model reads loses its end.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "docs-reranker",
                    "query": "sort an array",
                    "documents": ["Return a sorted copy of an array.", "Read a file."],
                    "top_n": 1,
                }
            ]
        }
    )

    model: Text | None = Field(None, description="The served name; not needed where one reranker is served.")
    query: Text = Field(min_length=1)
    documents: Documents
    top_n: int | None = Field(None, ge=1, strict=True, description="At most so many results; all by default.")
    return_documents: bool = Field(False, description="Whether results hold their text.")
    instruction: Text | None = Field(None, description="Replaces the model's own, where it reads one.")


class RerankedDocument(BaseModel):
    text: str


class RerankResult(BaseModel):
    index: int
    relevance_score: float
    document: RerankedDocument | None = None


class RerankResponse(BaseModel):
    """Results, best first; Cohere's `meta` and Jina's `usage` both, and which version scored."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankResult]
    usage: Usage
    meta: dict[str, Any]
    version: str
    scorer_id: str


class ScoreRequest(BaseModel):
    """The body of `/score`: one query with each of N documents, or N queries with N documents.

    The names of vLLM's first form, `text_1` and `text_2`, are understood too.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"queries": "sort an array", "documents": ["Return a sorted copy of an array."]}]
        }
    )

    model: Text | None = Field(None, description="The served name; not needed where one reranker is served.")
    queries: Texts | None = None
    documents: Texts | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    instruction: Text | None = None

    @model_validator(mode="after")
    def _has_pairs(self) -> "ScoreRequest":
        queries, documents = self.queries or self.text_1, self.documents or self.text_2
        if not queries or not documents:
            raise ValueError("send queries and documents (or text_1 and text_2)")
        if len(queries) not in (1, len(documents)):
            raise ValueError(
                f"{len(queries)} queries and {len(documents)} documents: send one query, or as many"
            )
        return self

    def pairs(self) -> tuple[list[str], list[str]]:
        """As many queries as documents."""
        queries, documents = self.queries or self.text_1, self.documents or self.text_2
        assert queries is not None
        assert documents is not None
        return queries * len(documents) if len(queries) == 1 else queries, documents


class Score(BaseModel):
    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(BaseModel):
    """Probabilities in the order of the documents, and which version scored."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: Usage
    version: str
    scorer_id: str
