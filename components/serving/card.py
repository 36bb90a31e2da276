"""The model card: what a version was made of, how it was judged and how it is loaded, in facts and as text.

The facts are gathered by a step of the workflow and travel with the version (`card.json`), so that the text can be
written for wherever the model is then: the registry, a hub.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData
from pydantic import TypeAdapter

from components.evaluation.evaluation import compare, read_evaluation
from components.evaluation.funnel import Passed, read_counts, read_funnel
from components.evaluation.metrics import METRICS
from components.evaluation.significance import Interval
from components.evaluation.table import figures, p_text, title
from components.model.agreement import ENCODING_FILE
from components.model.export import said_by_sentence_transformers
from components.model.licence import stated_licence
from components.model.reranker_file import RERANKER_FILE
from components.model.spec import EncodingSpec
from components.monitor import Monitor
from components.serving.calls import Kind
from components.storage import Folder

CARD_FILE = "card.json"
README = "README.md"
MADE = "made_"
"""In front of the names of the steps that a model was made by."""
_POOLED_BY_HAND = ("mean", "cls", "last")


@dataclass(frozen=True)
class Ingredient:
    """Something from outside that went in.

    Attributes:
        name: as the recipe calls it, without the folders of a machine.
        what: which step took it.
        licence: as it says itself; empty where it says nothing.
    """

    name: str
    what: str
    licence: str = ""


@dataclass(frozen=True)
class Score:
    """One metric of the model and of what it is compared with; p of the difference, two-sided, paired bootstrap."""

    metric: str
    model: Interval
    base: Interval
    p: float


@dataclass(frozen=True)
class Card:
    """What is known of a model when it is registered.

    Attributes:
        recipe: as it was run, in YAML.
        reads: the EncodingSpec of an embedder, the spec of `reranker.json` of a reranker.
        architecture: class and sizes out of `config.json`.
        scores: on the held-out queries; of a reranker over the ranking that it was given.
        languages, sources: documents of each, most first.
    """

    kind: Kind
    description: str
    recipe: str
    reads: dict[str, Any]
    architecture: dict[str, Any]
    ingredients: list[Ingredient]
    scores: list[Score]
    queries: int
    corpus_size: int
    sources: dict[str, int]
    languages: dict[str, int]
    funnel: list[Passed] = field(default_factory=list)


def write_card(
    *,
    kind: Kind,
    recipe: dict[str, Any],
    ingredients: Mapping[str, str],
    places: Mapping[str, str],
    model: Folder,
    evaluation: Folder,
    base_evaluation: Folder,
    output: Folder,
    monitor: Monitor,
    **made: Folder,
) -> dict[str, float]:
    """Gather what a model's card says.

    Args:
        recipe: as it was written, in JSON values, without paths of a machine.
        ingredients: what came from outside -> the step that took it.
        places: what came from outside -> where it lies here, to read what it says of its licence.
        model: model or reranker directory.
        evaluation, base_evaluation: of it, and of what it is compared with.
        made: outputs of the steps it was made by, their names behind `made_`.
        output: gets `card.json`, and `README.md` as it would read in a folder of the recipe's name.

    Returns: ingredients, licences_unknown.
    """
    steps = {name.removeprefix(MADE).replace("_", "-"): folder for name, folder in made.items()}
    documents = next((folder for folder in steps.values() if folder.exists("documents.parquet")), None)
    own, base = read_evaluation(evaluation), read_evaluation(base_evaluation)
    config = json.loads(model.read("config.json"))
    found = [
        Ingredient(name, what, stated_licence(places.get(name, name)) or "")
        for name, what in ingredients.items()
    ]
    card = Card(
        kind=kind,
        description=recipe.get("description", ""),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100),
        reads=json.loads(model.read(ENCODING_FILE if kind == "embedding" else RERANKER_FILE))["spec"],
        architecture={
            name: config[name] for name in ("architectures", "num_hidden_layers", "hidden_size") if name in config
        },
        ingredients=found,
        scores=[
            Score(metric, own.metrics[metric], base.metrics[metric], compare(own, base, metric).p_value)
            for metric in METRICS
            if metric in own.metrics and metric in base.metrics
        ],
        queries=own.queries,
        corpus_size=own.corpus_size,
        sources=read_counts(documents, "documents.parquet", "source") if documents else {},
        languages=read_counts(documents, "documents.parquet", "language") if documents else {},
        funnel=read_funnel(steps),
    )  # fmt: skip
    with output.writable() as directory:
        write_card_files(card, recipe["name"], directory)
        monitor.artifact(README, (directory / README).read_bytes())
    return {
        "ingredients": float(len(found)),
        "licences_unknown": float(sum(not each.licence for each in found)),
    }


def write_card_files(card: Card, location: str, directory: Path, version: str | None = None) -> None:
    """`card.json` and `README.md`; arguments as of `card_text`."""
    (directory / CARD_FILE).write_bytes(_FORMAT.dump_json(card, indent=1))
    (directory / README).write_text(card_text(card, location, version), encoding="utf-8")


def read_card(folder: Folder) -> Card:
    """What `write_card` wrote.

    Raises:
        ValueError: the file is none.
    """
    return _FORMAT.validate_json(folder.read(CARD_FILE))


def card_text(card: Card, location: str, version: str | None = None) -> str:
    """The card as a hub reads it: facts for machines in front, then Markdown.

    Args:
        location: what a program loads the model by: a hub id, a folder.
        version: in the registry.
    """
    metadata = ModelCardData(
        model_name=location,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity" if card.kind == "embedding" else "text-ranking",
        language=[code for code in card.languages if len(code) == 2] or None,
        tags=["embedloom", *(["feature-extraction"] if card.kind == "embedding" else ["reranker"])],
        eval_results=[
            EvalResult(
                task_type="retrieval" if card.kind == "embedding" else "text-ranking",
                dataset_type="held-out", dataset_name="held-out queries of its own documents",
                metric_type=score.metric, metric_value=round(score.model.mean, 4),
            )
            for score in card.scores
        ],
    )  # fmt: skip
    return f"---\n{metadata.to_yaml()}\n---\n\n{_template('card.md.jinja').render(_told(card, location, version))}"


def card_summary(card: Card, version: str) -> str:
    """A few lines of Markdown: what a registry shows beside a version."""
    return _template("card_summary.md.jinja").render(_told(card, "", version))


def _told(card: Card, location: str, version: str | None) -> dict[str, Any]:
    spec = EncodingSpec.from_json(card.reads) if card.kind == "embedding" else None
    plain = spec is not None and not (spec.suffix("query") or spec.suffix("document"))
    is_cut = spec is not None and spec.dimensions < (
        spec.projection_dimensions or card.architecture["hidden_size"]
    )
    return {
        "card": card,
        "location": location,
        "version": version,
        "spec": spec,
        "is_cut": is_cut,
        # sentence-transformers cuts what is normalised already.
        "renormalised": ", normalize_embeddings=True" if is_cut and spec and spec.normalize else "",
        "in_sentence_transformers": spec is not None and said_by_sentence_transformers(spec),
        "in_transformers": spec is not None
        and plain
        and spec.pooling in _POOLED_BY_HAND
        and spec.attention == "own"
        and spec.projection == "none"
        and spec.pool_template,
        "is_language_model": card.architecture.get("architectures", [""])[0].endswith("ForCausalLM"),
    }


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "title": title, "figures": figures, "p": p_text, "count": "{:,}".format, "python": repr,
        "cell": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
    }  # fmt: skip
    return environment.from_string(resources.files("components.serving").joinpath(name).read_text("utf-8"))


_FORMAT = TypeAdapter(Card)
