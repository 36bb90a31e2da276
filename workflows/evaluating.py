"""`embedloom evaluate`: any model on a set, by each kind of evaluation that a recipe may ask for, or by reranking."""

import json
import tempfile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from workflows.terminal import (
    ROOT,
    JsonOutput,
    Root,
    TrackingUri,
    command,
    progress,
    reach_registry,
    say,
    terminal,
)

if TYPE_CHECKING:
    from components.storage import Folder


def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, directory, models:/name/version, or package://name.")],
    data: Annotated[
        str,
        typer.Option(
            help="A folder: for retrieval and reranking in BEIR's layout (corpus.jsonl, queries.jsonl, "
            "qrels/SPLIT.tsv), else of JSON lines."
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="retrieval, reranking (of a reranker), similarity (rows: sentence1, sentence2, score), "
            "pair-classification (text1, text2, label 1 or 0), classification, clustering (text, label) or bitext "
            "(sentence1, sentence2)."
        ),
    ] = "retrieval",
    split: Annotated[str | None, typer.Option(help="Of retrieval and reranking: which qrels; test.")] = None,
    file: Annotated[str | None, typer.Option(help="Of the other kinds: test.jsonl.")] = None,
    train_file: Annotated[
        str | None, typer.Option(help="Of classification, what the probe learns from: train.jsonl.")
    ] = None,
    first_stage: Annotated[
        str | None,
        typer.Option(
            help="Of reranking: the kept result (-o) of a retrieval evaluation on this set, whose first documents are "
            "ranked anew; BM25."
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Of reranking: documents a query, at most 100; 100.")
    ] = None,
    queries: Annotated[int | None, typer.Option(help="Of reranking: so many, drawn; all.")] = None,
    instruction: Annotated[str | None, typer.Option(help="In place of the model's own.")] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Keep the result here, row by row, for `embedloom compare`."),
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Score a model on a set: every figure of the kind with its 95 % interval.

    Retrieval: nDCG@10, Recall@10/100, MRR@10 and MAP@100 of exact search. Reranking: the same of the first documents
    of BM25, or of another system, in the reranker's order, before and after, with the time of a query.
    """
    of_rows: dict[str, Any] = {"file": file, "train_file": train_file}
    of_reranking: dict[str, Any] = {"first_stage": first_stage, "depth": depth, "queries": queries}
    _refuse(kind, of_rows if kind == "reranking" else of_reranking)
    reach_registry(model, root, tracking_uri)
    with tempfile.TemporaryDirectory() as temporary:
        kept = output or temporary
        on_all = {"data": data, "split": split, "instruction": instruction}
        if kind == "reranking":
            numbers, table = _rerank(model, kept, on_all | of_reranking)
        else:
            numbers, table = _evaluate(model, kept, root, on_all | of_rows | {"kind": kind})
    if as_json:
        print(json.dumps(numbers, indent=1))
        return
    terminal.print(table)
    if output:
        say(f"kept in {output}; `{command()} compare {output} OTHER ...` compares it with others on this set")


def _refuse(kind: str, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} is no option of --kind {kind}")


def _evaluate(
    model: str, output: str, root: str, asked: dict[str, str | None]
) -> tuple[dict[str, float], Table]:
    from pydantic import TypeAdapter, ValidationError

    from workflows.recipe.evaluations import OnSet

    kind = str(asked["kind"])
    try:
        on_set = TypeAdapter(OnSet).validate_python(
            {name: value for name, value in asked.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "union_tag_invalid":
            expected = first["ctx"]["expected_tags"].replace("'", "")
            raise ValueError(f"--kind is {kind!r}; it is one of {expected}, reranking") from error
        raise ValueError(
            f"--{str(first['loc'][-1]).replace('_', '-')} is no option of --kind {kind}"
        ) from error

    from components.model.source import as_model_directory
    from components.storage import Folder
    from workflows.building import EVALUATIONS, external_of
    from workflows.engine.step import resolve
    from workflows.engine.store import Store

    external_of(on_set)  # says what is wrong with the set before a model is loaded
    with as_model_directory(model) as directory, progress("evaluate") as monitor:
        numbers = resolve(EVALUATIONS[kind])(
            **on_set.model_dump(exclude={"kind"}),
            model=directory, output=Folder(output), monitor=monitor, cache=Store(root).cache,
        )  # fmt: skip
    return numbers, _figures(numbers)


def _rerank(model: str, output: str, options: dict[str, Any]) -> tuple[dict[str, float], Table]:
    from components.evaluation.reranking import evaluate_reranker_on_beir
    from components.model.reranker_source import as_reranker_directory
    from components.storage import Folder

    given = {name: value for name, value in options.items() if value is not None}
    if "first_stage" in given:
        given["first_stage"] = Folder(given["first_stage"])
    with as_reranker_directory(model) as directory, progress("evaluate") as monitor:
        numbers = evaluate_reranker_on_beir(model=directory, output=Folder(output), monitor=monitor, **given)
    return numbers, _before_and_after(Folder(output))


def _figures(numbers: dict[str, float]) -> Table:
    from components.evaluation.significance import Interval
    from components.evaluation.table import figures, title

    size = f"{numbers['rows']:,.0f} rows" if "rows" in numbers else _size(numbers)
    table = Table("", "mean [95 % interval]", title=size)
    for name in numbers:
        if f"{name}_low" in numbers:
            interval = Interval(numbers[name], numbers[f"{name}_low"], numbers[f"{name}_high"])
            table.add_row(title(name), figures(interval).replace("[", "\\["))
    return table


def _before_and_after(result: "Folder") -> Table:
    from components.evaluation.metrics import METRICS
    from components.evaluation.reranking_result import read_reranking
    from components.evaluation.table import figures, p_text, title

    found = read_reranking(result)
    table = Table(
        title=f"{found.queries:,} queries, {found.depth} documents each",
        caption=f"{found.latency_ms:.0f} ms a query in the median, 95 of 100 below {found.latency_ms_p95:.0f} ms; "
        "p: paired bootstrap",
    )
    for column in ("", "before", "after", "difference", "p"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for metric in METRICS:
        cells = (found.before[metric], found.after[metric], found.difference[metric])
        table.add_row(
            title(metric), *(figures(each).replace("[", "\\[") for each in cells), p_text(found.p[metric])
        )
    return table


def _size(numbers: dict[str, float]) -> str:
    return f"{numbers['queries']:,.0f} queries over {numbers['corpus_size']:,.0f} documents"
