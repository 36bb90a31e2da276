"""The steps between the documents and the model: a recipe puts them in any order.

What a step reads is named by `pairs`, `model` and `checkpoints`: an earlier step, by default the nearest one that
leaves such a thing. A model may also come from outside.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.pairs.sources.kinds import fill_options, find_kind
from components.synthesis.draws import Draws
from workflows.recipe.documents import Contamination
from workflows.recipe.section import Count, FilePath, ModelName, Section, Share, StepOrModel, Whole
from workflows.recipe.training import Pretrain, Train, TrainOnClasses, TrainOnScores, TrainReranker

Precision = Literal["float32", "bfloat16"]
DEEPEST = 4096
"""Of a block of pairs all documents found are held at once: of each some fifty bytes a pair."""


class Collect(Section):
    """Pairs that the training documents hold already, and those of earlier steps, in one table."""

    do: Literal["collect"]
    kinds: list[Literal["title_body", "labelled", "neighbours", "same_text"]] = []
    """`title_body`: the title asks for the text; `labelled`: judged queries; `neighbours`: a passage and the next
    one; `same_text`: a text twice."""
    add: list[str] = []
    """Earlier steps whose pairs are added as they are."""
    instruction: str | None = None
    """For the query side; null: the model's own."""
    task: str = "retrieval"
    """Pairs of one task share batches."""
    limit_per_kind: Count | None = None
    """At most so many pairs of each kind; null: all."""
    passage_characters: Count = 512
    """Of a passage; for `neighbours`."""
    seed: int = 0
    """Of the order, and so of what a limit takes."""

    @model_validator(mode="after")
    def _something(self) -> "Collect":
        if not (self.kinds or self.add):
            raise ValueError("collects nothing; give `kinds`, `add`, or both")
        return self


class Import(Section):
    """Pairs from a file, a folder, or a data set of the Hugging Face hub."""

    do: Literal["import"]
    source: FilePath
    """*.jsonl, *.csv, *.parquet, a folder of those, a BEIR folder (relative to the recipe file), or hub://NAME."""
    kind: str
    """What makes two texts of a row a pair: labelled, title_body, neighbours, same_text, nli, body_comment,
    question_answer, translation, class_label, same_class."""
    columns: dict[str, str] = {}
    """The column for a role of the kind, where its name is not a usual one."""
    options: dict[str, Any] = {}
    """Of the kind: `min_score` of labelled pairs, for example."""
    task: str | None = None
    """Pairs of one task share batches; null: the kind's own."""
    instruction: str | None = None
    """For the query side; null: none."""
    language: str = "en"
    """Of rows that name none."""
    origin: str | None = None
    """By which figures and reports tell these pairs; null: the kind."""
    limit: Count | None = None
    """At most so many pairs; null: all."""
    subset: str | None = None
    """Of a data set of the hub."""
    split: str = "train"
    """Of a data set of the hub, or the judgements of a BEIR folder."""
    seed: int = 0
    """Of the order, and of what a kind draws."""

    @model_validator(mode="after")
    def _is_a_kind(self) -> "Import":
        fill_options(self.kind, find_kind(self.kind), self.options)
        return self


class _Synthesis(Section):
    draws: Draws = Draws()
    """Families, question types, difficulties, lengths, languages and their shares."""
    instructions: dict[Literal["retrieval", "bitext_mining", "sts", "classification"], str] = {
        "retrieval": "Given a web search query, retrieve relevant passages that answer the query"
    }
    """What the query side of a family's pairs is told; those not named here are in the prompt file."""
    retriever: ModelName | None = None
    """The embedding model that chooses five personas for a document; null: BM25."""
    prompts: FilePath | None = None
    """A file of prompts in place of the project's own (components/synthesis/prompts.yaml)."""
    personas: FilePath | None = None
    """A file with one persona a line in place of the project's own."""
    passage_characters: Count = 600
    """Shown of a document."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Of the writer's sampling."""
    top_p: Share = 0.95
    """The writer samples of the likeliest tokens that make up this share."""
    frequency_penalty: float = 0.0
    """On a token for each time that it stands in the answer; above 0 against a small writer's repetitions."""
    max_tokens: Count = 64
    """Of an answer."""
    seed: int = 0
    """Of all that is drawn for a row."""


