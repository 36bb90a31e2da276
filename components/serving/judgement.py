"""The gate over what is kept with the versions of the registry."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.evaluation.evaluation import Evaluation, read_evaluation
from components.evaluation.gate import Decision, decide
from components.serving.errors import GateError
from components.serving.versions import get_evidence


def champion_role(version: str) -> str:
    """Under which name a candidate keeps the scores of a champion on its own evaluation set."""
    return f"champion-{version}"


def judge(client: MlflowClient, candidate: ModelVersion, champion: str | None) -> Decision:
    """Judge a version against its base and against the champion's version, if there is one.

    Raises:
        GateError: the candidate was not evaluated, or not beside this champion.
    """
    model, base = (_evidence(client, candidate, role) for role in ("model", "base"))
    rival = None if champion is None else _evidence(client, candidate, champion_role(champion))
    return decide(model, base, rival)


def _evidence(client: MlflowClient, version: ModelVersion, role: str) -> Evaluation:
    with tempfile.TemporaryDirectory() as temporary:
        folder = get_evidence(client, version, role, Path(temporary))
        if folder is None:
            raise GateError(
                f"version {version.version} of `{version.name}` has no scores of `{role}` on its evaluation "
                "set; run the workflow again, which registers them"
            )
        return read_evaluation(folder)
