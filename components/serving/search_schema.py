"""What the page asks for a query, and what it shows."""

from pydantic import BaseModel, ConfigDict, Field

from components.serving.schema import Text


class SearchRequest(BaseModel):
    """The body of `POST /search`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "sort an array", "k": 5}]})

    query: Text = Field(min_length=1, max_length=2000)
    k: int = Field(10, ge=1, le=50, strict=True, description="Results of each column.")


class Hit(BaseModel):
    document_id: str
    title: str
    text: str
    score: float


class Column(BaseModel):
    """One ranking.

    `ranker`: model and version, or BM25; `space_id`: of its vectors or scores; `note`: why there are no hits, or that
    not all documents are encoded yet.
    """

    ranker: str
    space_id: str | None = None
    hits: list[Hit]
    note: str = ""
    milliseconds: float = 0.0


class SearchResponse(BaseModel):
    """Three rankings. `encoded`: of how many documents the vectors are compared; ask again while it is not all."""

    documents: int
    encoded: int
    bm25: Column
    embedding: Column
    reranked: Column
