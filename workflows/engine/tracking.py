"""The one seam to MLflow: a run a submission, a child run a step, written with explicit run ids from any
process.

Lineage between steps: a run has its output and each of its inputs as datasets; the digest of a step's output
is the start of its fingerprint, the same in the run that wrote it and in those that read it.
"""

import functools
import hashlib
import io
import json
import logging
import posixpath
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from components.storage import Folder
from workflows.engine import server
from workflows.engine.fingerprint import canonical_json
from workflows.engine.outbox import Outbox, client, outbox
from workflows.engine.plan import flatten
from workflows.engine.step import Step, producer
from workflows.engine.store import Manifest

log = logging.getLogger(__name__)

_PARAM_CHARACTERS = 6000
_TAG_CHARACTERS = 5000
_DIGEST_CHARACTERS = 32
_EXTERNALS_SHOWN = 20
_NAME_CHARACTERS = 200
_PROCESS = "embedloom.process"
_NOTE = "mlflow.note.content"
_PAGES = "workflowType=machine_learning"  # the pages for training, not those for prompts and traces

Inputs = Mapping[str, tuple[str, Folder]]
"""Keyword -> (fingerprint of the step that made it, its folder)."""


class Tracking:
    """The MLflow run of one submission. After `begin`, no method fails when MLflow does.

    Args:
        uri: of an MLflow server.
        experiment: name; made if absent.
        local: the server behind `uri` if this project started it; waited for in `begin`.
    """

    def __init__(self, uri: str, experiment: str, local: server.Server | None = None) -> None:
        self.uri = uri
        self.experiment = experiment
        self.experiment_id = ""
        self.run_id = ""
        self._local = local

    @property
    def place(self) -> str:
        """What tells this MLflow from others: a local server may come back on another port."""
        return str(Path(self._local.log).parent) if self._local else self.uri

    @property
    def url(self) -> str:
        """The page of the run."""
        return self.page(self.run_id)

    def page(self, run_id: str) -> str:
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{run_id}?{_PAGES}"

    def begin(self, name: str, params: Mapping[str, Any], description: str = "") -> None:
        """Open the parent run. MLflow shows `description`, in Markdown, at its head.

        Raises:
            ValueError: the server does not answer.
        """
        from mlflow.exceptions import MlflowException

        if self._local:
            self._local.wait()
        api = client(self.uri)
        try:
            self.experiment_id = _experiment(api, self.experiment)
            _end_abandoned(api, self.experiment_id)
            tags = {_PROCESS: _this_process()} | ({_NOTE: description} if description else {})
            self.run_id = api.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        except MlflowException as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"tracking server {self.uri} does not work: {said}") from error
        self._outbox.put(self.run_id, params=_params(params))

    def start(self, step: Step, fingerprint: str, output: Folder, inputs: Inputs) -> str | None:
        """Open the child run of a step that is computed. None: MLflow did not answer."""
        run_id = self._child(step, fingerprint, {"step.cached": "false", "step.output": output.uri})
        if run_id:
            self._outbox.put(
                run_id, params=_params(step.config), datasets=_datasets(step, fingerprint, output, inputs)
            )
        return run_id

    def reuse(self, step: Step, manifest: Manifest, output: Folder, inputs: Inputs) -> None:
        """Record a step whose result was there, with a link to the run that made it."""
        tags = {
            "step.cached": "true",
            "step.output": output.uri,
            "step.duration_s": f"{manifest.duration_s:.3f}",
            "step.computed_as": manifest.name,
        }
        source = manifest.tracking.get("run_id")
        if source:
            tags["step.source_run_id"] = source
            at = manifest.tracking["place"]
            where = f"[run {source}]({self.page(source)})" if at == self.place else f"run {source} at {at}"
            tags[_NOTE] = f"Reused; computed in {manifest.duration_s:.1f} s by {where}."
        run_id = self._child(step, manifest.fingerprint, tags)
        if run_id:
            self._outbox.put(
                run_id,
                params=_params(step.config),
                metrics=_metrics(manifest.numbers, 0),
                datasets=_datasets(step, manifest.fingerprint, output, inputs),
                status="FINISHED",
            )

    def finish(self, run_id: str | None, manifest: Manifest) -> None:
        """Close the child run of a step that was computed."""
        if run_id:
            tags = {"step.duration_s": f"{manifest.duration_s:.3f}"}
            tags |= {f"code.{key}": value for key, value in manifest.provenance.items()}
            self._outbox.put(run_id, metrics=_metrics(manifest.numbers, 0), tags=tags, status="FINISHED")

    def fail(self, run_id: str | None, status: str, error: str, traceback: str = "") -> None:
        """Close a child run as FAILED or KILLED."""
        if run_id:
            text = error[:_TAG_CHARACTERS]
            artifacts = {"traceback.txt": traceback.encode()} if traceback else None
            tags = {"step.error": text, _NOTE: text}
            self._outbox.put(run_id, tags=tags, artifacts=artifacts, status=status)

    def tag(self, run_id: str | None, tags: Mapping[str, str]) -> None:
        if run_id:
            self._outbox.put(run_id, tags=tags)

    def picture(self, image: bytes) -> None:
        """Keep the picture of the DAG on the parent run."""
        self._outbox.put(self.run_id, artifacts={"dag.png": image})

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the parent run and wait until MLflow has it all."""
        self._outbox.put(self.run_id, metrics=_metrics(metrics, 0), tags=tags, status=status)
        if not self._outbox.flush(45.0):
            log.warning(
                "MLflow at %s has not taken all of this run; results are complete in the store", self.uri
            )

    def monitor(self, step: Step, run_id: str | None, board: str | None) -> "RunMonitor":
        return RunMonitor(self.uri, run_id, step.name, board)

    @functools.cached_property
    def _outbox(self) -> Outbox:
        return outbox(self.uri)

    def _child(self, step: Step, fingerprint: str, tags: Mapping[str, str]) -> str | None:
        everything = {
            "mlflow.parentRunId": self.run_id,
            "step.name": step.name,
            "step.fn": step.fn,
            "step.fingerprint": fingerprint,
            _PROCESS: _this_process(),
            **tags,
        }
        try:
            run = client(self.uri).create_run(self.experiment_id, tags=everything, run_name=step.name)
        except Exception as error:  # losing MLflow must not lose work
            log.warning("no MLflow run for step `%s`: %s", step.name, str(error).splitlines()[0])
            return None
        return run.info.run_id


def open_tracking(
    experiment: str, uri: str | None = None, directory: Path | str | None = None, port: int | None = None
) -> Tracking:
    """The tracking of one submission: of the server at `uri`, or of a local one over `directory`.

    A local server is started if none runs; that goes on while the caller plans.

    Raises:
        ValueError: a database was named instead of a server, or the port is in use.
    """
    if uri is not None:
        if not uri.startswith(("http://", "https://")):
            raise ValueError(
                f"tracking URI {uri!r}: name an MLflow server (http://...), not its database or folder"
            )
        return Tracking(uri.rstrip("/"), experiment)
    if directory is None:
        raise ValueError("tracking needs the URI of an MLflow server or a directory for a local one")
    local = server.start(directory, port)
    return Tracking(local.uri, experiment, local)


@dataclass(frozen=True)
class RunMonitor:
    """A step's `components.monitor.Monitor`: to MLflow and to the progress board, from any process of the
    cluster."""

    uri: str
    run_id: str | None
    step: str
    board: str | None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if self.run_id:
            outbox(self.uri).put(self.run_id, metrics=_metrics(values, step or 0))

    def params(self, values: Mapping[str, Any]) -> None:
        if self.run_id:
            outbox(self.uri).put(self.run_id, params=_params(values))

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        from workflows.engine import board

        if self.board:
            board.post(self.board, self.step, board.Progress(float(done), total, unit, dict(facts)))

    def figure(self, name: str, figure: Any) -> None:
        image = io.BytesIO()
        figure.savefig(image, format=name.rpartition(".")[2], bbox_inches="tight")
        self.artifact(name, image.getvalue())

    def artifact(self, name: str, data: bytes) -> None:
        if self.run_id:
            outbox(self.uri).put(self.run_id, artifacts={name: data})

    def flush(self) -> None:
        """Wait, for some seconds, until MLflow has what was said in this process."""
        if self.run_id:
            outbox(self.uri).flush(15.0)


def _experiment(api: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = api.get_experiment_by_name(name)
    if found is None:
        try:
            return api.create_experiment(name)
        except MlflowException:  # another submission was first
            found = api.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ValueError(f"the MLflow experiment {name!r} was deleted; restore it or name another")
    return found.experiment_id


def _end_abandoned(api: Any, experiment_id: str) -> None:
    """Mark as KILLED what drivers of this host left RUNNING when they were killed without a chance to say
    so."""
    running = f"attributes.status = 'RUNNING' and tags.`{_PROCESS}` LIKE '{socket.gethostname()}:%'"
    for run in api.search_runs([experiment_id], running):
        _, pid, started = run.data.tags[_PROCESS].rsplit(":", 2)
        try:
            alive = abs(psutil.Process(int(pid)).create_time() - float(started)) < 1.0
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            api.set_terminated(run.info.run_id, "KILLED")


def _this_process() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def _params(values: Mapping[str, Any]) -> dict[str, str]:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flatten(values)}
    return {mlflow_name(key): text[:_PARAM_CHARACTERS] for key, text in texts.items()}


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(mlflow_name(key), float(value), now, step) for key, value in values.items()]


def mlflow_name(name: str) -> str:
    """As MLflow allows it: neither with @ and most other signs (ndcg@10 is ndcg_at_10), nor with // or .. in it."""
    plain = re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))
    return posixpath.normpath(f"/{plain}").lstrip("/.") or "_"


def _datasets(step: Step, fingerprint: str, output: Folder, inputs: Inputs) -> list[Any]:
    """Output, inputs and external content of a step as MLflow datasets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def dataset(name: str, digest: str, place: str, context: str) -> Any:
        kind = place.partition("://")[0] if "://" in place else "local"
        what = Dataset(name=name, digest=digest[:_DIGEST_CHARACTERS], source_type=kind, source=place)
        return DatasetInput(what, [InputTag("mlflow.data.context", context)])

    found = [dataset(step.name, fingerprint, output.uri, "output")]
    for key, (made_by, folder) in inputs.items():
        found.append(dataset(producer(step.inputs[key]).name, made_by, folder.uri, "input"))
    shown = dict(step.external)
    if len(shown) > _EXTERNALS_SHOWN:
        shown = {f"{len(shown)} files": hashlib.sha256(canonical_json(shown).encode()).hexdigest()}
    found += [dataset(name[-_NAME_CHARACTERS:], digest, name, "external") for name, digest in shown.items()]
    return found
