"""The steps that register: a model enters the registry once, is judged, and becomes the candidate."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.evaluation.collection import read_collection
from components.evaluation.evaluation import read_evaluation
from components.evaluation.reranking import evaluate_beside
from components.evaluation.retrieval import evaluate_model
from components.model.embedder import read_spec
from components.model.export import weights_digest
from components.model.reranker import load_pair_tokens
from components.model.reranker_file import scorer_id
from components.monitor import Monitor, Silent
from components.serving.calls import Kind
from components.serving.card import read_card
from components.serving.judgement import champion_role, judge
from components.serving.registration import Registration, write_registration
from components.serving.release import fetch
from components.serving.verify import check_files
from components.serving.versions import (
    CANDIDATE,
    CHAMPION,
    SPACE_TAG,
    add_card,
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

MeasureChampion = Callable[[ModelVersion, Path], Folder]
"""The champion's scores on the candidate's evaluation set: kept ones, or measured; an empty directory for them."""


def register_model(
    *,
    model: Folder,
    split: Folder,
    evaluation: Folder,
    base_evaluation: Folder,
    card: Folder,
    output: Folder,
    monitor: Monitor,
    name: str,
    tracking_uri: str | None = None,
    experiment: str = "embedloom",
    run_id: str | None = None,
    tokens_per_batch: int = 4096,
) -> dict[str, float]:
    """Enter an embedding model into the MLflow registry, judge it, and move the alias `candidate` to it.

    A model that is there already (same weights, encoding and tokenizer) is not entered again, only judged
    anew: against its base and the present champion, on the same evaluation set. A champion whose scores
    come from another set is evaluated here on this one.

    Args:
        model: model directory.
        split: output of the split step, whose `evaluation/` is the set.
        evaluation, base_evaluation: `evaluate_model` outputs of the model and of its untrained base on it.
        card: what `write_card` left; goes with the version, and a summary of it into its description.
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

    def measure(champion: ModelVersion, directory: Path) -> Folder:
        known = get_evidence(client, champion, "model", directory / "known")
        if known is not None and read_evaluation(known).digest == read_collection(split).digest:
            return known
        measured = Folder(str(directory / "measured"))
        evaluate_model(
            split=split, model=Folder(str(fetch(release_of(client, champion)))), output=measured,
            monitor=Silent(), tokens_per_batch=tokens_per_batch,
        )  # fmt: skip
        return measured

    version, is_new = _enter(client, model, name, "embedding", experiment, run_id)
    add_card(client, version, read_card(card))
    return _judge(client, version, is_new, evaluation, base_evaluation, measure, output, monitor)


def register_reranker(
    *,
    model: Folder,
    split: Folder,
    evaluation: Folder,
    base_evaluation: Folder,
    card: Folder,
    output: Folder,
    monitor: Monitor,
    name: str,
    tracking_uri: str | None = None,
    experiment: str = "embedloom",
    run_id: str | None = None,
    tokens_per_batch: int = 4096,
) -> dict[str, float]:
    """The same for a reranker: its base is the ranking that it was given, its scores are those of its order.

    A champion is evaluated here on the candidate's queries, first stage and depth: scores on another first stage say
    nothing about the reranker.

    Args:
        model: reranker directory.
        evaluation, base_evaluation: `evaluate_reranker` output, and the `first_stage` in it.

    The others, what is returned and raised: as of `register_model`.
    """

    client = connect(tracking_uri)

    def measure(champion: ModelVersion, directory: Path) -> Folder:
        measured = Folder(str(directory))
        evaluate_beside(
            split=split, model=Folder(str(fetch(release_of(client, champion)))), result=evaluation,
            output=measured, monitor=Silent(), tokens_per_batch=tokens_per_batch,
        )  # fmt: skip
        return measured

    version, is_new = _enter(client, model, name, "reranker", experiment, run_id)
    add_card(client, version, read_card(card))
    return _judge(client, version, is_new, evaluation, base_evaluation, measure, output, monitor)


def _enter(
    client: MlflowClient, model: Folder, name: str, kind: Kind, experiment: str, run_id: str | None
) -> tuple[ModelVersion, bool]:
    """The version of a model directory, and whether it has just been made."""
    with model.local() as directory:
        check_files(directory, kind)
        digest = weights_digest(directory)
        fingerprint = fingerprint_of(directory, digest)
        version = find_fingerprint(client, name, fingerprint)
        if version is not None:
            return version, False
        if kind == "embedding":
            space_id = read_spec(directory).space_id(digest)
        else:
            space_id = scorer_id(digest, load_pair_tokens(directory).digest())
        tags = {"fingerprint": fingerprint, "weights_digest": digest, SPACE_TAG[kind]: space_id}
        return add_version(client, name, directory, kind, tags, experiment, run_id), True


def _judge(
    client: MlflowClient,
    version: ModelVersion,
    is_new: bool,
    evaluation: Folder,
    base_evaluation: Folder,
    measure: MeasureChampion,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Keep the scores with the version, ask the gate, and make it the candidate."""
    name = version.name
    add_evidence(client, version, "model", evaluation)
    add_evidence(client, version, "base", base_evaluation)
    champion = aliases(client, name).get(CHAMPION)
    if champion == version.version:
        champion = None
    if champion is not None:
        with tempfile.TemporaryDirectory() as temporary:
            found = measure(get_version(client, name, champion), Path(temporary))
            add_evidence(client, version, champion_role(champion), found)
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

    fingerprint = version.tags["fingerprint"]
    write_registration(output, Registration(name, version.version, fingerprint, champion))
    gate = {**asdict(decision), "champion": champion}
    output.write("gate.json", json.dumps(gate, indent=2).encode())
    monitor.params({"registered": f"models:/{name}/{version.version}", "gate": "; ".join(decision.reasons)})
    return {"version": float(version.version), "new": float(is_new), "gate_passed": float(decision.passed)}
