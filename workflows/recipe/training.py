"""Training: the objective, the adapters, a stage of an embedder or of a reranker."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.objective.judging import judging_from
from components.objective.kinds import any_objective_from
from components.objective.objective import PRESETS, objective_from
from workflows.recipe.section import Count, ModelName, Section, Share, StepOrModel, Whole


class Contrastive(Section):
    """Eq. 1 of the Qwen3-Embedding paper: its terms, masks and what was left open.

    `components/objective/objective.py` says more of each field. What is left out is taken from the preset.
    """

    preset: Literal["paper", "swift"] = "paper"
    """`paper`, the defaults below; `swift`, the reading of the trainer that the paper's team points to."""
    temperature: Annotated[float, Field(gt=0)] = 0.02
    """Cosines are divided by it."""
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
    """Who the other documents of a batch are."""
    own_negatives_in_document_document: bool = False
    """The positive is also compared with its row's own hard negatives."""
    mask_duplicates: bool = True
    """Documents that are known to answer the query, and copies of it, are no negatives, wherever they stand."""
    threshold_own_negatives: bool = True
    """The threshold holds for the row's own hard negatives too."""
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
    """Of an adapter's two matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """An adapter counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On what goes into an adapter."""
    layers: list[str] = []
    """Names of the linear layers that get one (`q_proj`, `v_proj`); none: all of them."""


class Classification(Section):
    """Sentence-BERT's softmax over (u, v, |u - v|). `components/objective/kinds.py` says which class a pair has."""

    kind: Literal["classification"] = "classification"
    classes: Annotated[int, Field(ge=2)] = 2
    """How many; the class of a pair is its score, a whole number from 0."""


class Regression(Section):
    """Sentence-BERT's regression of the cosine on the pairs' scores."""

    kind: Literal["regression"] = "regression"
    lowest: float = 0.0
    """The score whose cosine is to be 0."""
    highest: float = 1.0
    """The score whose cosine is to be 1."""

    @model_validator(mode="after")
    def _is_an_objective(self) -> "Regression":
        any_objective_from(self.model_dump())
        return self


class Reconstruction(Section):
    """RetroMAE: a text is rebuilt from its vector and a masked copy of itself."""

    kind: Literal["reconstruction"] = "reconstruction"
    encoder_masked: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the tokens that the encoder does not see."""
    decoder_masked: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the others that the decoder does not see when it tells a token."""


class Stage(Section):
    """A stage of training: what stages of embedders and of rerankers have in common."""

    pairs: str | None = None
    """An earlier step; null: the nearest that leaves pairs."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """How often the pairs are gone through; less than 1: a part of them."""
    task_weights: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Share of the batches by task, every task named; null: by its pairs."""
    accumulate_steps: Count = 1
    """Global batches, each with its own negatives, whose mean gradient an optimizer step takes."""
    trainable: Literal["all", "without_embeddings"] = "all"
    """`without_embeddings`: the tables of tokens and positions stay as they are."""
    lora: Lora | None = None
    """Adapters in place of all weights; null: all weights."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """At its peak."""
    warmup_share: Share = 0.1
    """Of the steps, over which the rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the rise."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """A longer gradient is scaled down to it."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """In the backbone, attention included; null: what its config says."""
    checkpoints: Whole = 0
    """How many of the last checkpoints are kept: to be judged, and for a merge."""
    checkpoints_from: Share = 0.5
    """The part of the stage after which they are taken."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the computation; weights and optimizer are float32 either way."""
    seed: Whole = 0
    """Of batches, dropout and new weights."""

    @model_validator(mode="after")
    def _adapters_alone(self) -> "Stage":
        if self.lora is not None and self.trainable != "all":
            raise ValueError("with `lora` nothing but the adapters is trained; leave out `trainable`")
        return self


