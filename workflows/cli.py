"""embedloom: from documents to an embedding model that is trained for them, judged, registered and served.

Heavy libraries are imported inside the commands that use them, so that `--help` and `plan` answer at once.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from workflows import profile as profiles
from workflows.recipe import load as recipes

app = typer.Typer(
    help=__doc__.split("\n\n")[0],
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
mlflow_commands = typer.Typer(
    help="The local MLflow server: start it to look at past runs, stop it when done."
)
app.add_typer(mlflow_commands, name="mlflow")
terminal = Console(highlight=False)

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that comes with the project."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe; may be repeated."),
]
ProfileName = Annotated[
    str, typer.Option("--profile", help="Where and how fast: laptop, gpu, or a YAML file.")
]
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
JsonOutput = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ROOT = ".embedloom"


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    profile: ProfileName = "laptop",
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    mlflow_port: Annotated[
        int | None, typer.Option(help="Port of the local MLflow server; any free one.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="A running Ray cluster; without one, this machine."),
    ] = None,
) -> None:
    """Run a recipe: compute what is not there yet, reuse what is.

    Submit the same command again after an interruption: finished steps are reused and training goes on from its
    last checkpoint.
    """
    from components.evaluation.table import read_rows, render_table
    from workflows import connection
    from workflows.engine.runner import run as run_steps
    from workflows.engine.step import Budget
    from workflows.engine.store import Store
    from workflows.engine.tracking import open_tracking
    from workflows.pipeline import pipeline

    loaded, sizes = recipes.load(recipe, overrides or ()), profiles.load(profile)
    store = Store(root)
    store.check_writable()
    tracking = open_tracking(loaded.name, tracking_uri, _tracking_folder(root), mlflow_port)
    steps = pipeline(loaded, sizes, tracking.uri)

    def cluster() -> None:
        dashboard = connection.connect(address)
        terminal.print(f"MLflow         {tracking.url}", soft_wrap=True)
        if dashboard:
            terminal.print(
                f"Ray dashboard  {dashboard} (while this runs; its token: ray get-auth-token)", soft_wrap=True
            )

    largest = None
    if sizes.maximum_cpus is not None or sizes.maximum_gpus is not None:
        largest = Budget(cpus=sizes.maximum_cpus or 0, gpus=sizes.maximum_gpus or 0)
    result = run_steps(
        steps, store, tracking, cluster, loaded.name, loaded.model_dump(), largest, loaded.description
    )
    if result.exit_code:
        _fail(result.message, result.exit_code)
    report = result.outcomes["report"].output
    assert report is not None
    terminal.print(render_table(read_rows(report)))
    reused = sum(outcome.state == "reused" for outcome in result.outcomes.values())
    terminal.print(
        f"\n{len(result.outcomes)} steps, {reused} reused, in {result.duration_s:.0f} s. "
        f"Report, plots and every step: {result.url}\n",
        soft_wrap=True,
    )
    terminal.print("Next:", style="bold")
    command = os.environ.get("EMBEDLOOM_COMMAND", "embedloom")
    where = ("" if root == ROOT else f" --root {root}") + (
        f" --tracking-uri {tracking_uri}" if tracking_uri else ""
    )
    _say(f"  {command} promote {loaded.name}{where}    # candidate -> champion, if the gate passes")
    _say(f"  {command} serve {loaded.name}{where}      # POST /v1/embeddings on 127.0.0.1:8000")


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    profile: ProfileName = "laptop",
    root: Root = ROOT,
    as_json: JsonOutput = False,
) -> None:
    """Show what a run would do: HIT or RUN for each step, and exactly why it would run."""
    from workflows.engine.plan import plan as plan_steps
    from workflows.engine.store import Store
    from workflows.estimates import describe, synthesis_estimates
    from workflows.pipeline import pipeline

    loaded, sizes = recipes.load(recipe, overrides or ()), profiles.load(profile)
    planned = plan_steps(pipeline(loaded, sizes), Store(root), confirm=False)
    estimates = synthesis_estimates(loaded, sizes, {p.step.name for p in planned if p.state != "HIT"})
    if as_json:
        rows = [
            {
                "step": p.step.name,
                "state": p.state,
                "reasons": p.reasons,
                "fingerprint": p.fingerprint,
                "estimate": asdict(estimates[p.step.name]) if p.step.name in estimates else None,
            }
            for p in planned
        ]
        print(json.dumps(rows, indent=1))
        return
    table = Table("", "step", "why", box=None, pad_edge=False)
    for each in planned:
        style = "green" if each.state == "HIT" else "yellow"
        table.add_row(f"[{style}]{each.state}[/]", each.step.name, "; ".join(each.reasons))
    terminal.print(table)
    for name, estimate in estimates.items():
        _say(f"\n{name}: {describe(estimate)}")


@app.command()
def runs(
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    as_json: JsonOutput = False,
) -> None:
    """List past runs, newest first."""
    from workflows.engine.history import past_runs

    found = past_runs(_mlflow_uri(root, tracking_uri), limit)
    if as_json:
        print(json.dumps([asdict(run) for run in found], indent=1, default=str))
        return
    table = Table("started", "recipe", "status", "duration", "run", box=None, pad_edge=False)
    for each in found:
        duration = "" if each.duration_s is None else f"{each.duration_s:.0f} s"
        table.add_row(f"{each.started:%Y-%m-%d %H:%M}", each.name, each.status, duration, each.run_id)
    terminal.print(table)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, directory, models:/name/version, or package://name.")],
    data: Annotated[
        str, typer.Option(help="A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")
    ],
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Score a model on a retrieval set: nDCG@10, Recall@10, Recall@100, MRR@10, with 95 % intervals."""
    from components.evaluation.retrieval import evaluate_beir
    from components.evaluation.table import figures, title

    if model.startswith("models:/"):
        os.environ["MLFLOW_TRACKING_URI"] = _mlflow_uri(root, tracking_uri)
    found = evaluate_beir(model, data, split)
    if as_json:
        print(json.dumps(found.numbers(), indent=1))
        return
    table = Table(
        "", "mean [95 % interval]", title=f"{found.queries:,} queries over {found.corpus_size:,} documents"
    )
    for metric, interval in found.metrics.items():
        table.add_row(title(metric), figures(interval).replace("[", "\\["))
    terminal.print(table)


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    version: Annotated[str | None, typer.Option(help="Which version; the candidate by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if the gate says no.")] = False,
    service: Annotated[
        str | None,
        typer.Option(help="Ray dashboard of a running service, which then serves the new champion."),
    ] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make the candidate the champion, if the gate passes."""
    from components.serving.promotion import promote as promote_model

    uri = _mlflow_uri(root, tracking_uri)
    promote_model(name, tracking_uri=uri, version=version, force=force, service=service, say=_say)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="A registered model's name, or a model directory.")],
    alias: Annotated[
        str | None, typer.Option(help="Which version of a registered model; champion by default.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="A version by number.")] = None,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
) -> None:
    """Serve a model until Ctrl-C: POST /v1/embeddings in OpenAI's format."""
    from components.serving.deploy import ServiceOptions, serve_model

    uri = None if Path(model).is_dir() else _mlflow_uri(root, tracking_uri)
    options = ServiceOptions(host=host, port=port)
    serve_model(model, alias=alias, version=version, tracking_uri=uri, options=options, say=_say)


