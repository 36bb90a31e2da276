"""Past submissions, as MLflow remembers them."""

from dataclasses import dataclass
from datetime import datetime

from workflows.engine.outbox import client


@dataclass(frozen=True)
class PastRun:
    """One submission."""

    run_id: str
    name: str
    status: str
    started: datetime
    duration_s: float | None
    """None while it runs."""


def past_runs(uri: str, limit: int) -> list[PastRun]:
    """The last submissions to a tracking server, newest first.

    Raises:
        ValueError: the server does not answer.
    """
    from mlflow.exceptions import MlflowException

    api = client(uri)
    try:
        experiments = [experiment.experiment_id for experiment in api.search_experiments()]
        found = api.search_runs(
            experiments,
            "tags.`mlflow.parentRunId` IS NULL AND tags.`embedloom.process` != ''",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
    except MlflowException as error:
        raise ValueError(f"tracking server {uri} does not answer: {str(error).splitlines()[0]}") from error
    return [
        PastRun(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            started=datetime.fromtimestamp(run.info.start_time / 1000),
            duration_s=(run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else None,
        )
        for run in found
    ]
