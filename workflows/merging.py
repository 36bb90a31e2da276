"""`embedloom merge`: one model out of several, wherever they were made."""

from pathlib import Path
from typing import Annotated, Any

import typer

from components.monitor import Silent
from workflows.terminal import ROOT, Root, TrackingUri, progress, reach_registry, say


def merge(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL MODEL ...", help="Hub ids, directories, models:/name/version."),
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The merged model: a new folder.")],
    method: Annotated[
        str,
        typer.Option(help="karcher: mean on the sphere, any number of models; slerp: two; linear: average."),
    ] = "karcher",
    per: Annotated[
        str, typer.Option(help="Directions of whole tensors, or of each row: tensor, row.")
    ] = "tensor",
    base: Annotated[
        str | None,
        typer.Option(help="The model they were trained from: their differences from it are merged."),
    ] = None,
    weights: Annotated[
        list[float] | None, typer.Option("--weight", help="One a model, in their order; equal without.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="PATTERN=W,W,...", help="Other weights for tensors of such names."),
    ] = None,
    development: Annotated[
        str | None, typer.Option("--dev", help="A BEIR folder: search the weights by nDCG@10 on it.")
    ] = None,
    split: Annotated[str, typer.Option("--dev-split", help="Which of its qrels.")] = "dev",
    trials: Annotated[int, typer.Option(help="Merges that are tried with --dev.")] = 20,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Merge models of one architecture, and say whether that was more than an average."""
    from components.merge.diagnosis import in_words
    from components.merge.models import Merging, merge_models
    from components.merge.shares import Shares, make_shares
    from components.merge.spherical import write_diagnosis
    from components.model.names import fetch_model, resolve_model
    from components.storage import Folder

    if len(models) < 2:
        raise ValueError("a merge needs at least two models")
    if development and (weights or layers):
        raise ValueError("weights are searched with --dev: leave --weight and --layer out")
    shares = make_shares(weights, len(models), _layer_weights(layers or []))
    reach_registry(" ".join([*models, base or ""]), root, tracking_uri)
    paths = [_directory(fetch_model(resolve_model(model).uri)) for model in models]
    origin = _directory(fetch_model(resolve_model(base).uri)) if base else None
    merging = Merging(shares, method, per)  # type: ignore[arg-type]  # checked when it is made
    if development:
        from components.evaluation.collection import read_beir
        from components.evaluation.merging import search_merge

        judged = read_beir(Folder(development), split)
        with progress("search") as monitor:
            found = search_merge(paths, origin, merging, judged, trials=trials, monitor=monitor)
        for trial in found[:5]:
            say(f"nDCG@10 {trial.score:.4f}  weights {', '.join(f'{share:.3f}' for share in trial.shares)}")
        merging = Merging(Shares(found[0].shares), merging.method, merging.per)
    target = Path(output)
    with progress("merge") as monitor:
        tensors = merge_models(paths, origin, target, merging, monitor)
    figures = write_diagnosis(tensors, len(paths), Folder(output), _Beside(target))
    say(in_words(figures, len(paths)))
    say(f"{output}: {len(tensors)} tensors; how far they lay apart in merge_angles.png and angles.parquet")


class _Beside(Silent):
    """Keeps figures in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def figure(self, name: str, figure: Any) -> None:
        figure.savefig(self._folder / name)


def _layer_weights(layers: list[str]) -> dict[str, list[float]]:
    found = {}
    for each in layers:
        pattern, equals, numbers = each.rpartition("=")
        try:
            found[pattern] = [float(number) for number in numbers.split(",")]
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(
                f"--layer is {each!r}; write PATTERN=W,W,... such as 'encoder.layer.0.*=0.3,0.7'"
            )
    return found


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path} is no directory of safetensors; bring it in with embedloom import first")
    return path
