"""Training: the objective, the adapters, a stage."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.objective.objective import PRESETS, objective_from
from workflows.recipe.section import Count, Section, Share, StepOrModel, Whole


class Contrastive(Section):
    """Eq. 1 of the Qwen3-Embedding paper: its terms, masks and what was left open.

    `components/objective/objective.py` says more of each field. What is left out is taken from the preset.
    """

    preset: Literal["paper", "swift"] = "paper"
    """`paper`, the defaults below; `swift`, the reading of the trainer that the paper's team points to."""
    temperature: Annotated[float, Field(gt=0)] = 0.02
    learnable_temperature: bool = False
    """The temperature is trained; it starts at `temperature`."""
    in_batch: list[Literal["query_document", "query_query", "document_document"]] = [
        "query_document",
        "query_query",
        "document_document",
    ]
    """The scores against other rows that stand in the denominator; none: own hard negatives alone."""
    document_query: Literal["none", "same_denominator", "second_softmax"] = "none"
    """Document-to-query scores: in the same denominator (GTE), or in a softmax of their own (GTR)."""
    threshold: float | None = 0.1
    """Negatives that score above the positive's cosine plus this are masked; null: none."""
    masked_document_document: Literal["by_qd", "by_dd", "none"] = "by_qd"
    """What masks the document-document term."""
    other_documents: Literal["positives_and_negatives", "positives"] = "positives_and_negatives"
    own_negatives_in_document_document: bool = False
    mask_duplicates: bool = True
    threshold_own_negatives: bool = True
    across_workers: bool = True
    """Negatives are gathered from every worker."""
    matryoshka_dimensions: list[Count] = []
    """Lengths of the prefixes that are trained, rising, the last one the full dimension; none: that alone."""
    matryoshka_weights: list[Annotated[float, Field(ge=0)]] = []
    """One a length; none: 1 each."""
    matryoshka_mask: Literal["full", "prefix"] = "full"
    """Where the threshold is taken."""
    per_task: dict[str, dict[str, Any]] = {}
    """For a task the fields that differ in its batches."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset", "paper") not in PRESETS:
            return given  # reported by the fields
        return asdict(PRESETS[given.get("preset", "paper")]) | given

    @model_validator(mode="after")
    def _is_an_objective(self) -> "Contrastive":
        objective_from(self.model_dump())
        return self


class Lora(Section):
    """Low-rank adapters, trained in place of all weights and merged into what is kept."""

    rank: Count = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layers: list[str] = []
    """Names of the linear layers that get one (`q_proj`, `v_proj`); none: all of them."""


class Train(Section):
    """A stage of contrastive training."""

    do: Literal["train"]
    pairs: str | None = None
    model: StepOrModel | None = None
    """Where it starts from."""
    objective: Contrastive = Contrastive()
    batch_size: Annotated[int, Field(ge=4)] = 128
    """Rows of the global batch, over all workers."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    task_weights: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Share of the batches by task, every task named; null: by its pairs."""
    keep_last: bool = False
    """Pairs that do not fill a batch make a smaller one; else they sit out the epoch, others in each."""
    accumulate_steps: Count = 1
    """Global batches, each with its own negatives, whose mean gradient an optimizer step takes."""
    trainable: Literal["all", "without_embeddings"] = "all"
    """`without_embeddings`: the tables of tokens and positions stay as they are."""
    lora: Lora | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    query_length: Count = 64
    """Tokens."""
    document_length: Count = 128
    """Tokens."""
    negatives_per_query: Whole = 0
    checkpoints: Whole = 0
    """How many of the last checkpoints are kept: to be judged, and for a merge."""
    checkpoints_from: Share = 0.5
    """The part of the stage after which they are taken."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    seed: Whole = 0

    @model_validator(mode="after")
    def _adapters_alone(self) -> "Train":
        if self.lora is not None and self.trainable != "all":
            raise ValueError("with `lora` nothing but the adapters is trained; leave out `trainable`")
        return self
