"""`embedloom runs --follow`: how a submission goes, by what MLflow knows of it, wherever it runs."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from workflows.engine.history import PastRun, StepRun, past_runs, steps_of

_EVERY_S = 3.0
_EXIT_CODES = {"FINISHED": 0, "KILLED": 143}
_STYLES = {"running": "yellow", "computed": "green", "reused": "green", "failed": "red", "killed": "red"}


def follow(uri: str, run_id: str | None, console: Console) -> int:
    """Show a submission until it ends: as a table on a terminal, else a line for what has changed.

    Args:
        run_id: None: the newest one that is running.

    Returns:
        0; 1: it failed; 143: it was stopped.

    Raises:
        ValueError: the server does not answer, or there is no such run.
    """
    if run_id is None:
        running = [run for run in past_runs(uri, 100) if run.status == "RUNNING"]
        if not running:
            raise ValueError(f"no run of {uri} is going on; `embedloom runs` lists those that have ended")
        run_id = running[0].run_id
    seen: dict[str, str] = {}
    with Live(console=console, auto_refresh=False) as live:
        while True:
            run, steps = steps_of(uri, run_id)
            if console.is_terminal:
                live.update(_table(run, steps), refresh=True)
            else:
                for step in steps:
                    said = "  ".join(filter(None, (step.state, _took(step), step.said)))
                    if seen.get(step.name) != said:
                        seen[step.name] = said
                        console.print(f"{step.name}: {said}", markup=False, soft_wrap=True)
            if run.status != "RUNNING":
                break
            time.sleep(_EVERY_S)
    console.print(f"{run.name}: {run.status} after {run.duration_s or 0:.0f} s", markup=False)
    return _EXIT_CODES.get(run.status, 1)


def _table(run: PastRun, steps: Sequence[StepRun]) -> Table:
    table = Table(f"{run.name}, since {run.started:%Y-%m-%d %H:%M}", "", "", "", box=None, pad_edge=False)
    for step in steps:
        table.add_row(
            f"[{_STYLES.get(step.state, 'white')}]{step.state}[/]", step.name, _took(step), escape(step.said)
        )
    return table


def _took(step: StepRun) -> str:
    return "" if step.duration_s is None or step.state == "reused" else f"{step.duration_s:.1f} s"
