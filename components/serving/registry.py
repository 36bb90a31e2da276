"""The step that registers: a model enters the registry once, is judged, and becomes the candidate."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.evaluation.collection import read_collection
from components.evaluation.evaluation import read_evaluation
from components.evaluation.retrieval import evaluate_model
from components.model.embedder import read_spec
from components.model.export import weights_digest
from components.monitor import Monitor, Silent
from components.serving.judgement import champion_role, judge
from components.serving.registration import Registration, write_registration
from components.serving.release import fetch
from components.serving.verify import check_files
from components.serving.versions import (
    CANDIDATE,
    CHAMPION,
    add_evidence,
    add_version,
    aliases,
    connect,
    find_fingerprint,
    fingerprint_of,
    get_evidence,
    get_version,
    release_of,
)
from components.storage import Folder


def register_model(
    *,
    model: Folder,
    split: Folder,
    evaluation: Folder,
    base_evaluation: Folder,
    output: Folder,
    monitor: Monitor,
    name: str,
    tracking_uri: str | None = None,
    experiment: str = "embedloom",
    run_id: str | None = None,
    tokens_per_batch: int = 4096,
) -> dict[str, float]:
    """Enter a model into the MLflow registry, judge it, and move the alias `candidate` to it.

    A model that is there already (same weights, encoding and tokenizer) is not entered again, only judged
    anew: against its base and the present champion, on the same evaluation set. A champion whose scores
    come from another set is evaluated here on this one.

    Args:
        model: model directory.
        split: output of the split step, whose `evaluation/` is the set.
        evaluation, base_evaluation: `evaluate_model` outputs of the model and of its untrained base on it.
        output: receives `gate.json` and `registration.json`.
        name: of the registered model.
        tracking_uri: MLflow server; `MLFLOW_TRACKING_URI` if None.
        experiment: where the files are logged if `run_id` is not given.
        run_id: MLflow run that the version is linked to.
        tokens_per_batch: padded tokens at once when the champion is evaluated.

    Returns: version, new (1 or 0), gate_passed (1 or 0).

    Raises:
        TrackingUnreachableError, ModelRefusedError.
    """
    client = connect(tracking_uri)
    with model.local() as directory:
        check_files(directory)
        digest = weights_digest(directory)
        fingerprint = fingerprint_of(directory, digest)
        version = find_fingerprint(client, name, fingerprint)
        is_new = version is None
        if version is None:
            space_id = read_spec(directory).space_id(digest)
            tags = {"fingerprint": fingerprint, "weights_digest": digest, "space_id": space_id}
            version = add_version(client, name, directory, tags, experiment, run_id)
    add_evidence(client, version, "model", evaluation)
    add_evidence(client, version, "base", base_evaluation)
    champion = aliases(client, name).get(CHAMPION)
    if champion == version.version:
        champion = None
    if champion is not None:
        _measure_champion(client, version, get_version(client, name, champion), split, tokens_per_batch)
    decision = judge(client, version, champion)
    candidate = read_evaluation(evaluation)
    tags = {
        "scores": json.dumps(
            {metric: round(interval.mean, 6) for metric, interval in candidate.metrics.items()}
        ),
        "evaluation_digest": candidate.digest,
        "corpus_size": str(candidate.corpus_size),
        "queries": str(candidate.queries),
        "gate.passed": str(decision.passed).lower(),
        "gate.reasons": "; ".join(decision.reasons),
    }
    for key, value in tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    client.set_registered_model_alias(name, CANDIDATE, version.version)

    write_registration(output, Registration(name, version.version, fingerprint, champion))
    gate = {**asdict(decision), "champion": champion}
    output.write("gate.json", json.dumps(gate, indent=2).encode())
    monitor.params({"registered": f"models:/{name}/{version.version}", "gate": "; ".join(decision.reasons)})
    return {"version": float(version.version), "new": float(is_new), "gate_passed": float(decision.passed)}


def _measure_champion(
    client: MlflowClient, version: ModelVersion, champion: ModelVersion, split: Folder, tokens_per_batch: int
) -> None:
    """Have the champion's scores on the candidate's evaluation set kept with the candidate."""
    digest = read_collection(split).digest
    with tempfile.TemporaryDirectory() as temporary:
        known = get_evidence(client, champion, "model", Path(temporary) / "known")
        if known is None or read_evaluation(known).digest != digest:
            release = release_of(client, champion)
            known = Folder(temporary) / "measured"
            evaluate_model(
                split=split,
                model=Folder(str(fetch(release))),
                output=known,
                monitor=Silent(),
                tokens_per_batch=tokens_per_batch,
            )
        add_evidence(client, version, champion_role(champion.version), known)
