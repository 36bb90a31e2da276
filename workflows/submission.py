"""A submission: steps to a store, an MLflow run and a Ray cluster, from the options of a command or from Python."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.processor import multiplies_bfloat16
from workflows import connection
from workflows.profile import PROFILES, Profile
from workflows.terminal import ROOT, reach_registry, say, tracking_folder

if TYPE_CHECKING:
    from workflows.engine.runner import Result
    from workflows.engine.step import Step
    from workflows.recipe.schema import Recipe


@dataclass(frozen=True)
class Place:
    """Where a submission goes; none of it changes what is computed.

    Attributes:
        root: of the store.
        tracking_uri: of an MLflow server; None: the local one, on `mlflow_port` or any free one.
        address: of a Ray cluster; None: this machine.
    """

    root: str = ROOT
    tracking_uri: str | None = None
    mlflow_port: int | None = None
    address: str | None = None


HERE = Place()


class UnfinishedError(RuntimeError):
    """A submission that was interrupted, or of which a step failed; the message is one line that says why.

    Attributes:
        result: what became of every step.
    """

    def __init__(self, result: "Result") -> None:
        super().__init__(result.message)
        self.result = result


def run_recipe(
    recipe: "Recipe",
    place: Place = HERE,
    profile: Profile = PROFILES["laptop"],
    announce: Callable[[str], None] = say,
) -> "Result":
    """`embedloom run`: compute what a recipe asks for and what is not there yet.

    Returns:
        What became of every step, by name: `outcomes["merged"].output` is the folder of what the step left.

    Raises:
        ValueError: a source or a model that cannot be used, or a step that asks for more than the cluster has. Nothing
            was computed then.
        UnfinishedError: it did not come to its end. What is finished stays: the same call goes on from there.
    """
    from workflows.pipeline import pipeline

    reach_registry(str(recipe), place.root, place.tracking_uri)
    return submit(
        lambda registry: pipeline(recipe, profile, registry),
        place,
        profile,
        recipe.name,
        recipe.model_dump(),
        recipe.description,
        announce,
        _slow_steps(recipe) if place.address is None and not profile.gpus_per_worker else "",
    )


def _slow_steps(recipe: "Recipe") -> str:
    """A line on the stages that this machine would train faster in float32; nothing if there are none."""
    slow = [name for name, asked in recipe.steps.items() if getattr(asked, "precision", "") == "bfloat16"]
    if not slow or multiplies_bfloat16():
        return ""
    return (
        f"note: {', '.join(slow)}: this processor does not multiply in bfloat16; float32 would be several times "
        f"faster, and is another result (--set steps.{slow[0]}.precision=float32)"
    )


def submit(
    steps_of: Callable[[str], list["Step"]],
    place: Place,
    profile: Profile,
    name: str,
    params: dict[str, Any],
    description: str,
    announce: Callable[[str], None] = say,
    note: str = "",
) -> "Result":
    """Run steps to their end.

    Args:
        steps_of: the steps wanted, given the URI of the MLflow server.
        name, params, description: of the run in MLflow.
        announce: is told where to look while it runs.
        note: what else it is told, if there is anything to compute.

    Raises:
        ValueError: as `runner.run`, and what `steps_of` raises.
        UnfinishedError: they did not come to their end.
    """
    from workflows.engine.runner import run
    from workflows.engine.step import Budget
    from workflows.engine.store import Store
    from workflows.engine.tracking import open_tracking

    store = Store(place.root)
    store.check_writable()
    tracking = open_tracking(name, place.tracking_uri, tracking_folder(place.root), place.mlflow_port)
    steps = steps_of(tracking.uri)

    def cluster() -> None:
        dashboard = connection.connect(place.address)
        announce(f"MLflow         {tracking.url}")
        if dashboard:
            announce(f"Ray dashboard  {dashboard} (while this runs; its token: ray get-auth-token)")
        if note:
            announce(note)

    largest = None
    if profile.maximum_cpus is not None or profile.maximum_gpus is not None:
        largest = Budget(cpus=profile.maximum_cpus or 0, gpus=profile.maximum_gpus or 0)
    result = run(steps, store, tracking, cluster, name, params, largest, description)
    if result.exit_code:
        raise UnfinishedError(result)
    return result
