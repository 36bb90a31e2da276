"""What a recipe file may say.

A recipe is YAML, read into the models below: everything in it changes the result, so all of it enters the identity of
the steps. Where and how fast the work is done is in a profile (`workflows/profile.py`). Unknown keys are refused, and
every mistake is reported with its file and line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.objective.objective import PRESETS, objective_from

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that is not written here."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Documents(Section):
    """Where the documents come from."""

    sources: Annotated[list[str], Field(min_length=1)]
    """Files (*.jsonl, *.parquet), folders of them, a BEIR folder, or docstrings://library,library. Paths are
    relative to the recipe file."""
    language: str = "en"
    """ISO 639-1 code of documents that do not say."""
    min_characters: Annotated[int, Field(ge=0)] = 1
    max_characters: Count = 1_000_000


class Duplicates(Section):
    """When two documents count as copies of one another: those never stand on both sides of the split."""

    threshold: Share = 0.8
    """Estimated Jaccard similarity of word n-grams."""
    num_permutations: Count = 64
    ngram: Count = 5
    seed: int = 0


class Split(Section):
    """Which documents are held out to evaluate on, and how many are used for what."""

    evaluation_documents: Count = 3000
    evaluation_queries: Count = 500
    training_documents: Count | None = None
    synthesis_documents: Annotated[int, Field(ge=0)] = 150
    evaluation_split: str | None = None
    """For sources with written splits (BEIR): the split to evaluate on, over the whole corpus."""
    seed: int = 0


class Encoding(Section):
    """How a text becomes a vector. What is left out is taken from the model itself."""

    query_template: str | None = None
    document_template: str | None = None
    instruction: str | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    attention: Literal["own", "causal"] | None = None
    end_token: str | None = None
    query_length: Count | None = None
    """Tokens."""
    document_length: Count | None = None
    """Tokens."""


class Model(Section):
    """The backbone that is trained."""

    base: str
    """Hub id, directory, models:/name/version, or package://name."""
    layers: Count | None = None
    """Keep only the first so many layers of the backbone."""
    encoding: Encoding = Encoding()


class Synthesis(Section):
    """Queries written by a language model for documents that have none."""

    writer: str
    """Hub id, directory, or package://name of an instruct model."""
    instruction: str = "Given a web search query, retrieve relevant passages that answer the query"
    prompts: str | None = None
    """A file of prompts in place of the project's own (components/synthesis/prompts.yaml)."""
    personas: str | None = None
    """A file with one persona a line in place of the project's own."""
    length_words: tuple[Count, Count] = (4, 16)
    passage_characters: Count = 600
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Share = 0.95
    frequency_penalty: float = 0.0
    max_tokens: Count = 64
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = 0


class Filter(Section):
    """Which synthetic pairs are kept: by the cosine of query and positive under the base model."""

    threshold: float | None = None
    """Cosine. The paper's 0.7 belongs to a trained embedder."""
    quantile: Share | None = None
    """Drop this share of the pairs, the lowest cosines."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoding."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Filter":
        if (self.threshold is None) == (self.quantile is None):
            raise ValueError("give either threshold or quantile, not both and not neither")
        return self


class Mining(Section):
    """Hard negatives from the training documents, ranked by the weak model."""

    negatives_per_query: Count = 4
    window: tuple[Annotated[int, Field(ge=0)], Count] = (0, 50)
    """Ranks to draw from: first, and one past the last."""
    relative_margin: Share = 0.95
    """A negative must score below this share of the positive's score."""
    sampling: Literal["top", "random"] = "top"
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoding."""


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


class Stage(Section):
    """One stage of contrastive training."""

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
    negatives_per_query: Annotated[int, Field(ge=0)] = 0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _adapters_alone(self) -> "Stage":
        if self.lora is not None and self.trainable != "all":
            raise ValueError("with `lora` nothing but the adapters is trained; leave out `trainable`")
        return self


class WeakStage(Stage):
    """The weakly supervised stage: many cheap pairs."""

    kinds: list[Literal["title_body", "labelled"]] = ["title_body"]
    """Which pairs of the corpus stand in this stage, beside all synthetic ones."""
    limit_per_kind: Count | None = None


class SupervisedStage(Stage):
    """The supervised stage: labelled pairs and the synthetic ones that passed the filter, with hard negatives."""

    limit: Count | None = None
    """At most so many labelled pairs."""
    checkpoints: Count = 3
    """How many of the last checkpoints are kept for the merge."""
    checkpoints_from: Share = 0.5
    """The part of the stage after which they are taken."""


class Merge(Section):
    """Spherical merge of the supervised stage's last checkpoints."""

    space: Literal["task", "weight"] = "task"
    weights: list[float] | None = None
    """One a checkpoint, oldest first; null: equal."""


