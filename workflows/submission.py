"""A submission: steps to a store, an MLflow run and a Ray cluster, from the options of a command."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflows import connection
from workflows.profile import Profile
from workflows.terminal import fail, say, tracking_folder

if TYPE_CHECKING:
    from workflows.engine.runner import Result
    from workflows.engine.step import Step


@dataclass(frozen=True)
class Place:
    """Where a submission goes; none of it changes what is computed.

    Attributes:
        root: of the store.
        tracking_uri: of an MLflow server; None: the local one, on `mlflow_port` or any free one.
        address: of a Ray cluster; None: this machine.
    """

    root: str
    tracking_uri: str | None
    mlflow_port: int | None
    address: str | None


def submit(
    steps_of: Callable[[str], list["Step"]],
    place: Place,
    profile: Profile,
    name: str,
    params: dict[str, Any],
    description: str,
    announce: Callable[[str], None] = say,
) -> "Result":
    """Run steps to their end, or end the command with what went wrong.

    Args:
        steps_of: the steps wanted, given the URI of the MLflow server.
        name, params, description: of the run in MLflow.
        announce: is told where to look while it runs.

    Raises:
        ValueError: as `runner.run`, and what `steps_of` raises.
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

    largest = None
    if profile.maximum_cpus is not None or profile.maximum_gpus is not None:
        largest = Budget(cpus=profile.maximum_cpus or 0, gpus=profile.maximum_gpus or 0)
    result = run(steps, store, tracking, cluster, name, params, largest, description)
    if result.exit_code:
        fail(result.message, result.exit_code)
    return result
