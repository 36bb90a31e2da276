"""`embedloom sweep`: one recipe with every combination of some values of its fields, in one run."""

from typing import Annotated

import typer

from workflows.comparing import run_comparison
from workflows.running import show_plan
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
)


def sweep(
    recipe: RecipeName,
    over: Annotated[
        list[str],
        typer.Option(
            metavar="A.B=VALUE,VALUE",
            help="A field and the values to try; of several, every combination is tried.",
        ),
    ],
    overrides: Overrides = None,
    most: Annotated[int, typer.Option(help="Recipes that the combinations may make.")] = 32,
    only_plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, do nothing.")] = False,
    profile: ProfileName = "laptop",
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    mlflow_port: MlflowPort = None,
    address: Address = None,
    as_json: JsonOutput = False,
) -> None:
    """Try values of a recipe's fields: each combination is trained and judged, and every pair is tested.

    All of it is one run: a step that combinations have in common is computed
    once, and the same command goes on after an interruption. It ends as
    [bold]compare[/bold] does, with a table, a page, and a plot from the values to the
    scores. The queries are those that the recipe holds out; several of a sweep's
    winners are winners by chance, which the corrected p says.

        embedloom sweep docs-search --over steps.weak.learning_rate=1e-4,3e-4 --over steps.weak.epochs=1,2
    """
    from workflows import profile as profiles
    from workflows.recipe.sweep import load_sweep
    from workflows.submission import Place

    loaded, sizes = load_sweep(recipe, over, overrides or (), most), profiles.load(profile)
    if only_plan:
        show_plan(loaded, sizes, root, as_json)
    else:
        run_comparison(loaded, Place(root, tracking_uri, mlflow_port, address), sizes, as_json)
