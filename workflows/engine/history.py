"""Past submissions, as MLflow remembers them."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from workflows.engine.outbox import client

if TYPE_CHECKING:
    from mlflow.entities import Run

_SUBMISSIONS = "tags.`mlflow.parentRunId` IS NULL AND tags.`embedloom.process` != ''"
_STEPS = "tags.`step.fingerprint` != ''"
_STATES = {"RUNNING": "running", "FINISHED": "computed"}
_PAGE = 500


@dataclass(frozen=True)
class PastRun:
    """One submission."""

    run_id: str
    name: str
    status: str
    started: datetime
    duration_s: float | None
    """None while it runs."""


@dataclass(frozen=True)
class StepRun:
    """One step of a submission, as far as it is."""

    name: str
    state: str
    """running, computed, reused, failed or killed."""
    started: datetime
    duration_s: float | None
    """None while it runs."""
    said: str
    """How far it is, with the time left; or why it ended."""


@dataclass(frozen=True)
class RecordedStep:
    """A step of a submission, computed or reused."""

    name: str
    fingerprint: str
    output: str
    """URI of what it left; of the last attempt where it is not done."""
    is_done: bool


@dataclass(frozen=True)
class RecordedRun:
    """A submission with its steps."""

    run: PastRun
    is_deleted: bool
    """Deleted in MLflow, which can still bring it back."""
    steps: tuple[RecordedStep, ...]


def past_runs(uri: str, limit: int, name: str | None = None) -> list[PastRun]:
    """The last submissions to a tracking server, newest first.

    Args:
        name: of the recipe; None: of all recipes.

    Raises:
        ValueError: the server does not answer.
    """
    found = (run for run in _search(uri, _SUBMISSIONS) if name in (None, run.info.run_name))
    return [_past(run) for run in itertools.islice(found, limit)]


def steps_of(uri: str, run_id: str) -> tuple[PastRun, list[StepRun]]:
    """A submission and the steps that it has begun, in that order.

    Raises:
        ValueError: the server does not answer, or knows of no such run.
    """
    with _answering(uri):
        run = client(uri).get_run(run_id)
    return _past(run), [_step_run(step) for step in _search(uri, _children(run_id), order="ASC")]


def recorded_run(uri: str, run_id: str) -> RecordedRun | None:
    """A submission with its steps in the order in which they were begun; None: there is no such one.

    Raises:
        ValueError: the server does not answer.
    """
    if not run_id.isalnum():  # it becomes part of a filter
        return None
    found = next(_search(uri, f"{_SUBMISSIONS} AND attributes.run_id = '{run_id}'"), None)
    steps = _search(uri, f"{_STEPS} AND {_children(run_id)}", order="ASC")
    return _recorded(found, [_recorded_step(run) for run in steps]) if found else None


def recorded_runs(uri: str) -> list[RecordedRun]:
    """All submissions with their steps, newest first, those that were deleted too.

    Raises:
        ValueError: the server does not answer.
    """
    steps: dict[str, list[RecordedStep]] = {}
    for run in _search(uri, _STEPS, deleted=True):
        steps.setdefault(run.data.tags["mlflow.parentRunId"], []).append(_recorded_step(run))
    return [
        _recorded(run, steps.get(run.info.run_id, [])) for run in _search(uri, _SUBMISSIONS, deleted=True)
    ]


def _children(run_id: str) -> str:
    return f"tags.`mlflow.parentRunId` = '{run_id}'"


def _search(uri: str, filters: str, deleted: bool = False, order: str = "DESC") -> Iterator["Run"]:
    from mlflow.entities import ViewType

    api, view, token = client(uri), ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None
    with _answering(uri):
        experiments = [each.experiment_id for each in api.search_experiments(view_type=view)]
        while True:
            page = api.search_runs(
                experiments,
                filters,
                view,
                max_results=_PAGE,
                order_by=[f"attributes.start_time {order}"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return


@contextlib.contextmanager
def _answering(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ValueError(f"tracking server {uri}: {str(error).splitlines()[0]}") from error
        raise ValueError(f"tracking server {uri} does not answer: {str(error).splitlines()[0]}") from error


def _past(run: "Run") -> PastRun:
    return PastRun(run.info.run_id, run.info.run_name, run.info.status, *_times(run))


def _times(run: "Run") -> tuple[datetime, float | None]:
    started, ended = run.info.start_time, run.info.end_time
    return datetime.fromtimestamp(started / 1000), (ended - started) / 1000 if ended else None


def _step_run(run: "Run") -> StepRun:
    tags = run.data.tags
    reused = tags.get("step.cached") == "true"
    state = "reused" if reused else _STATES.get(run.info.status, run.info.status.lower())
    said = tags.get("step.progress", "") if state == "running" else tags.get("step.error", "")
    return StepRun(run.info.run_name, state, *_times(run), said)


def _recorded(run: "Run", steps: list[RecordedStep]) -> RecordedRun:
    return RecordedRun(_past(run), run.info.lifecycle_stage == "deleted", tuple(steps))


def _recorded_step(run: "Run") -> RecordedStep:
    tags: Mapping[str, str] = run.data.tags
    return RecordedStep(
        tags["step.name"], tags["step.fingerprint"], tags["step.output"], run.info.status == "FINISHED"
    )
