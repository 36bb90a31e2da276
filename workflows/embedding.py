"""`embedloom embed` and `reindex`: the vectors of a whole table, in the form that its index takes."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from workflows import connection
from workflows.terminal import (
    ROOT,
    Address,
    JsonOutput,
    ProfileName,
    Root,
    TrackingUri,
    command,
    fail,
    progress,
    reach_registry,
    say,
    terminal,
)

if TYPE_CHECKING:
    from components.evaluation.quantised import FormResult

_CHOICES = {
    "side": ("document", "query"),
    "precision": ("float32", "int8", "binary"),
    "to": ("parquet", "faiss", "lancedb", "qdrant"),
    "compute": ("float32", "bfloat16", "int8"),
}


def embed(
    source: Annotated[
        str,
        typer.Argument(help="A table (.jsonl, .csv, .tsv, .parquet), a folder of those, or a BEIR folder."),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Hub id, directory, models:/name/version, or package://name.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="A new folder; or one to go on with.")],
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="What to embed; several are joined by a space. title and text."),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="document_id, _id or id; without one, rows are numbered."
        ),
    ] = None,
    side: Annotated[str, typer.Option(help="What the texts are: document or query.")] = "document",
    instruction: Annotated[str | None, typer.Option(help="Of queries, in place of the model's own.")] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Keep the first so many; for Matryoshka models. All.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the vectors: float32, int8 (a byte a dimension) or binary (a bit).")
    ] = "float32",
    to: Annotated[
        str, typer.Option(help="parquet; faiss: an exact index beside the ids; lancedb; qdrant.")
    ] = "parquet",
    at: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Of lancedb a folder or URI, of qdrant http://HOST:6333 (key: QDRANT_API_KEY). In the output folder.",
        ),
    ] = None,
    table: Annotated[str, typer.Option(help="Of lancedb the table, of qdrant the alias.")] = "documents",
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="A BEIR folder on which the form is first judged beside float32."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --judge: which qrels.")] = "test",
    compute: Annotated[
        str, typer.Option(help="In which the model computes: float32, bfloat16, or int8 (on a CPU).")
    ] = "float32",
    profile: ProfileName = "laptop",
    address: Address = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Embed a whole table with any model; the same command goes on after an interruption.

    Vectors have length 1. Every file says the space_id: vectors with another one belong in another index. int8 is for
    float32 queries; of binary, take four times the results and put them in order by the query (--judge shows both).
    """
    given = {"side": side, "precision": precision, "to": to, "compute": compute}
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"--{name} is {value!r}; it is one of {', '.join(_CHOICES[name])}")
    if instruction is not None and side == "document":
        raise ValueError("--instruction is of queries: say --side query too")

    from components.evaluation.cache import load_encoder
    from components.evaluation.collection import read_beir
    from components.evaluation.quantised import judge_form
    from components.model.source import as_model_directory
    from components.search.bulk import check_table, embed_table
    from components.search.coded import Form
    from components.search.indexes.place import Place
    from components.search.workers import Workers
    from components.storage import Folder
    from workflows import profile as profiles
    from workflows.engine.store import Store

    sizes = profiles.load(profile)
    workers = Workers(sizes.encoder_workers, sizes.encoder_cpus, sizes.encoder_gpus)
    form, place = Form(dimensions, precision), Place(at, table)  # type: ignore[arg-type]
    columns = tuple(text or ())
    collection = read_beir(Folder(judge), split) if judge else None
    reach_registry(model, root, tracking_uri)
    judged: list[FormResult] = []
    try:
        with as_model_directory(model) as directory:
            check_table(source, directory, columns, id_column, form, to, place, Folder(output))  # type: ignore[arg-type]
            if collection:
                with progress("judge") as monitor:
                    encoder = load_encoder(directory, Store(root).cache)
                    judged = judge_form(collection, encoder, form, sizes.tokens_per_batch, monitor)
                if not as_json:
                    _show(judged, len(collection.queries), len(collection.passages))
            if workers.count > 1 or workers.gpus:
                connection.connect(address)
            with progress("embed") as monitor:
                facts = embed_table(
                    source=source, model=directory, output=Folder(output), monitor=monitor, name=model,
                    text=columns, id_column=id_column, side=side, instruction=instruction,  # type: ignore[arg-type]
                    form=form, target=to, place=place, compute=compute,  # type: ignore[arg-type]
                    tokens_per_batch=sizes.tokens_per_batch, workers=workers,
                )  # fmt: skip
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from here", 130)
    if as_json:
        facts.pop("ranges", None)
        print(json.dumps({**facts, "judged": [asdict(each) for each in judged]}, indent=1))
        return
    _say_what(output, facts)


