"""Versions of a model in the MLflow registry: how they are found, entered, and what is kept with them.

The files travel as a LoggedModel of MLflow and the version's source is that model's URI: a server refuses a
source outside its own artifacts, and any client can download this one. Every call goes through a client with
an explicit URI; MLflow's process-wide state is left alone.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from components.serving.calls import Kind
from components.serving.card import Card, card_summary, write_card_files
from components.serving.errors import NoChampionError, NotRegisteredError, TrackingUnreachableError
from components.serving.release import Release
from components.storage import Folder

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
SPACE_TAG: dict[Kind, str] = {"embedding": "space_id", "reranker": "scorer_id"}
"""The tag of what a version's vectors or scores can be compared with."""
EVIDENCE = ("per_query.parquet", "run.parquet", "metrics.json")
_REACH_TIMEOUT_S = 10.0


def connect(tracking_uri: str | None) -> MlflowClient:
    """A client of the tracking server, `MLFLOW_TRACKING_URI` if None.

    Raises:
        TrackingUnreachableError: nobody answers there. Asked once; MLflow itself would try for minutes.
    """
    uri = tracking_uri or mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=_REACH_TIMEOUT_S).raise_for_status()
        except requests.RequestException as error:
            raise TrackingUnreachableError(
                f"the MLflow server at {uri} does not answer ({type(error).__name__}); "
                "start it, or give the URI of another"
            ) from error
    return MlflowClient(uri, uri)


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias -> version of a registered model. Raises NotRegisteredError."""
    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise NotRegisteredError(
            f"no model `{name}` is registered (there: {known}); `embedloom run` registers one"
        ) from error


def resolve(
    name: str,
    *,
    alias: str | None = None,
    version: str | None = None,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = print,
) -> Release:
    """The immutable version behind a name: `version`, or that of `alias`, or the champion.

    Where there is no champion yet, the candidate is taken and `say` is told so.

    Raises:
        NotRegisteredError: the name, alias or version is not in the registry.
        NoChampionError: neither champion nor candidate is there.
        TrackingUnreachableError: see `connect`.
    """
    client = connect(tracking_uri)
    at = aliases(client, name)
    if version is not None:
        return release_of(client, get_version(client, name, version))
    if alias is not None and alias != CHAMPION:
        if alias not in at:
            known = ", ".join(sorted(at)) or "none"
            raise NotRegisteredError(f"the model `{name}` has no alias `{alias}` (there: {known})")
        return release_of(client, get_version(client, name, at[alias]))
    if CHAMPION in at:
        return release_of(client, get_version(client, name, at[CHAMPION]))
    if alias is not None or CANDIDATE not in at:
        raise NoChampionError(f"the model `{name}` has no champion yet; `embedloom promote {name}` makes one")
    say(f"`{name}` has no champion yet: the candidate is taken; `embedloom promote {name}` makes it champion")
    return release_of(client, get_version(client, name, at[CANDIDATE]))


def get_version(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """Raises NotRegisteredError."""
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise NotRegisteredError(f"the model `{name}` has no version {version}") from error


def release_of(client: MlflowClient, version: ModelVersion) -> Release:
    """Where the files of a version are, and the digest they must have."""
    digest = version.tags.get("weights_digest")
    if digest is None:
        raise NotRegisteredError(
            f"version {version.version} of `{version.name}` was not registered by embedloom (no digest)"
        )
    return Release(
        model=version.name,
        version=version.version,
        uri=client.get_model_version_download_uri(version.name, version.version),
        digest=digest,
        tracking_uri=client.tracking_uri,
        kind=kind_of(version),
    )


def kind_of(version: ModelVersion) -> Kind:
    """What a version is served as; versions from before there were rerankers say nothing and embed."""
    return "reranker" if version.tags.get("kind") == "reranker" else "embedding"


def space_of(version: ModelVersion) -> str:
    """Of an embedder the space of its vectors, of a reranker that of its scores."""
    return version.tags[SPACE_TAG[kind_of(version)]]


def fingerprint_of(directory: Path, digest: str) -> str:
    """SHA-256 over what makes a model's vectors or scores: weights, encoding or prompt, and tokenizer."""
    parts = {"weights": digest}
    for name in ("encoding.json", "reranker.json", "tokenizer.json", "config.json"):
        if (directory / name).is_file():
            parts[name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_fingerprint(client: MlflowClient, name: str, fingerprint: str) -> ModelVersion | None:
    """The newest version of a model with this fingerprint."""
    found = client.search_model_versions(f"name='{name}' and tags.fingerprint='{fingerprint}'")
    return max(found, key=lambda version: int(version.version), default=None)


def registered_weights(client: MlflowClient) -> dict[str, str]:
    """Digest of the weights of every version of every model -> the versions that have them, in words."""
    found: dict[str, list[str]] = {}
    token = None
    while True:
        page = client.search_model_versions(page_token=token)
        for version in page:
            if digest := version.tags.get("weights_digest"):
                found.setdefault(digest, []).append(f"{version.name} {version.version}")
        token = page.token
        if not token:
            return {digest: ", ".join(sorted(names)) for digest, names in found.items()}


def add_version(
    client: MlflowClient,
    name: str,
    directory: Path,
    kind: Kind,
    tags: dict[str, str],
    experiment: str,
    run_id: str | None,
) -> ModelVersion:
    """Upload a model directory and enter it as a new version, its kind among the tags.

    The version is created last: an upload that breaks off leaves a LoggedModel that nothing points at.
    """
    tags = {"kind": kind, **tags}
    if run_id is not None:
        experiment_id = client.get_run(run_id).info.experiment_id
    else:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    logged = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, tags=tags, model_type=kind
    )
    client.log_model_artifacts(logged.model_id, str(directory))
    client.finalize_logged_model(logged.model_id, "READY")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name, logged.model_uri, run_id=run_id, model_id=logged.model_id, tags=tags, await_creation_for=0
    )


def add_evidence(client: MlflowClient, version: ModelVersion, role: str, evaluation: Folder) -> None:
    """Keep an evaluation's results with a version, as `evaluation/<role>/`."""
    with evaluation.local() as directory, tempfile.TemporaryDirectory() as temporary:
        for name in EVIDENCE:
            (Path(temporary) / name).write_bytes((directory / name).read_bytes())
        client.log_model_artifacts(_model_id(version), temporary, f"evaluation/{role}")


def add_card(client: MlflowClient, version: ModelVersion, card: Card) -> None:
    """Keep a card with a version, its text as `README.md`, and say the gist of it in the version's description."""
    with tempfile.TemporaryDirectory() as temporary:
        write_card_files(card, version.name, Path(temporary), version.version)
        client.log_model_artifacts(_model_id(version), temporary)
    client.update_model_version(version.name, version.version, card_summary(card, version.version))


def get_evidence(client: MlflowClient, version: ModelVersion, role: str, target: Path) -> Folder | None:
    """An evaluation that was kept with a version, copied to `target`; None if there is none."""
    present = client.list_logged_model_artifacts(_model_id(version), "evaluation")
    if f"evaluation/{role}" not in {info.path for info in present}:
        return None
    target.mkdir(parents=True, exist_ok=True)
    uri = client.get_model_version_download_uri(version.name, version.version)
    downloaded = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{uri}/evaluation/{role}", dst_path=str(target), tracking_uri=client.tracking_uri
    )
    return Folder(downloaded)


def _model_id(version: ModelVersion) -> str:
    return str(version.source).removeprefix("models:/")
