"""What a process has to say to MLflow, sent from one background thread.

Work never waits for the tracking server and never fails with it. What gathers for a run while a request is on
its way goes out as one batch. What a server that does not answer should have had is kept until it does; a process that
ends before that drops it. Results do not depend on it: the manifest is the truth.
"""

import atexit
import functools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_RETRY_AFTER_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between attempts, of which the last one stays; a server that outlasts them all is not waited for."""
_SPACING_S = 0.5
_MOST_METRICS = 100_000
"""Kept for a run, some 20 MB; the oldest go."""
# Answers that will be the same next time.
_FINAL = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "BAD_REQUEST",
    "PERMISSION_DENIED",
    "NOT_FOUND",
}


def client(uri: str) -> "MlflowClient":
    """A client for explicit run ids that fails fast; retries are the outbox's."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


@functools.cache
def outbox(uri: str) -> "Outbox":
    """The outbox of this process for a tracking server."""
    return Outbox(uri)


@dataclass
class _Letter:
    """What waits to be said about one run."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[Any] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    status: str | None = None

    def add(self, newer: "_Letter") -> None:
        """Say both, the newer one last."""
        self.params.update(newer.params)
        self.metrics.extend(newer.metrics)
        del self.metrics[:-_MOST_METRICS]
        self.tags.update(newer.tags)
        self.datasets.extend(newer.datasets)
        self.artifacts.update(newer.artifacts)
        self.status = newer.status or self.status


class Outbox:
    """Use `outbox(uri)`: one a process and server."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = client(uri)
        self._letters: dict[str, _Letter] = {}
        self._not_before: dict[str, float] = {}
        self._changed = threading.Condition()
        self._sending = False
        self._flushing = 0
        self._failures = 0
        self._quiet_until = 0.0
        self._gives_up = False
        threading.Thread(target=self._run, name="mlflow-outbox", daemon=True).start()
        atexit.register(self._end)

    def put(
        self,
        run_id: str,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[Any] = (),
        tags: Mapping[str, str] | None = None,
        datasets: Sequence[Any] = (),
        artifacts: Mapping[str, bytes] | None = None,
        status: str | None = None,
    ) -> None:
        """Say it soon. `status` ends the run and is said last."""
        said = _Letter(
            dict(params or {}), list(metrics), dict(tags or {}), list(datasets), dict(artifacts or {}), status
        )
        with self._changed:
            self._letters.setdefault(run_id, _Letter()).add(said)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is said. False: the server did not take it in time, or has long been away."""
        with self._changed:
            self._flushing += 1
            self._quiet_until = 0.0
            before = self._failures
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._all_said or before < self._failures > len(_RETRY_AFTER_S), timeout_s
            )
            self._flushing -= 1
            return self._all_said

    @property
    def _all_said(self) -> bool:
        return not self._letters and not self._sending

    def _end(self) -> None:
        if not self.flush(10.0):
            log.warning(
                "this process ends before MLflow has answered, and what it had to say of runs is lost"
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                while (run_id := self._due()) is None:
                    self._changed.wait(_SPACING_S if self._letters else None)
                letter = self._letters.pop(run_id)
                self._sending = True
            error = self._send(run_id, letter)
            with self._changed:
                now = time.monotonic()
                if error is None:
                    self._failures = 0
                    self._not_before[run_id] = now + _SPACING_S
                    if letter.status:
                        del self._not_before[run_id]
                else:
                    self._put_back(run_id, letter)
                    pause = _RETRY_AFTER_S[min(self._failures, len(_RETRY_AFTER_S) - 1)]
                    self._quiet_until = now + pause
                    self._failures += 1
                    if self._failures == len(_RETRY_AFTER_S) + 1:
                        log.warning(
                            "MLflow does not answer; what is said is kept until it does: %s", _line(error)
                        )
                self._sending = False
                self._changed.notify_all()

    def _put_back(self, run_id: str, letter: _Letter) -> None:
        if newer := self._letters.get(run_id):
            letter.add(newer)
        self._letters[run_id] = letter

    def _due(self) -> str | None:
        now = time.monotonic()
        if now < self._quiet_until:
            return None
        for run_id, letter in self._letters.items():
            if self._flushing or letter.status or now >= self._not_before.get(run_id, 0.0):
                return run_id
        return None

    def _send(self, run_id: str, letter: _Letter) -> Exception | None:
        """Say it, part by part, and forget what has been said; the error that ended it."""
        # A part that fails for as long, while the server is there, will not be taken.
        self._gives_up = self._failures >= len(_RETRY_AFTER_S) and self._is_answering()
        try:
            if letter.params or letter.metrics or letter.tags:
                self._say("parameters, metrics and tags", self._batch, run_id, letter)
                letter.params, letter.metrics, letter.tags = {}, [], {}
            if letter.datasets:
                self._say("datasets", self._client.log_inputs, run_id, letter.datasets)
                letter.datasets = []
            for name, data in list(letter.artifacts.items()):
                self._say(name, self._upload, run_id, name, data)
                del letter.artifacts[name]
            if letter.status:
                self._say("status", self._client.set_terminated, run_id, letter.status)
        except Exception as error:  # whatever tracking does, the work goes on
            return error
        return None

    def _say(self, what: str, call: Callable[..., Any], *arguments: Any) -> None:
        """What is refused for good is dropped with a warning; any other error is raised."""
        try:
            call(*arguments)
        except Exception as error:
            if getattr(error, "error_code", None) not in _FINAL and not self._gives_up:
                raise
            log.warning("MLflow did not take %s: %s", what, _line(error))

    def _is_answering(self) -> bool:
        try:
            return requests.get(f"{self._uri}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _batch(self, run_id: str, letter: _Letter) -> None:
        from mlflow.entities import Param, RunTag
        from mlflow.exceptions import MlflowException

        params = [Param(*item) for item in letter.params.items()]
        tags = [RunTag(*item) for item in letter.tags.items()]
        try:
            self._client.log_batch(run_id, metrics=letter.metrics, params=params, tags=tags)
        except MlflowException as error:
            if error.error_code not in _FINAL or not params:
                raise
            # A parameter cannot change: another attempt found another value. It must not take the metrics
            # with it.
            log.warning("run %s: parameters dropped: %s", run_id, _line(error))
            self._client.log_batch(run_id, metrics=letter.metrics, tags=tags)

    def _upload(self, run_id: str, name: str, data: bytes) -> None:
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / file
            path.write_bytes(data)
            self._client.log_artifact(run_id, str(path), folder or None)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
