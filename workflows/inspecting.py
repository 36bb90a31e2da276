"""`embedloom inspect`: what a run, or one of its steps, left behind."""

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from workflows.terminal import ROOT, JsonOutput, Root, TrackingUri, command, mlflow_uri, say, terminal

if TYPE_CHECKING:
    from components.evaluation.funnel import Passed
    from components.evaluation.inspection import Section
    from components.storage import Folder
    from workflows.engine.history import RecordedRun

_SHOWN_CHARACTERS = 240
_IDS = ("pair_id", "query_id", "positive_id", "negative_ids", "document_id", "relevant_id", "first_id")


def inspect(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's id, a recipe or comparison (its last run), or the folder of a step's result.",
        ),
    ],
    step: Annotated[str | None, typer.Argument(help="One step of the run.")] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="pairs, negatives, rejected or queries; may be repeated."),
    ] = None,
    reason: Annotated[
        list[str] | None, typer.Option(help="Only rows turned away for it; may be repeated.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only rows in it; may be repeated.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Only pairs from there; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of a table at most.")] = 10,
    page: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write it as a page.")] = None,
    root: Root = ROOT,
    tracking_uri: TrackingUri = None,
    as_json: JsonOutput = False,
) -> None:
    """Look at pairs, rows turned away (with the reason), mined negatives and the worst queries of a run.

    A run alone: what each step let through. With a step, a kind or a filter: the rows themselves.
    """
    from components.evaluation.funnel import read_funnel
    from components.evaluation.inspection import KINDS, Filters, look, read_judged
    from components.evaluation.inspection_page import inspection_page
    from components.storage import Folder
    from workflows.engine.store import input_of

    if unknown := [each for each in show or [] if each not in KINDS]:
        raise ValueError(f"--show is {unknown[0]!r}; it is one of {', '.join(KINDS)}")
    heading, note, steps = _find(what, root, tracking_uri)
    if step is not None:
        if step not in steps:
            raise ValueError(f"{heading} has no finished step `{step}`; it has {', '.join(steps)}")
        heading, steps = f"{heading}, {step}", {step: steps[step]}
    filters = Filters(tuple(reason or ()), tuple(language or ()), tuple(origin or ()))
    is_overview = len(steps) > 1 and not (show or filters.asked())
    # Counting reads a whole column of every table, which nobody waits for who wants to see the first rows.
    funnel = read_funnel(steps) if is_overview or page is not None or as_json else []
    kinds = [kind for kind in KINDS if not show or kind in show]
    sections = (
        []
        if is_overview and page is None and not as_json
        else look(steps, lambda output: input_of(output, "split"), kinds, filters, limit)
    )
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        Folder(str(page.parent.resolve())).write(
            page.name, inspection_page(heading, note, funnel, sections).encode()
        )
        say(f"{page}: {len(sections)} tables, up to {limit} rows of each (--limit)")
    elif as_json:
        print(
            json.dumps(
                {
                    "what": heading,
                    "steps": [vars(passed) for passed in funnel],
                    "tables": [vars(section) for section in sections],
                },
                indent=1,
                ensure_ascii=False,
                default=str,
            )
        )
    else:
        say(f"{heading}   {note}".rstrip())
        if is_overview:
            _show_funnel(funnel)
            judged = read_judged(steps)
            if judged:
                say("\nnDCG@10: " + ", ".join(f"{name} {mean:.3f}" for name, mean in judged.items()))
            say(
                f"\nlook into a step (`{command()} inspect {what} STEP`), or say --show, --reason, --language, --origin"
            )
        for section in sections:
            _show(section)
        if not sections and not is_overview:
            _say_nothing_found(read_funnel(steps), filters.reason)