class Recipe(Section):
    """One system, from documents to a registered model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    """Of the workflow, and of the model in the registry."""
    description: str = ""
    documents: Documents
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    model: Model
    synthesis: Synthesis | None = None
    filter: Filter = Filter(quantile=0.2)
    weak: WeakStage = WeakStage()
    mine: Mining = Mining()
    supervised: SupervisedStage = SupervisedStage()
    merge: Merge = Merge()


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names file, line, field and what would be right."""


def names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("workflows.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def find(name_or_path: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the project."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such recipe file")
        return path
    shipped = Path(str(resources.files("workflows.recipes"))) / f"{name_or_path}.yaml"
    if not shipped.is_file():
        raise RecipeError(
            f"{name_or_path}: not a recipe file, and none of the recipes here ({', '.join(names())})"
        )
    return shipped


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides of the form `a.b=value` (the value is YAML).

    Raises:
        RecipeError: with file and line of the first mistake.
    """
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 at byte {error.start}; save the recipe as UTF-8") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if tree is None or not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections (name, documents, model, ...)")
    overridden = [_override(values, override) for override in overrides]
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(error, path, tree, overridden)) from error
    return _with_paths_from(path.parent, recipe)


def _override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override}: write it as section.field=value")
    *sections, field = dotted.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: `{section}` is not a section")
        values = inner
    values[field] = yaml.safe_load(value)
    return (*sections, field)


def _explain(error: ValidationError, path: Path, tree: yaml.Node, overridden: list[tuple[str, ...]]) -> str:
    first = error.errors()[0]
    location = tuple(part for part in first["loc"] if isinstance(part, str | int))
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        allowed = ", ".join(section.model_fields) if section else ""
        problem = f"unknown field `{dotted}`; allowed here: {allowed}"
    elif first["type"] == "missing":
        problem = f"`{dotted}` is missing"
    else:
        problem = f"`{dotted}`: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
    if any(location[: len(key)] == key for key in overridden):
        return f"--set {dotted}: {problem}"
    return f"{path}:{_line(tree, location)}: {problem}"


def _section_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] = Recipe
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return None
        section = inner[0]
    return section


def _line(node: yaml.Node, location: tuple[str | int, ...]) -> int:
    """Line of a field, or of the section that should have held it; from 1."""
    line = node.start_mark.line
    for part in location:
        found = next((pair for pair in _entries(node) if pair[0] == part), None)
        if found is None:
            break
        _, line, node = found
    return line + 1


def _entries(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value.start_mark.line, value


def _with_paths_from(folder: Path, recipe: Recipe) -> Recipe:
    """Paths in a recipe are relative to its file."""

    def resolve(name: str) -> str:
        return name if "://" in name or Path(name).is_absolute() else str((folder / name).resolve())

    def model(name: str) -> str:
        return resolve(name) if (folder / name).exists() else name  # a hub id is no path

    documents = recipe.documents.model_copy(
        update={"sources": [resolve(s) for s in recipe.documents.sources]}
    )
    updates: dict[str, Any] = {
        "documents": documents,
        "model": recipe.model.model_copy(update={"base": model(recipe.model.base)}),
    }
    if recipe.synthesis:
        files = {k: resolve(v) for k in ("prompts", "personas") if (v := getattr(recipe.synthesis, k))}
        updates["synthesis"] = recipe.synthesis.model_copy(
            update={**files, "writer": model(recipe.synthesis.writer)}
        )
    return recipe.model_copy(update=updates)
