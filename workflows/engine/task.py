"""What runs in a Ray worker: one attempt of one step. The driver hands in a `Call` and gets a `Done` or a
`Failed`."""

import contextlib
import hashlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.storage import Folder
from workflows.engine.step import resolve
from workflows.engine.store import Followed
from workflows.engine.tracking import RunMonitor


@dataclass(frozen=True)
class Call:
    """A step's function with everything it is called with."""

    fn: str
    inputs: Mapping[str, Folder | Followed]
    arguments: Mapping[str, Any]
    """Configuration and execution."""
    output: Folder
    state: Folder
    cache: Folder
    monitor: RunMonitor
    threads: int


@dataclass(frozen=True)
class Done:
    """An attempt that came to its end."""

    numbers: dict[str, float]
    outputs: dict[str, dict[str, Any]]
    started: float
    finished: float


@dataclass(frozen=True)
class Failed:
    """An attempt that did not.

    `user`: the function says, in a sentence, what is wrong with what it was given (ValueError). `cluster`: a
    process or a node was lost; worth another attempt. `bug`: anything else.
    """

    kind: Literal["user", "cluster", "bug"]
    message: str
    traceback: str


def execute(call: Call) -> Done | Failed:
    """Run one attempt."""
    started = time.time()
    try:
        with _threads(call.threads):
            numbers = _run(call)
        outputs = _digests(call.output)
    except Exception as error:
        return failure(error)
    finally:
        call.monitor.flush()
    return Done(numbers, outputs, started, time.time())


def failure(error: BaseException) -> Failed:
    """Whose fault an exception is."""
    from ray import exceptions as ray_errors

    cluster = (
        ray_errors.RayActorError,
        ray_errors.WorkerCrashedError,
        ray_errors.LocalRayletDiedError,
        ray_errors.NodeDiedError,
        ray_errors.OutOfMemoryError,
        ray_errors.ObjectLostError,
        ray_errors.TaskPlacementGroupRemoved,
        ray_errors.ActorPlacementGroupRemoved,
    )
    text = "".join(traceback.format_exception(error))
    raised = _raised(error)
    if isinstance(raised, ValueError):
        return Failed("user", _sentence(raised), text)
    for cause in _chain(raised):
        if isinstance(cause, cluster):
            return Failed("cluster", f"{type(cause).__name__}: {_sentence(cause)}", text)
    return Failed("bug", f"{type(raised).__name__}: {_sentence(raised)}", text)


def _raised(error: BaseException) -> BaseException:
    """The exception that code raised, out of what Ray and Ray Train wrap it in on the way here."""
    from ray.exceptions import RayTaskError

    while True:
        inner: BaseException | None = None
        if isinstance(error, RayTaskError):
            inner = error.cause
        elif failures := list(getattr(error, "worker_failures", {}).values()):  # ray.train.WorkerGroupError
            # One worker's error makes the others lose their peer: what says what is wrong comes first.
            raised = [_raised(failure) for failure in failures]
            inner = next((each for each in raised if isinstance(each, ValueError)), raised[0])
        else:  # ray.train.ControllerError, and what a Train worker's exception travels in
            inner = getattr(error, "controller_failure", None) or getattr(error, "_base_exc", None)
        if inner is None:
            return error
        error = inner


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what led to it."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _run(call: Call) -> dict[str, float]:
    function = resolve(call.fn)
    given = {**call.inputs, **call.arguments, "output": call.output, "monitor": call.monitor}
    wanted = inspect.signature(function).parameters
    if "run_id" in wanted:
        given["run_id"] = call.monitor.run_id
    if "cache" in wanted:
        given["cache"] = call.cache
    if "state" in wanted:
        given["state"] = call.state
        _make(call.state)
    _make(call.output)
    numbers = function(**given)
    if not isinstance(numbers, Mapping) or not all(
        isinstance(value, int | float) for value in numbers.values()
    ):
        raise TypeError(f"{call.fn} returned {numbers!r:.200}; a step returns a dict of numbers")
    return {key: float(value) for key, value in numbers.items()}


def _make(folder: Folder) -> None:
    """An object store has no folders to make."""
    if folder.is_local:
        os.makedirs(folder.path(), exist_ok=True)


def _digests(output: Folder) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of an output: one more pass over it, and any later damage can be
    told."""
    found = {}
    for name, size in output.files().items():
        with output.open(name) as file:
            digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        found[name] = {"size": size, "sha256": digest.hexdigest()}
    return found


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Ray gives a task that declares no CPU one thread, for its budget is kept by our own ledger. Give it
    what it has."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    torch = sys.modules.get(
        "torch"
    )  # imported by an earlier step of this worker: it no longer reads the environment
    if torch is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