def _find(what: str, root: str, tracking_uri: str | None) -> tuple[str, str, dict[str, "Folder"]]:
    """Heading, note and what the steps left, by name."""
    from components.storage import Folder

    path = Path(what)
    # A recipe's name has no slash, and the documents that it was made for may lie in a folder of that name.
    if "://" in what or (path.is_dir() and ("/" in what or any(path.rglob("*.parquet")))):
        return what, "", _result(Folder(what))
    from workflows.engine.history import past_runs, recorded_run
    from workflows.recipe import load as recipes

    uri = mlflow_uri(root, tracking_uri)
    name = what
    if path.is_file():
        loaded = recipes.load_either(what)
        name = loaded.comparison.name if isinstance(loaded, recipes.Compared) else loaded.name
    found = recorded_run(uri, name)
    if found is None:
        last = past_runs(uri, 1, name)
        if not last:
            there = ", ".join(dict.fromkeys(run.name for run in past_runs(uri, 100))) or "none"
            raise ValueError(
                f"{what}: no folder of tables, and no run of this id or recipe in MLflow at {uri}; "
                f"recipes that were run: {there}"
            )
        found = recorded_run(uri, last[0].run_id)
    assert found is not None
    steps = {each.name: Folder(each.output) for each in found.steps if each.is_done}
    stored = {name: folder for name, folder in steps.items() if folder.exists()}
    return found.run.name, _note(found, len(steps) - len(stored)), stored


def _result(folder: "Folder") -> dict[str, "Folder"]:
    """A result by its folder in a store, by that of its attempt, or one that was written outside of a store."""
    from components.storage import Folder

    for work, output in ((folder, None), (Folder(folder.uri.rstrip("/").rpartition("/")[0]), folder)):
        if work.exists("manifest.json"):
            manifest = json.loads(work.read("manifest.json"))
            return {manifest["name"]: output or work / manifest["attempt"]}
    return {folder.uri.rstrip("/").rpartition("/")[2]: folder}


def _note(found: "RecordedRun", gone: int) -> str:
    status = found.run.status.lower()
    missing = f", {gone} of its results are not stored any more" if gone else ""
    return f"run {found.run.run_id}, {found.run.started:%Y-%m-%d %H:%M}, {status}{missing}"


def _show_funnel(funnel: list["Passed"]) -> None:
    table = Table("step", box=None, pad_edge=False)
    table.add_column("rows", justify="right")
    for column in ("of what", "turned away"):
        table.add_column(column)
    last = ""
    for passed in funnel:
        origins = f" ({_counts(passed.origins)})" if passed.origins else ""
        table.add_row(
            "" if passed.step == last else passed.step,
            f"{passed.rows:,}",
            escape(passed.what + origins),
            escape(_counts(passed.rejected)),
        )
        last = passed.step
    terminal.print(table)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.items())


def _show(section: "Section") -> None:
    from components.evaluation.inspection import KINDS, TEXTS

    texts = [name for name in TEXTS if any(name in row for row in section.rows)]
    lists = ["negatives"] if any("negatives" in row for row in section.rows) else []
    is_rejected = section.kind == "rejected"
    table = Table(
        title=f"\n{section.step}: {KINDS[section.kind]}, {len(section.rows):,} of {section.total:,}",
        title_justify="left",
        title_style="bold",
        show_lines=True,
    )
    for column in (*(["reason"] if is_rejected else []), *texts, *lists, "facts"):
        table.add_column(column, overflow="fold")
    for row in section.rows:
        cells = [row["reason"]] if is_rejected else []
        cells += [_short(row.get(name) or "") for name in texts]
        cells += [
            "\n".join(f"{n}. {_short(one)}" for n, one in enumerate(row.get(key, ()), 1)) for key in lists
        ]
        hidden = {"reason", *texts, *lists, *_IDS}
        facts = {name: value for name, value in row.items() if name not in hidden}
        if not texts:  # of an evaluation whose texts are not here the ids are all that is known
            facts |= {name: row[name] for name in _IDS if name in row}
        table.add_row(*map(escape, cells), escape("\n".join(f"{k} {_value(v)}" for k, v in facts.items())))
    terminal.print(table)


def _short(text: str) -> str:
    return textwrap.shorten(text, _SHOWN_CHARACTERS, placeholder=" …")


def _value(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _say_nothing_found(funnel: list["Passed"], reasons: tuple[str, ...]) -> None:
    say(
        "No row: only tables of pairs, rows turned away and judged queries are shown, as far as a filter matches."
    )
    there: dict[str, int] = {}
    for passed in funnel:
        for reason, count in passed.rejected.items():
            there[reason] = there.get(reason, 0) + count
    if reasons and there:
        say(f"Rows were turned away for: {_counts(there)}")
