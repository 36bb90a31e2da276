"""`embedloom gc`: what is stored by which run, and what of it no run refers to any more."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from workflows.terminal import ROOT, JsonOutput, Root, TrackingUri, mlflow_uri, say, terminal, tracking_folder

if TYPE_CHECKING:
    from workflows.engine.garbage import Survey
    from workflows.engine.history import RecordedRun


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without it nothing is deleted.")] = False,
    keep_runs: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Only the last N runs of each recipe count, and those at work; all."
        ),
    ] = None,
    cache: Annotated[
        str, typer.Option(metavar="SIZE", help="Vectors that may stay in the cache: 500MB, 0 for none.")
    ] = "5GB",
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Show what is stored by which run, and what would go: what no run refers to, and what work left behind.

    Delete a run in MLflow, or name --keep-runs, and what only it refers to goes. Never what a registered version
    came from, what another MLflow has recorded, or what a living process works on. MLflow's own files stay.
    """
    from components.serving.versions import connect, registered_weights
    from workflows.engine import garbage
    from workflows.engine.history import recorded_runs
    from workflows.engine.store import Store

    limit = _bytes(cache)
    store = Store(root)
    if not store.root.exists():
        raise ValueError(f"{root} does not exist: there are no results there (--root names another place)")
    uri = mlflow_uri(root, tracking_uri)
    runs = recorded_runs(uri)
    # An MLflow without any run cannot tell what is referred to.
    place = "" if not runs else (tracking_uri or "").rstrip("/") or str(tracking_folder(root).resolve())
    known = garbage.references(runs, registered_weights(connect(uri)), place, keep_runs)
    found = garbage.survey(store, known, limit)
    total = sum(each.size for each in found.removals)
    if not as_json:
        old = sum(each.size for each in found.removals if each.where == "cache")
        _show(runs, found, sum(store.cache.files().values()) - old)
        if not found.removals:
            say("\nNothing to delete.")
        elif not delete:
            say(f"\n{decimal(total)} would go; nothing was deleted. The same command with --delete does it.")
    stays, gone = [], 0
    if delete and found.removals:
        deleted: list[garbage.Removal] = []
        stays = garbage.delete(store, found.removals, deleted.append)
        gone = sum(each.size for each in deleted)
    if as_json:
        print(
            json.dumps(
                {
                    "runs": _runs(runs, found),
                    "removals": [asdict(each) for each in found.removals],
                    "kept": [asdict(each) for each in found.kept],
                    "bytes": total,
                    "deleted_bytes": gone,
                },
                indent=1,
                default=str,
            )
        )
    elif delete and found.removals:
        say(f"\ndeleted {decimal(gone)}")
        for removal, holder in stays:
            say(f"{removal.where} stays: {holder} works on it")


def _bytes(size: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return TypeAdapter(ByteSize).validate_python(size)
    except ValidationError as error:
        raise ValueError(f"--cache is {size!r}; write a size such as 500MB, 5GB or 0") from error


def _runs(runs: Sequence["RecordedRun"], found: "Survey") -> list[dict[str, Any]]:
    """Of each run whose results still stand, how large they are, and how much of that is in no other run."""
    results = {
        each.run.run_id: {step.fingerprint[:16] for step in each.steps} & found.sizes.keys() for each in runs
    }
    shared = Counter(number for numbers in results.values() for number in numbers)

    def size(numbers: Iterable[str]) -> int:
        return sum(found.sizes[number] for number in numbers)

    return [
        {
            **asdict(each.run),
            "status": "deleted" if each.is_deleted else each.run.status,
            "bytes": size(mine),
            "bytes_of_its_own": size(number for number in mine if shared[number] == 1),
        }
        for each in runs
        if (mine := results[each.run.run_id])
    ]


def _show(runs: Sequence["RecordedRun"], found: "Survey", cached: int) -> None:
    table = Table("started", "recipe", "status", "run", box=None, pad_edge=False)
    table.add_column("results", justify="right")
    table.add_column("in no other run", justify="right")
    for run in _runs(runs, found):
        table.add_row(
            f"{run['started']:%Y-%m-%d %H:%M}", escape(run["name"]), run["status"], run["run_id"],
            decimal(run["bytes"]), decimal(run["bytes_of_its_own"]),
        )  # fmt: skip
    terminal.print(table)

    kept: dict[str, list[int]] = {}
    for each in found.kept:
        kept.setdefault(each.why, []).append(each.size)
    table = Table("stays", "", "why", box=None, pad_edge=False)
    for why, sizes in sorted(kept.items(), key=lambda one: -sum(one[1])):
        table.add_row(decimal(sum(sizes)), f"{len(sizes)} steps" if len(sizes) > 1 else "1 step", escape(why))
    table.add_row(decimal(cached), "", "vectors that any step may use again (cache)")
    terminal.print("")
    terminal.print(table)

    if found.removals:
        table = Table("goes", "what", "step", "why", box=None, pad_edge=False)
        for removal in found.removals:
            table.add_row(decimal(removal.size), removal.where, escape(removal.step), escape(removal.why))
        terminal.print("")
        terminal.print(table)
