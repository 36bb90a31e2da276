"""What the commands share: where they print, and where results and runs are kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from components.monitor import Monitor, Silent
from workflows import completion

if TYPE_CHECKING:
    from workflows.engine.board import Terminal

terminal = Console(highlight=False)

Root = Annotated[
    str,
    typer.Option(
        "--root", envvar="EMBEDLOOM_ROOT", help="Where results are kept: a folder or a URI (s3://...)."
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI", help="An MLflow server; without one, a local server is started."
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of one that comes with the project.",
        autocompletion=completion.recipes,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe; may be repeated."),
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        help="Where and how fast: laptop, gpu, cluster, or a YAML file.",
        autocompletion=completion.profiles,
    ),
]
MlflowPort = Annotated[int | None, typer.Option(help="Port of the local MLflow server; any free one.")]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="A running Ray cluster; without one, this machine.")
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ROOT = ".embedloom"


def command() -> str:
    """How this program was called: what is printed as a next command can be copied."""
    return os.environ.get("EMBEDLOOM_COMMAND", "embedloom")


def say(text: str) -> None:
    """A line for the user, as it is."""
    terminal.print(text, markup=False, soft_wrap=True)


def aside(text: str) -> None:
    """A line for the user beside the output that a program may read."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


@contextmanager
def progress(what: str) -> Iterator[Monitor]:
    """A monitor that shows how far a piece of work is on stderr, as a run shows its steps."""
    from workflows.engine.board import Terminal

    with Terminal() as screen:
        screen.started(what)
        yield _Shown(what, screen)
        screen.ended(what, "done")


class _Shown(Silent):
    def __init__(self, what: str, screen: "Terminal") -> None:
        self._what, self._screen = what, screen

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        from workflows.engine.board import Progress

        self._screen.show({self._what: Progress(done, total, unit, facts)})


def mlflow_uri(root: str, uri: str | None) -> str:
    """The tracking server that a command means: the named one, or the local one, which is started."""
    if uri:
        return uri
    from workflows.engine import server

    running = server.start(tracking_folder(root))
    running.wait()
    return running.uri


def reach_registry(named: str, root: str, uri: str | None) -> None:
    """If what is named (a model, or a recipe as text) is in the registry: see to it that it answers, here and in what
    is started from here."""
    if "models:/" in named:
        os.environ["MLFLOW_TRACKING_URI"] = mlflow_uri(root, uri)


def tracking_folder(root: str) -> Path:
    """The local server's folder; beside the results where those are on this machine."""
    return Path(ROOT if "://" in root else root) / "mlflow"


def fail(message: str, code: int) -> NoReturn:
    """End the command with a sentence and an exit code."""
    Console(stderr=True, highlight=False).print(message, style="red", soft_wrap=True, markup=False)
    raise typer.Exit(code)
