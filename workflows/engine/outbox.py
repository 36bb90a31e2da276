"""What a process has to say to MLflow, sent from one background thread.

Work never waits for the tracking server and never fails with it. What gathers for a run while a request is on
its way goes out as one batch; a server that does not answer is tried again for about half a minute, then what
was to be said is dropped with a warning. Results do not depend on it: the manifest is the truth.
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

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_RETRY_AFTER_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_SPACING_S = 0.5
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


class Outbox:
    """Use `outbox(uri)`: one a process and server."""

    def __init__(self, uri: str) -> None:
        self._client = client(uri)
        self._letters: dict[str, _Letter] = {}
        self._not_before: dict[str, float] = {}
        self._changed = threading.Condition()
        self._sending = False
        self._flushing = 0
        self._is_down = False
        threading.Thread(target=self._run, name="mlflow-outbox", daemon=True).start()
        atexit.register(self.flush, 10.0)

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
        with self._changed:
            letter = self._letters.setdefault(run_id, _Letter())
            letter.params.update(params or {})
            letter.metrics.extend(metrics)
            letter.tags.update(tags or {})
            letter.datasets.extend(datasets)
            letter.artifacts.update(artifacts or {})
            letter.status = status or letter.status
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is said. False: the server did not take it in time."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._letters and not self._sending, timeout_s)
            self._flushing -= 1
        return done

    def _run(self) -> None:
        while True:
            with self._changed:
                while (run_id := self._due()) is None:
                    self._changed.wait(_SPACING_S if self._letters else None)
                letter = self._letters.pop(run_id)
                self._sending = True
            self._send(run_id, letter)
            with self._changed:
                self._not_before[run_id] = time.monotonic() + _SPACING_S
                if letter.status:
                    del self._not_before[run_id]
                self._sending = False
                self._changed.notify_all()

    def _due(self) -> str | None:
        now = time.monotonic()
        for run_id, letter in self._letters.items():
            if self._flushing or letter.status or now >= self._not_before.get(run_id, 0.0):
                return run_id
        return None

    def _send(self, run_id: str, letter: _Letter) -> None:
        from mlflow.entities import Param, RunTag

        params = [Param(*item) for item in letter.params.items()]
        tags = [RunTag(*item) for item in letter.tags.items()]
        parts: list[tuple[str, Callable[[], Any]]] = []
        if params or tags or letter.metrics:
            batch = functools.partial(self._batch, run_id, params, letter.metrics, tags)
            parts.append(("parameters, metrics and tags", batch))
        if letter.datasets:
            parts.append(("datasets", functools.partial(self._client.log_inputs, run_id, letter.datasets)))
        for name, data in letter.artifacts.items():
            parts.append((name, functools.partial(self._upload, run_id, name, data)))
        if letter.status:
            parts.append(("status", functools.partial(self._client.set_terminated, run_id, letter.status)))
        for what, call in parts:
            self._try(what, call)

    def _batch(self, run_id: str, params: list[Any], metrics: list[Any], tags: list[Any]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        except MlflowException as error:
            if error.error_code not in _FINAL or not params:
                raise
            # A parameter cannot change: another attempt found another value. It must not take the metrics
            # with it.
            log.warning("run %s: parameters dropped: %s", run_id, _line(error))
            self._client.log_batch(run_id, metrics=metrics, tags=tags)

    def _upload(self, run_id: str, name: str, data: bytes) -> None:
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / file
            path.write_bytes(data)
            self._client.log_artifact(run_id, str(path), folder or None)

    def _try(self, what: str, call: Callable[[], Any]) -> None:
        # A server that was waited for once and did not come back is not waited for again until it answers.
        for pause in (None,) if self._is_down else (*_RETRY_AFTER_S, None):
            try:
                call()
                self._is_down = False
                return
            except Exception as error:  # whatever tracking does, the work goes on
                final = getattr(error, "error_code", None) in _FINAL
                if final or pause is None:
                    self._is_down = not final
                    log.warning("MLflow did not take %s: %s", what, _line(error))
                    return
                time.sleep(pause)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