class Synthesise(_Synthesis):
    """Pairs written by a language model in the cluster, by vLLM."""

    do: Literal["synthesise"]
    writer: ModelName
    """Hub id, directory, or package://name of an instruct model."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """In which the writer computes."""
    chat_template_arguments: dict[str, Any] | None = None
    """For the writer's chat template, as {enable_thinking: false}."""
    max_model_length: Count = 2560
    """Tokens of a prompt, its examples and its answer: more for longer passages, and more memory."""


class SynthesiseAtEndpoint(_Synthesis):
    """Pairs written by a language model behind an OpenAI-compatible endpoint; the profile says where it is."""

    do: Literal["synthesise-at-endpoint"]
    llm: str
    """The model's name at the endpoint."""
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    """How the endpoint is held to JSON; `text`: by the prompt alone."""
    seed_rows: bool = True
    """Send the seed of a row with its requests."""
    extra_body: dict[str, Any] | None = None
    """Fields of every request that this endpoint knows and others do not; null takes one out: {max_tokens: null}."""


class _Cut(Section):
    pairs: str | None = None
    """An earlier step; null: the nearest that leaves pairs."""
    threshold: float | None = None
    """The least score that is kept."""
    quantile: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Drop this share of the pairs, the lowest scores."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "_Cut":
        if (self.threshold is None) == (self.quantile is None):
            raise ValueError("give either threshold or quantile, not both and not neither")
        return self


class FilterByCosine(_Cut):
    """Pairs are kept whose query and positive are near. The Qwen3-Embedding paper keeps those above 0.7."""

    do: Literal["filter-by-cosine"]
    model: StepOrModel | None = None
    """An earlier step, or a model from outside; null: the nearest earlier one."""
    precision: Precision = "float32"
    """Of the computation; scores are float32 either way."""


class FilterByConsistency(Section):
    """Pairs are kept whose positive ranks in the top k among passages sampled from pairs and documents (E5)."""

    do: Literal["filter-by-consistency"]
    pairs: str | None = None
    """An earlier step; null: the nearest that leaves pairs."""
    model: StepOrModel | None = None
    """An earlier step, or a model from outside; null: the nearest earlier one."""
    k: Count = 2
    """The last rank that is kept."""
    pool_size: Count = 1_000_000
    """Passages that a positive is ranked among, at most."""
    precision: Precision = "float32"
    """Of the computation; scores are float32 either way."""
    seed: int = 0
    """Of the sample."""


class FilterByReranker(_Cut):
    """Pairs are kept that a reranker scores high enough."""

    do: Literal["filter-by-reranker"]
    reranker: StepOrModel
    """A causal language model under the published yes/no prompt, or a cross-encoder; or an earlier step's."""
    length: Count | None = None
    """Tokens of query and document together; null: what the reranker reads, at most 8,192."""
    precision: Precision = "float32"
    """Of the computation; scores are float32 either way."""


class FilterByJudge(_Cut):
    """Pairs are kept to which an instruct model says yes."""

    do: Literal["filter-by-judge"]
    judge: ModelName
    """A causal language model with a chat template."""
    instruction: str | None = None
    """What it is told to decide; null: whether the passage answers the query."""
    length: Count = 2048
    """Tokens of a prompt; a longer passage loses its end."""
    precision: Precision = "bfloat16"
    """Of the computation; scores are float32 either way."""


class Decontaminate(Contamination):
    """Pairs that overlap the held-out queries, or another evaluation set beside them, are turned away."""

    do: Literal["decontaminate"]
    pairs: str | None = None
    """An earlier step; null: the nearest that leaves pairs."""
    parts: Annotated[list[Literal["queries", "relevant", "corpus"]], Field(min_length=1)] = ["queries"]
    """Of a set: its queries, the documents relevant to one, or every document."""


