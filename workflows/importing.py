"""`embedloom import`: a published model as a model directory, and how it was found to read texts."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from workflows.terminal import ROOT, JsonOutput, Root, TrackingUri, reach_registry, say, terminal

KINDS = ("embedding", "reranker", "classifier")


def import_model(
    model: Annotated[
        str, typer.Argument(help="Hub id, directory, .gguf file, package://name, models:/name/version.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The model directory: a new folder.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="embedding; reranker; classifier: a reranker that says yes or no, written with one output for "
            "engines that know classifiers. Without it, what the model's files say.",
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Keep only the first so many layers.")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--spec",
            metavar="FIELD=VALUE",
            help="Of the encoding, or of the prompt, in place of what the model says.",
        ),
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Bring a model in: sentence-transformers, Qwen3-Embedding and Qwen3-Reranker directories, or any transformer.

    Shows how texts will be read, which is inferred from the model's own files where --spec does not say.
    """
    from components.model.names import resolve_model
    from components.storage import Folder

    if kind not in (*KINDS, None):
        raise ValueError(f"--as is {kind!r}; it is one of {', '.join(KINDS)}")
    folder = Folder(output)
    if folder.exists() and folder.files():
        raise ValueError(f"{output} exists and is not empty; give the model a folder of its own")
    given = _given(fields or [])
    reach_registry(model, root, tracking_uri)
    uri = resolve_model(model).uri
    found = kind or _kind_of(uri)
    if found == "embedding":
        numbers, spec = _import_embedder(uri, layers, given, folder)
    else:
        numbers, spec = _import_reranker(uri, layers, given, folder, as_classifier=found == "classifier")
    if as_json:
        print(json.dumps({"kind": found, "encoding": spec, **numbers}, indent=1))
        return
    table = Table(title=f"{model} reads texts so", box=None, title_justify="left", show_header=False)
    for name, value in spec.items():
        table.add_row(name, repr(value).replace("[", "\\["), "given" if name in given else "")
    terminal.print(table)
    terminal.print(
        f"{found}: {int(numbers['parameters']):,} parameters, {int(numbers['layers'])} layers: {output}"
    )
    if numbers.get("new_head"):
        say("its head is new and knows nothing: train it before it is used (`do: train-reranker`)")
    if kind is None and found == "embedding" and spec["attention"] == "causal":
        say("a decoder may be a reranker as well, which its files do not tell: --as reranker")


def _given(fields: list[str]) -> dict[str, Any]:
    import yaml

    given = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"--spec is {field!r}; write FIELD=VALUE, for example pooling=mean")
        is_text = not value or name.endswith(
            ("template", "instruction", "prefix", "body", "suffix", "yes", "no")
        )
        given[name] = value if is_text else yaml.safe_load(value)
    return given


def _kind_of(uri: str) -> str:
    from components.model.names import fetch_model
    from components.model.reranker_file import says_that_it_is_a_reranker

    return "reranker" if says_that_it_is_a_reranker(fetch_model(uri)) else "embedding"


def _import_embedder(
    uri: str, layers: int | None, given: dict[str, Any], folder: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    from components.model.embedder import read_spec
    from components.model.source import import_model
    from components.monitor import Silent

    numbers = import_model(model=uri, layers=layers, spec=given, output=folder, monitor=Silent())
    with folder.local() as directory:
        return numbers, read_spec(directory).to_json()


def _import_reranker(
    uri: str, layers: int | None, given: dict[str, Any], folder: Any, as_classifier: bool
) -> tuple[dict[str, float], dict[str, Any]]:
    import tempfile

    from components.model.reranker_export import export_classifier
    from components.model.reranker_file import read_reranker_spec
    from components.model.reranker_source import import_reranker
    from components.monitor import Silent
    from components.storage import Folder

    with tempfile.TemporaryDirectory() as temporary:
        target = Folder(temporary) if as_classifier else folder
        numbers = import_reranker(model=uri, layers=layers, spec=given, output=target, monitor=Silent())
        if as_classifier:
            with folder.writable() as directory:
                export_classifier(temporary, directory)
    with folder.local() as directory:
        spec = read_reranker_spec(directory).to_json()
    return numbers, spec["prompt"] or {"length": spec["length"]}
