"""What a recipe file may say.

A recipe is YAML, read into the models of this package: everything in it changes the result, so all of it enters the
identity of the steps. Where and how fast the work is done is in a profile (`workflows/profile.py`).
"""

from typing import Annotated, Any

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
    """What stands around a query: `Instruct: {instruction}\\nQuery:{text}`."""
    document_template: str | None = None
    """The same around a document."""
    instruction: str | None = None
    """What `{instruction}` stands for before a query, where a pair or a request brings none."""
    document_instruction: str | None = None
    """The same before a document."""
    pooling: Pooling | None = None
    """`components/model/spec.py` says what each is."""
    pooling_queries: Count | None = None
    """Learned queries of a trainable pooling."""
    pool_template: bool | None = None
    """False: a pooling over tokens leaves out those of template and instruction."""
    projection: Projection | None = None
    """Behind the pooling, kept with the model."""
    projection_dimensions: Count | None = None
    """What the projection gives; null: as many as it takes in."""
    attention: Attention | None = None
    """`own`: as the backbone was built; `causal`: a position sees what stands before it; `bidirectional`: all."""
    end_token: str | None = None
    """Token behind every text, for `last` pooling of a decoder."""
    normalize: bool | None = None
    """Vectors have length 1."""
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
    """Fields of the encoding with other values than the model's own."""


class Recipe(Section):
    """One system, from documents to a registered model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    """Of the workflow, and of the model in the registry."""
    description: str = ""
    """One sentence for the run in MLflow."""
    documents: Documents
    """The sources, and what is read of them."""
    languages: Languages | None = None
    """Done to the documents in this order, each where its section is written: languages, known items, chunks,
    contamination, duplicates."""
    known_items: KnownItems | None = None
    """Queries out of the documents, where nobody asked any."""
    chunks: Chunks | None = None
    """Cuts documents that are too long; null: they lose their ends when they are encoded."""
    contamination: Contamination | None = None
    """Takes out documents that overlap an evaluation set."""
    duplicates: Duplicates = Duplicates()
    """What counts as a copy."""
    split: Split = Split()
    """What is held out to judge by."""
    model: Model
    """What the training starts from."""
    steps: Annotated[dict[Annotated[str, Field(pattern=STEP_NAME)], Step], Field(min_length=1)]
    """From the split documents to the model, in this order; the last model and the last reranker are registered."""
    evaluations: dict[Annotated[str, Field(pattern=STEP_NAME)], OnSet] = {}
    """Other sets that the base and every model are judged on, beside search for the held-out queries."""

    def shown(self) -> dict[str, Any]:
        """What was written, as JSON values, for others to read: of paths of this machine the last part alone."""
        return self.model_dump(mode="json", exclude_unset=True, context={"shown": True})
