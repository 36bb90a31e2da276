"""What a recipe file may say.

A recipe is YAML, read into the models of this package: everything in it changes the result, so all of it enters the
identity of the steps. Where and how fast the work is done is in a profile (`workflows/profile.py`).
"""

from typing import Annotated

from pydantic import Field

from components.model.spec import Attention, Pooling, Projection
from workflows.recipe.documents import (
    Chunks,
    Contamination,
    Documents,
    Duplicates,
    KnownItems,
    Languages,
    Split,
)
from workflows.recipe.evaluations import OnSet
from workflows.recipe.section import Count, ModelName, Section
from workflows.recipe.steps import Step

STEP_NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"


class Encoding(Section):
    """How a text becomes a vector. What is left out is taken from the model itself."""

    query_template: str | None = None
    document_template: str | None = None
    instruction: str | None = None
    document_instruction: str | None = None
    pooling: Pooling | None = None
    """`components/model/spec.py` says what each is."""
    pooling_queries: Count | None = None
    """Learned queries of a trainable pooling."""
    pool_template: bool | None = None
    """False: a pooling over tokens leaves out those of template and instruction."""
    projection: Projection | None = None
    """Behind the pooling, kept with the model."""
    projection_dimensions: Count | None = None
    attention: Attention | None = None
    end_token: str | None = None
    normalize: bool | None = None
    query_length: Count | None = None
    """Tokens."""
    document_length: Count | None = None
    """Tokens."""


class Model(Section):
    """The backbone that is trained."""

    base: ModelName
    """Hub id, directory, models:/name/version, or package://name."""
    layers: Count | None = None
    """Keep only the first so many layers of the backbone."""
    encoding: Encoding = Encoding()


class Recipe(Section):
    """One system, from documents to a registered model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    """Of the workflow, and of the model in the registry."""
    description: str = ""
    documents: Documents
    languages: Languages | None = None
    """Done to the documents in this order, each where its section is written: languages, known items, chunks,
    contamination, duplicates."""
    known_items: KnownItems | None = None
    chunks: Chunks | None = None
    contamination: Contamination | None = None
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    model: Model
    steps: Annotated[dict[Annotated[str, Field(pattern=STEP_NAME)], Step], Field(min_length=1)]
    """From the split documents to the model, in this order; the last model and the last reranker are registered."""
    evaluations: dict[Annotated[str, Field(pattern=STEP_NAME)], OnSet] = {}
    """Other sets that the base and every model are judged on, beside search for the held-out queries."""
