"""What the engines have done so far, in one small actor: for the progress, and for the cap on errors."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from components.monitor import Monitor
from components.synthesis.answers import WRITE_EVERY, AnswerLog

RESTARTS = 3  # so many deaths of an engine are taken for bad luck
TICK = 2.0  # seconds between two signs of life


@dataclass
class Book:
    """Sums over all engines.

    Attributes:
        rows: documents that are finished, failed ones included.
        output_tokens: written in both calls.
        faults: documents that failed, by fault. last_error: the words of the last one.
        starts: engines started. start_seconds: the longest start.
        work_seconds: since the first engine was ready.
        stopped: why the work cannot go on, whatever the rows; "" if it can.
    """

    rows: int = 0
    output_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    last_error: str = ""
    starts: int = 0
    start_seconds: float = 0.0
    work_seconds: float = 0.0
    stopped: str = ""

    @property
    def errors(self) -> int:
        return self.faults.total()

    def speed(self) -> dict[str, float]:
        seconds = max(self.work_seconds, 1e-9)
        return {
            "engine_start_seconds": self.start_seconds,
            "rows_per_second": self.rows / seconds,
            "output_tokens_per_second": self.output_tokens / seconds,
        }


@ray.remote(num_cpus=0)
class Ledger:
    """The book, and whether the work may go on."""

    def __init__(self, most_errors: int, most_starts: int) -> None:
        self._most_errors = most_errors
        self._most_starts = most_starts
        self._book = Book()
        self._ready_at: float | None = None
        self._engines: list[ActorHandle] = []

    def begin_engine(self, engine: ActorHandle) -> None:
        """Raises RuntimeError when engines have died too often: what kills one may kill every next one."""
        self._engines.append(engine)
        self._book.starts += 1
        if self._book.starts > self._most_starts:
            raise RuntimeError(f"engines died {self._book.starts - 1} times; their log says why")

    def engine_ready(self, seconds: float) -> None:
        self._ready_at = self._ready_at or time.monotonic()
        self._book.start_seconds = max(self._book.start_seconds, seconds)

    def add(self, output_tokens: int, fault: str, error: str) -> bool:
        """Book a finished row; `fault` and `error` are empty unless the writer failed for it.

        False: more rows failed than may fail, or the work was stopped.
        """
        self._book.rows += 1
        self._book.output_tokens += output_tokens
        if error:
            self._book.faults[fault] += 1
            self._book.last_error = error
        if self._ready_at is not None:
            self._book.work_seconds = time.monotonic() - self._ready_at
        return self._book.errors <= self._most_errors and not self._book.stopped

    def stop(self, reason: str) -> None:
        """Nothing that is asked from now on can be answered."""
        self._book.stopped = self._book.stopped or reason

    def read(self) -> Book:
        return self._book

    def engines(self) -> list[ActorHandle]:
        """All that ever began, dead ones included."""
        return self._engines


def new_ledger(most_errors: int, num_engines: int) -> ActorHandle:
    return Ledger.remote(most_errors, num_engines * (1 + RESTARTS))  # type: ignore[attr-defined]


def read_book(ledger: ActorHandle) -> Book:
    return cast(Book, ray.get(ledger.read.remote()))


def end_engines(ledger: ActorHandle) -> None:
    """End the engines of a step that failed, once what they have answered is written.

    Ray Data lets its actors go only when nobody holds the error any more; until then they would go on to ask, and an
    engine would hold its CPUs and GPUs while the next attempt waits for them.
    """
    time.sleep(2 * WRITE_EVERY)
    engines: list[ActorHandle] = ray.get(ledger.engines.remote())
    for engine in engines:
        ray.kill(engine)


@contextlib.contextmanager
def watched(ledger: ActorHandle, monitor: Monitor, done: int, total: int) -> Iterator[None]:
    """Report the ledger to the monitor while the block runs; `done` of `total` rows stood there before.

    A ledger that has died is no longer reported: what killed it ends the block, in its own words.
    """
    over = threading.Event()

    def report() -> None:
        with contextlib.suppress(RayActorError):
            while not over.wait(TICK):
                tell()

    def tell() -> None:
        book = read_book(ledger)
        facts = {"failed": float(book.errors)}
        if book.rows:
            facts["tokens_per_second"] = book.speed()["output_tokens_per_second"]
        monitor.progress(done + book.rows, total, "rows", **facts)

    watcher = threading.Thread(target=report, name="synthesis-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        with contextlib.suppress(RayActorError):
            tell()


class ErrorShareExceededError(Exception):
    """More rows failed than the step may lose."""


async def enter(written: dict[str, Any], log: AnswerLog, ledger: ActorHandle) -> None:
    """Keep a finished row, of ANSWERS, and count it.

    A row that failed is counted first: Ray Data may leave a worker at its rows when the step has ended already, and
    what fails there must not be found by the next attempt. A row that was answered is kept whatever became of the
    step: it was paid for.

    Raises:
        ErrorShareExceededError: the work is to end.
    """
    if not written["error"]:
        await log.keep(written)
    if not await ledger.add.remote(written["output_tokens"], written["fault"], written["error"]):
        raise ErrorShareExceededError(written["error"])
    if written["error"]:
        await log.keep(written)