@mlflow_commands.command("start")
def mlflow_start(
    root: Root = ROOT, port: Annotated[int | None, typer.Option(help="Any free one.")] = None
) -> None:
    """Start the local MLflow server, or find it running."""
    from workflows.engine import server

    running = server.start(_tracking_folder(root), port)
    running.wait()
    terminal.print(running.uri)


@mlflow_commands.command("stop")
def mlflow_stop(root: Root = ROOT) -> None:
    """Stop the local MLflow server."""
    from workflows.engine import server

    stopped = _tracking_folder(root).exists() and server.stop(_tracking_folder(root))
    terminal.print("stopped" if stopped else "none was running")


def _say(text: str) -> None:
    terminal.print(text, markup=False, soft_wrap=True)


def _mlflow_uri(root: str, uri: str | None) -> str:
    if uri:
        return uri
    from workflows.engine import server

    running = server.start(_tracking_folder(root))
    running.wait()
    return running.uri


def _tracking_folder(root: str) -> Path:
    """The local server's folder; beside the results where those are on this machine."""
    return Path(ROOT if "://" in root else root) / "mlflow"


def _fail(message: str, code: int) -> None:
    Console(stderr=True, highlight=False).print(message, style="red", soft_wrap=True, markup=False)
    raise typer.Exit(code)


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