class EmbeddingStage(Stage):
    """A stage of an embedding model: all but what it is trained by."""

    model: StepOrModel | None = None
    """Where it starts from."""
    batch_size: Annotated[int, Field(ge=4)] = 128
    """Rows of the global batch, over all workers."""
    keep_last: bool = False
    """Pairs that do not fill a batch make a smaller one; else they sit out the epoch, others in each."""
    query_length: Count = 64
    """Tokens."""
    document_length: Count = 128
    """Tokens."""
    document_instructions: dict[str, str] | None = None
    """By task, what its documents are told; the document template has a place for it then."""
    negatives_per_query: Whole = 0
    """Hard negatives of a pair that are used, the first so many."""


class Train(EmbeddingStage):
    """A stage of contrastive training."""

    do: Literal["train"]
    objective: Contrastive = Contrastive()
    """The contrastive loss."""
    training_head: Literal["none", "linear", "mlp"] = "none"
    """A projection behind the vector in training alone (SimCSE)."""
    template_denoising: bool = False
    """In training the vector of the template alone is taken off (PromptBERT); pooling is `prompt`."""


class TrainOnClasses(EmbeddingStage):
    """A stage in which pairs are told apart by class: entailed, contradicted, neutral; or belonging together or not."""

    do: Literal["train-on-classes"]
    objective: Classification = Classification()
    """The softmax over classes."""


class TrainOnScores(EmbeddingStage):
    """A stage in which the cosine of a pair is brought to its score."""

    do: Literal["train-on-scores"]
    objective: Regression = Regression()
    """The regression."""


class Pretrain(EmbeddingStage):
    """A stage in which the positives of the pairs are rebuilt from their vectors."""

    do: Literal["pretrain"]
    objective: Reconstruction = Reconstruction()
    """The reconstruction."""


class Judging(Section):
    """The loss of a reranker; `components/objective/judging.py` says more of each field."""

    loss: Literal["full_vocabulary", "two_way", "listwise", "distillation"] = "full_vocabulary"
    """`full_vocabulary`, of a language model, is the paper's; an encoder takes one of the others."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Scores, and a teacher's, are divided by it; of `listwise` and `distillation`."""
    label_weights: Literal["balanced", "equal"] = "balanced"
    """`balanced`: yes and no count alike whatever their numbers; `equal`: every document does."""

    @model_validator(mode="after")
    def _is_an_objective(self) -> "Judging":
        judging_from(self.model_dump())
        return self


class Prompt(Section):
    """How a query and a document become one text. What is left out is the model's own, or the published prompt."""

    length: Count = 512
    """Tokens, prompt included."""
    instruction: str | None = None
    """Of a language model, as all that follow."""
    prefix: str | None = None
    """What stands before query and document, and is never cut."""
    body: str | None = None
    """How the two are written: holds `{query}` and ends with `{document}`, which a cut shortens."""
    suffix: str | None = None
    """What stands behind them, and is never cut."""
    yes: str | None = None
    """One token of the model's vocabulary."""
    no: str | None = None
    """Likewise."""


class JudgedBy(Section):
    """What a reranker is judged on: the first documents of BM25 and of the last embedding model."""

    depth: Annotated[int, Field(ge=1, le=100)] = 100
    """Documents a query."""
    queries: Annotated[int, Field(ge=2)] | None = None
    """So many of the held-out queries; null: all of them."""
    seed: Whole = 0
    """Of the queries that are drawn."""


class TrainReranker(Stage):
    """The training of a reranker."""

    do: Literal["train-reranker"]
    base: ModelName
    """What it starts from: a causal language model, an encoder, or a reranker."""
    layers: Count | None = None
    """Keep only the first so many layers of it."""
    prompt: Prompt = Prompt()
    """What it reads."""
    objective: Judging = Judging()
    """The loss."""
    batch_size: Count = 32
    """Queries of the global batch, each with its positive and its negatives, over all workers."""
    keep_last: bool = True
    """Queries that do not fill a batch make a smaller one."""
    negatives_per_query: Count | None = None
    """The first so many; null: all that there are."""
    evaluation: JudgedBy = JudgedBy()
    """What it is judged on."""