def reindex(
    folder: Annotated[str, typer.Argument(help="What `embed` wrote; it stays as it is.")],
    output: Annotated[str, typer.Option("-o", "--output", help="A new folder; or one to go on with.")],
    profile: ProfileName = "laptop",
    address: Address = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Embed the table of an earlier `embed` again, after a promotion or when its rows have changed.

    Columns, form and index stay as they were, and the model is asked for by the name it had: models:/NAME@champion is
    the champion of today. Where neither model nor rows have changed, nothing is done. Readers of a database see its old
    rows until all new ones are there.
    """
    from components.model.source import as_model_directory
    from components.search.bulk import EMBEDDING_FILE, embed_again, is_current
    from components.search.workers import Workers
    from components.storage import Folder
    from workflows import profile as profiles

    if not Folder(folder).exists(EMBEDDING_FILE):
        raise ValueError(f"{folder} holds no {EMBEDDING_FILE}: it is not what `embed` wrote, or not finished")
    earlier = json.loads(Folder(folder).read(EMBEDDING_FILE))
    sizes = profiles.load(profile)
    workers = Workers(sizes.encoder_workers, sizes.encoder_cpus, sizes.encoder_gpus)
    reach_registry(earlier["model"], root, tracking_uri)
    try:
        with as_model_directory(earlier["model"]) as directory:
            if is_current(earlier, directory):
                facts = earlier
            else:
                if workers.count > 1 or workers.gpus:
                    connection.connect(address)
                with progress("embed") as monitor:
                    facts = embed_again(
                        earlier, model=directory, output=Folder(output), monitor=monitor,
                        tokens_per_batch=sizes.tokens_per_batch, workers=workers,
                    )  # fmt: skip
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from here", 130)
    if as_json:
        facts.pop("ranges", None)
        print(json.dumps({**facts, "earlier_space_id": earlier["space_id"]}, indent=1))
    elif facts is earlier:
        say(f"{folder} is of this model and of these rows: nothing to do")
    else:
        _say_what(output, facts)
        if facts["space_id"] != earlier["space_id"]:
            say(
                f"before: space {earlier['space_id']}. Once queries go to the new one, `{command()} retire` the old one"
            )


def _say_what(output: str, facts: dict[str, Any]) -> None:
    from components.storage import Folder

    what = {"parquet": "", "faiss": "an index of "}.get(facts["target"], f"table {facts['table']}, ")
    say(
        f"{facts['at'] or output}: {what}{facts['rows']:,} vectors, {facts['dimensions']} dimensions in "
        f"{facts['precision']}, space {facts['space_id']}"
    )
    if Folder(output).exists("rejected/rows.parquet"):
        say(f"rows without a text or an id: {output}/rejected/rows.parquet")


def _show(judged: list["FormResult"], queries: int, documents: int) -> None:
    from components.evaluation.quantised import METRICS
    from components.evaluation.table import title

    table = Table(
        title=f"{queries:,} queries over {documents:,} documents",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    columns = ["bytes"]
    for metric in METRICS:
        columns += [title(metric), "against the first [95 %]"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in judged:
        cells = [f"{row.bytes_per_document:,}"]
        for metric in METRICS:
            lost = row.difference.get(metric)
            cells.append(f"{row.metrics[metric].mean:.4f}")
            cells.append(f"{lost.mean:+.4f} \\[{lost.low:+.4f}, {lost.high:+.4f}]" if lost else "")
        table.add_row(row.name, *cells)
    terminal.print(table)
