"""`embedloom compare`: systems made and judged in one run, or results of evaluations that are there."""

import json
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
    Root,
    TrackingUri,
    aside,
    fail,
    reach_registry,
    say,
    terminal,
)

if TYPE_CHECKING:
    from components.evaluation.comparison import Difference
    from workflows.profile import Profile
    from workflows.recipe.load import Compared
    from workflows.submission import Place


def compare(
    compared: Annotated[
        list[str],
        typer.Argument(
            metavar="COMPARISON | RESULT RESULT ...",
            help="A comparison file, or the name of one that comes with the project; or folders that evaluate steps "
            "wrote, the first being the baseline.",
        ),
    ],
    overrides: Overrides = None,
    profile: ProfileName = "laptop",
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    mlflow_port: MlflowPort = None,
    address: Address = None,
    as_json: JsonOutput = False,
) -> None:
    """Compare systems: train what is to be trained, judge all on the same sets, test every pair.

    A comparison file names systems (a recipe with what is changed in it, or a
    model) and sets, and is one run: what systems have in common is computed
    once, and the same command goes on after an interruption. [bold]plan[/bold] says what
    it would do. --set systems.LABEL.set.A.B=VALUE changes one recipe, and
    --set set.A.B=VALUE all of them.

    Results that are there already are compared figure by figure: difference,
    95 % interval, two tests, effect size.
    """
    if len(compared) > 1:
        if overrides:
            raise ValueError("--set changes a comparison file; results that are there stay as they are")
        _compare_results(compared[0], compared[1:], as_json)
        return
    from workflows import profile as profiles
    from workflows.recipe import load as recipes
    from workflows.submission import Place

    loaded, sizes = recipes.load_comparison(compared[0], overrides or ()), profiles.load(profile)
    run_comparison(loaded, Place(root, tracking_uri, mlflow_port, address), sizes, as_json)


def run_comparison(loaded: "Compared", place: "Place", sizes: "Profile", as_json: bool) -> None:
    """Make and judge the systems of a comparison, and print its table."""
    from components.evaluation.systems_table import read_comparison, render_comparison
    from workflows.submission import UnfinishedError, submit
    from workflows.systems import COMPARE, compare_systems

    reach_registry(str(loaded), place.root, place.tracking_uri)
    comparison = loaded.comparison
    try:
        result = submit(
            lambda _: compare_systems(loaded, sizes),
            place,
            sizes,
            comparison.name,
            comparison.model_dump(),
            comparison.description,
            announce=aside if as_json else say,
        )
    except UnfinishedError as error:
        fail(str(error), error.result.exit_code)
    output = result.outcomes[COMPARE].output
    assert output is not None
    table = read_comparison(output)
    if as_json:
        print(json.dumps(asdict(table), indent=1))
        return
    for each in render_comparison(table, terminal.width):
        terminal.print(each)
    reused = sum(outcome.state == "reused" for outcome in result.outcomes.values())
    say(
        f"\n{len(result.outcomes)} steps, {reused} reused, in {result.duration_s:.0f} s. "
        f"The page with every pair: {output.path('comparison.html')}\nPlots and every step: {result.url}"
    )


def _compare_results(baseline: str, systems: list[str], as_json: bool) -> None:
    from components.evaluation.comparison import compare_results
    from components.storage import Folder

    found = compare_results(Folder(baseline), {name: Folder(name) for name in systems})
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    for name in systems:
        table = Table(title=f"{name} against {baseline}", box=None, title_justify="left")
        for column in ("", "baseline", "this", "difference [95 %]", "p boot.", "p rand.", "effect", "+ / -"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for row in found:
            if row.system == name:
                table.add_row(*_cells(row))
        terminal.print(table)
    terminal.print("p: paired bootstrap, randomisation test, Holm over the systems; effect: Cohen's d")


def _cells(row: "Difference") -> list[str]:
    from components.evaluation.table import p_text

    interval = row.difference
    return [
        row.metric,
        f"{row.baseline:.4f}",
        f"{row.value:.4f}",
        f"{interval.mean:+.4f} \\[{interval.low:+.4f}, {interval.high:+.4f}]",
        p_text(row.p_bootstrap),
        "" if row.p_randomisation is None else p_text(row.p_randomisation),
        "" if row.effect is None else f"{row.effect:+.2f}",
        "" if row.better is None else f"{row.better} / {row.worse}",
    ]
