"""embedloom: from documents to an embedding model and a reranker, trained for them, judged, registered and served.

Heavy libraries are imported inside the commands that use them, so that `--help` and `plan` answer at once.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from workflows import (
    clearing,
    comparing,
    embedding,
    evaluating,
    importing,
    initialising,
    inspecting,
    merging,
    running,
    schemas,
    serving,
    submitting,
    sweeping,
    versions,
)
from workflows.terminal import ROOT, Root, terminal, tracking_folder

app = typer.Typer(
    help=__doc__.split("\n\n")[0],
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 it could not be carried out (a step failed, a gate said no); 2 a mistake in the "
    "command, a recipe or the data, told in one line; 128 and the signal's number when ended by one (130: Ctrl-C).",
)
app.callback()(versions.embedloom)
MAKE, HOUSE_KEEPING = "Make a model", "House-keeping"
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    MAKE: (initialising.init, running.plan, running.run, running.runs, merging.merge),
    "Judge and compare": (evaluating.evaluate, comparing.compare, sweeping.sweep, inspecting.inspect),
    "Serve and embed": (
        serving.promote, serving.serve, serving.rollback, serving.retire, serving.key, serving.push,
        embedding.embed, embedding.reindex,
    ),
    "On a cluster": (submitting.submit, submitting.logs, submitting.stop, submitting.resume),
    HOUSE_KEEPING: (clearing.gc, schemas.schema),
}  # fmt: skip
"""The commands as `--help` lists them."""
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.command("import", rich_help_panel=MAKE)(importing.import_model)

mlflow_commands = typer.Typer(
    help="The local MLflow server: start it to look at past runs, stop it when done."
)
app.add_typer(mlflow_commands, name="mlflow", rich_help_panel=HOUSE_KEEPING)


@mlflow_commands.command("start")
def mlflow_start(
    root: Root = ROOT, port: Annotated[int | None, typer.Option(help="Any free one.")] = None
) -> None:
    """Start the local MLflow server, or find it running."""
    from workflows.engine import server

    started = server.start(tracking_folder(root), port)
    started.wait()
    terminal.print(started.uri)


@mlflow_commands.command("stop")
def mlflow_stop(root: Root = ROOT) -> None:
    """Stop the local MLflow server."""
    from workflows.engine import server

    stopped = tracking_folder(root).exists() and server.stop(tracking_folder(root))
    terminal.print("stopped" if stopped else "none was running")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2; a stack trace is a bug."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        app(prog_name="embedloom")
    except ValueError as error:
        Console(stderr=True, highlight=False).print(
            f"error: {error}", style="red", soft_wrap=True, markup=False
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
