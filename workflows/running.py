"""`embedloom run, plan, runs`: compute a recipe, say what that would be, list what was computed."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from workflows.terminal import (
    ROOT,
    Address,
    JsonOutput,
    MlflowPort,
    Overrides,
    ProfileName,
    RecipeName,
    Root,
    TrackingUri,
    aside,
    command,
    fail,
    mlflow_uri,
    reach_registry,
    say,
    terminal,
)

if TYPE_CHECKING:
    from workflows.profile import Profile
    from workflows.recipe.load import Compared
    from workflows.recipe.schema import Recipe
    from workflows.workload import Work


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    profile: ProfileName = "laptop",
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    mlflow_port: MlflowPort = None,
    address: Address = None,
    as_json: JsonOutput = False,
) -> None:
    """Run a recipe: compute what is not there yet, reuse what is.

    Submit the same command again after an interruption: finished steps are reused and training goes on from its
    last checkpoint.
    """
    from components.evaluation.other_sets import read_sets, render_sets
    from components.evaluation.table import read_rows, render_table
    from workflows import profile as profiles
    from workflows.pipeline import reranker_name
    from workflows.recipe import load as recipes
    from workflows.submission import Place, UnfinishedError, run_recipe

    loaded, sizes = recipes.load(recipe, overrides or ()), profiles.load(profile)
    place = Place(root, tracking_uri, mlflow_port, address)
    try:
        result = run_recipe(loaded, place, sizes, aside if as_json else say)
    except UnfinishedError as error:
        fail(str(error), error.result.exit_code)
    report = result.outcomes["report"].output
    assert report is not None
    rows, sets = read_rows(report), read_sets(report)
    if as_json:
        found = {
            "run": result.url,
            "duration_s": result.duration_s,
            "steps": {name: outcome.state for name, outcome in result.outcomes.items()},
            "systems": [asdict(row) for row in rows],
            "other_sets": [asdict(judged) for judged in sets],
        }
        print(json.dumps(found, indent=1))
        return
    terminal.print(render_table(rows))
    if sets:
        terminal.print(render_sets(sets))
    reused = sum(outcome.state == "reused" for outcome in result.outcomes.values())
    terminal.print(
        f"\n{len(result.outcomes)} steps, {reused} reused, in {result.duration_s:.0f} s. "
        f"Report, plots and every step: {result.url}\n",
        soft_wrap=True,
    )
    terminal.print("Next:", style="bold")
    where = ("" if root == ROOT else f" --root {root}") + (
        f" --tracking-uri {tracking_uri}" if tracking_uri else ""
    )
    registered = [loaded.name] if "register" in result.outcomes else []
    # A recipe may train a reranker alone: it is served beside an embedding model.
    served, what = loaded.name if registered else "MODEL", "/v1/embeddings"
    if "register-reranker" in result.outcomes:
        registered.append(reranker_name(loaded.name))
        served, what = f"{served} --reranker {registered[-1]}", "/v1/embeddings and /v1/rerank"
    for name in registered:
        say(f"  {command()} promote {name}{where}    # candidate -> champion, if the gate passes")
    split = result.outcomes["split"].output
    assert split is not None
    if "://" not in split.uri:  # the page at / searches them
        served += f" --documents {split.uri}/evaluation/documents.parquet"
    say(f"  {command()} serve {served}{where}      # {what} on 127.0.0.1:8000")


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    profile: ProfileName = "laptop",
    root: Root = ROOT,
    step_rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            metavar="STEP=NUMBER",
            help="Rows of a step, for the estimate: kept=12M; may be repeated.",
        ),
    ] = None,
    as_json: JsonOutput = False,
) -> None:
    """Show what a run, or a comparison, would do: HIT or RUN for each step, exactly why it would run, and for a recipe
    what that takes at most.
    """
    from workflows import profile as profiles
    from workflows.recipe import load as recipes

    loaded, sizes = recipes.load_either(recipe, overrides or ()), profiles.load(profile)
    show_plan(loaded, sizes, root, as_json, step_rows or ())


def show_plan(
    loaded: "Recipe | Compared", sizes: "Profile", root: str, as_json: bool, step_rows: Sequence[str] = ()
) -> None:
    """Print what a run of a recipe or a comparison would do.

    Args:
        step_rows: rows of steps for the estimate, as `--rows` says them.

    Raises:
        ValueError: as `pipeline` and `compare_systems`.
    """
    from workflows.engine.plan import plan as plan_steps
    from workflows.engine.store import Store
    from workflows.estimates import comparison_estimates, describe, synthesis_estimates
    from workflows.pipeline import pipeline
    from workflows.recipe.load import Compared
    from workflows.systems import compare_systems
    from workflows.workload import read_rows, workload

    reach_registry(str(loaded), root, os.environ.get("MLFLOW_TRACKING_URI"))
    store, work = Store(root), {}
    if isinstance(loaded, Compared):
        if step_rows:
            raise ValueError("--rows is for the plan of a recipe; of a comparison no work is estimated")
        planned = plan_steps(compare_systems(loaded, sizes), store, confirm=False)
        to_run = {p.step.name for p in planned if p.state != "HIT"}
        estimates = comparison_estimates(loaded, sizes, to_run)
    else:
        assumed = read_rows(step_rows, loaded.steps)
        try:
            planned = plan_steps(pipeline(loaded, sizes), store, confirm=False)
        except ValueError:
            # What it takes can be said all the same: of data that is not here yet, for example.
            if not as_json:
                estimates = synthesis_estimates(loaded, sizes, loaded.steps)
                _show_workload(workload(loaded, sizes, None, estimates, assumed), sizes)
            raise
        to_run = {p.step.name for p in planned if p.state != "HIT"}
        estimates = synthesis_estimates(loaded, sizes, to_run)
        [documents] = (p.manifest for p in planned if p.step.name == "documents")
        counted = int(documents.numbers["documents"]) if documents else None
        judged = any(name.startswith("evaluate-") for name in to_run)
        work = {
            name: each
            for name, each in workload(loaded, sizes, counted, estimates, assumed).items()
            if name in to_run or (name == "evaluate" and judged)
        }
    if as_json:
        rows = [
            {
                "step": p.step.name,
                "state": p.state,
                "reasons": p.reasons,
                "fingerprint": p.fingerprint,
                "estimate": asdict(estimates[p.step.name]) if p.step.name in estimates else None,
                "work": asdict(work[p.step.name]) if p.step.name in work else None,
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
        say(f"\n{name}: {describe(estimate)}")
    if work:
        _show_workload(work, sizes)


def _show_workload(work: "Mapping[str, Work]", sizes: "Profile") -> None:
    from workflows.workload import assumptions, render

    device = "GPU hours" if sizes.gpus_per_worker else "process hours"
    table = Table("\nstep", "rows", "tokens", device, "hours", "stored", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in render(work):
        table.add_row(*row)
    terminal.print(table)
    say(assumptions(work, sizes))


def runs(
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    as_json: JsonOutput = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show a run's steps until it ends; Ctrl-C leaves it running."),
    ] = False,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Follow this one; else the newest that goes on.")
    ] = None,
) -> None:
    """List past runs, newest first; or follow one, wherever it runs."""
    from workflows.engine.history import past_runs

    if follow or run_id is not None:
        from workflows.following import follow as follow_run

        try:
            raise typer.Exit(follow_run(mlflow_uri(root, tracking_uri), run_id, terminal))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    found = past_runs(mlflow_uri(root, tracking_uri), limit)
    if as_json:
        print(json.dumps([asdict(run) for run in found], indent=1, default=str))
        return
    table = Table("started", "recipe", "status", "duration", "run", box=None, pad_edge=False)
    for each in found:
        duration = "" if each.duration_s is None else f"{each.duration_s:.0f} s"
        table.add_row(f"{each.started:%Y-%m-%d %H:%M}", each.name, each.status, duration, each.run_id)
    terminal.print(table)
