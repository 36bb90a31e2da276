"""Progress: what the monitors of all processes report, and how the driver's terminal shows it."""

import contextlib
import functools
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_POST_EVERY_S = 0.5
_LINE_EVERY_S = 15.0


@dataclass(frozen=True)
class Progress:
    """How far a step is."""

    done: float
    total: float | None
    unit: str
    facts: Mapping[str, float] = field(default_factory=dict)


class Board:
    """The actor that monitors post to. One a submission.

    It says the same to Prometheus, through Ray's exporter of its node, which puts `ray_` before the names.
    """

    def __init__(self, workflow: str) -> None:
        from ray.util.metrics import Gauge

        self._latest: dict[str, Progress] = {}
        self._done = Gauge("embedloom_step_done", "How far a step is.", ("workflow", "step", "unit"))
        self._total = Gauge("embedloom_step_total", "How far it goes.", ("workflow", "step", "unit"))
        self._fact = Gauge("embedloom_step_fact", "What a step says of itself.", ("workflow", "step", "fact"))
        for gauge in (self._done, self._total, self._fact):
            gauge.set_default_tags({"workflow": workflow})

    def post(self, step: str, progress: Progress) -> None:
        self._latest[step] = progress
        self._done.set(progress.done, {"step": step, "unit": progress.unit})
        if progress.total is not None:
            self._total.set(progress.total, {"step": step, "unit": progress.unit})
        for fact, value in progress.facts.items():
            self._fact.set(value, {"step": step, "fact": fact})

    def read(self) -> dict[str, Progress]:
        return self._latest


class Client:
    """The driver's side: opens the board and reads it without ever waiting for it."""

    def __init__(self) -> None:
        self.name = f"board-{uuid.uuid4().hex[:12]}"
        self._handle: Any = None
        self._asked: Any = None
        self._latest: dict[str, Progress] = {}

    def open(self, workflow: str) -> None:
        import ray

        actor = ray.remote(num_cpus=0)(Board).options(name=self.name, max_restarts=-1)
        self._handle = actor.remote(workflow)

    def close(self) -> None:
        import ray

        ray.kill(self._handle)

    def latest(self) -> dict[str, Progress]:
        import ray

        if self._asked is None:
            self._asked = self._handle.read.remote()
        elif ray.wait([self._asked], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # the board is only for show
                self._latest = ray.get(self._asked)
            self._asked = None
        return self._latest


_posted: dict[str, float] = {}


def post(board: str, step: str, progress: Progress) -> None:
    """Post from any process of the cluster; at most twice a second, the last one of a count always."""
    import ray

    now = time.monotonic()
    if progress.done != progress.total and now - _posted.get(step, 0.0) < _POST_EVERY_S:
        return
    _posted[step] = now
    if ray.is_initialized():
        _actor(board).post.remote(step, progress)


@functools.cache
def _actor(board: str) -> Any:
    import ray

    return ray.get_actor(board)


@dataclass
class _Line:
    """One running step, as the terminal knows it."""

    started: float
    progress: Progress | None = None
    since: tuple[float, float] | None = None
    """Time and count of the first report of this attempt: resumed work does not count towards the rate."""
    updated: float = 0.0
    printed: float = 0.0
    note: str = ""


class Terminal:
    """Shows a run on stderr: live bars on a terminal; else a line a start and end, and one now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._lines: dict[str, _Line] = {}
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Terminal":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.update(Table.grid(), refresh=True)
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def started(self, step: str) -> None:
        self._lines[step] = _Line(time.monotonic(), printed=time.monotonic())
        if not self._console.is_terminal:
            self.say(f"{step}: started")

    def waiting(self, step: str, note: str) -> None:
        if step not in self._lines:
            self._lines[step] = _Line(time.monotonic(), printed=time.monotonic(), note=note)
            self.say(f"{step}: {note}")

    def ended(self, step: str, text: str) -> None:
        self._lines.pop(step, None)
        self.say(f"{step}: {text}")

    def show(self, latest: Mapping[str, Progress]) -> None:
        """Take in what the board says; redraw, or print a line of what has run for a while."""
        now = time.monotonic()
        for step, line in self._lines.items():
            progress = latest.get(step)
            if progress is not None and progress is not line.progress:
                before = line.progress
                if before is None or progress.unit != before.unit or progress.done < before.done:
                    line.since = (now, progress.done)
                line.progress, line.updated = progress, now
            if not self._console.is_terminal and not line.note and now - line.printed >= _LINE_EVERY_S:
                line.printed = now
                self.say("  ".join(filter(None, (f"{step}:", *self._facts(line, now)))))
        if self._console.is_terminal:
            self._live.update(self._table(now), refresh=True)

    def describe(self, step: str) -> str:
        """How far a running step is, in a line; empty if it has not said."""
        line = self._lines.get(step)
        if line is None or line.progress is None:
            return ""
        return "  ".join(filter(None, self._facts(line, time.monotonic())))

    def _table(self, now: float) -> Table:
        table = Table.grid(padding=(0, 2))
        for step, line in self._lines.items():
            progress = line.progress
            total = progress.total if progress else None
            bar = ProgressBar(
                total=total, completed=progress.done if progress else 0, width=24, pulse=total is None
            )
            table.add_row(step, bar, *self._facts(line, now))
        return table

    def _facts(self, line: _Line, now: float) -> tuple[str, str, str, str]:
        """Count, rate, facts, time left."""
        elapsed = _duration(now - line.started)
        progress = line.progress
        if line.note or progress is None or line.since is None:
            return "", "", line.note, elapsed
        total = f"/{_number(progress.total)}" if progress.total is not None else ""
        count = f"{_number(progress.done)}{total} {progress.unit}"
        then, first = line.since
        rate = (progress.done - first) / (line.updated - then) if line.updated > then else 0.0
        facts = "  ".join(f"{key} {_number(value)}" for key, value in progress.facts.items())
        left = ""
        if rate > 0 and progress.total is not None:
            left = f"  {_duration((progress.total - progress.done) / rate)} left"
        return count, f"{_number(rate)} {progress.unit}/s" if rate else "", facts, elapsed + left


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