class Mine(Section):
    """Hard negatives from the training documents, ranked by a model."""

    do: Literal["mine"]
    pairs: str | None = None
    """An earlier step; null: the nearest that leaves pairs."""
    model: StepOrModel | None = None
    """What ranks: an earlier step, or a model from outside; null: the nearest earlier one."""
    negatives_per_query: Count = 4
    """At most so many; fewer where the rules below leave fewer."""
    window: tuple[Whole, Count] = (0, 50)
    """Ranks to draw from: first, and one past the last, which is at most 4096."""
    relative_margin: Share | None = 0.95
    """A negative scores below this share of the positive's score."""
    absolute_margin: Annotated[float, Field(ge=0)] | None = None
    """A negative scores below the positive's score less this."""
    exclude: list[Literal["known_positives", "copies", "near_copies"]] = [
        "known_positives",
        "copies",
        "near_copies",
    ]
    """What is never a negative: judged answers, documents of the same text, documents of nearly the same, or that hold
    the positive."""
    near_copy_words: Share | None = 0.5
    """A document that shares this part of its words with a known positive is a near-copy of it."""
    near_copy_cosine: Share | None = 0.95
    """So is one whose cosine with a known positive reaches this."""
    sampling: Literal["top", "random", "spread"] = "top"
    """Of the window: the highest ranks, a sample, or ranks at even distances."""
    reranker: StepOrModel | None = None
    """An earlier step, or a model from outside. Has a veto: a negative also scores below `veto_margin` of what it gives
    the positive."""
    veto_margin: Share = 0.95
    """Of the reranker's score of the positive."""
    replace: Literal["all", "outgrown"] = "all"
    """`outgrown`: of pairs that were mined before, only negatives that the model has outgrown (Conan)."""
    outgrown_factor: Annotated[float, Field(gt=0)] = 1.15
    """A pair's old negatives are outgrown if this times their score is below their first one ..."""
    outgrown_below: Annotated[float, Field(gt=0)] = 0.8
    """... and their score is below this."""
    precision: Precision = "float32"
    """Of the computation; scores are float32 either way."""
    seed: int = 0
    """Of random sampling."""

    @model_validator(mode="after")
    def _leaves_some(self) -> "Mine":
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window is {list(self.window)}; its first rank must be below its second")
        if self.window[1] > DEEPEST:
            raise ValueError(f"window is {list(self.window)}; its second rank may be {DEEPEST} at most")
        for name in ("relative_margin", "near_copy_words", "near_copy_cosine", "veto_margin"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} is 0, which leaves no document to be a negative; give more")
        return self


class RerankData(Section):
    """Mined pairs as a reranker learns from them: a label for every document, and what cannot be used turned away."""

    do: Literal["rerank-data"]
    pairs: str | None = None
    """An earlier step; null: the nearest that leaves pairs."""
    negatives_per_positive: Count | None = None
    """The first so many negatives of a pair, 1 for as many labels of yes as of no; null: all of them."""
    keep_without_negatives: bool = True
    """Pairs that have no negative teach yes alone."""
    teacher: StepOrModel | None = None
    """A reranker, of an earlier step or from outside, whose scores `objective: {loss: distillation}` learns from."""
    precision: Precision = "float32"
    """Of the teacher's computation."""


class Merge(Section):
    """The spherical merge of a stage's last checkpoints."""

    do: Literal["merge"]
    checkpoints: str | None = None
    """A training step that keeps some."""
    space: Literal["task", "weight"] = "task"
    """`task`: the differences from the model that the stage started from are merged; `weight`: the weights."""
    method: Literal["karcher", "slerp", "linear"] = "karcher"
    """Mean on the sphere; slerp of two checkpoints; plain average."""
    per: Literal["tensor", "row"] = "tensor"
    """Directions of whole tensors, or of each row of a matrix."""
    weights: list[float] | None = None
    """One a checkpoint, oldest first; null: equal."""
    layer_weights: dict[str, list[float]] | None = None
    """Others for some tensors, by a pattern of their names: `encoder.layer.0.*`."""


Step = Annotated[
    Collect
    | Import
    | Synthesise
    | SynthesiseAtEndpoint
    | FilterByCosine
    | FilterByConsistency
    | FilterByReranker
    | FilterByJudge
    | Decontaminate
    | Mine
    | RerankData
    | Train
    | TrainOnClasses
    | TrainOnScores
    | Pretrain
    | TrainReranker
    | Merge,
    Field(discriminator="do"),
]

LEAVE_PAIRS = (
    Collect, Import, Synthesise, SynthesiseAtEndpoint, FilterByCosine, FilterByConsistency, FilterByReranker,
    FilterByJudge, Decontaminate, Mine, RerankData,
)  # fmt: skip
