"""The systems of a run on sets other than its own held-out queries, each tested against the baseline."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich.table import Table

from components.evaluation.comparison import compare_results
from components.evaluation.evaluation import read_evaluation
from components.evaluation.outcome import read_outcome
from components.evaluation.significance import Interval
from components.evaluation.table import figures, p_text, title
from components.storage import Folder

_FILE = "other_sets.json"


@dataclass(frozen=True)
class Judged:
    """One system on one set.

    Attributes:
        value: the set's main figure with its 95 % interval.
        difference, p: to the baseline, p corrected by Holm over the systems; None for the baseline.
    """

    system: str
    value: Interval
    difference: Interval | None
    p: float | None


@dataclass(frozen=True)
class OtherSet:
    """One set.

    Attributes:
        metric: the figure that systems are compared by.
        rows: of the set: queries, or what else an interval is drawn over.
    """

    name: str
    metric: str
    rows: int
    systems: list[Judged]


def judge_on(name: str, results: Mapping[str, Folder], baseline: str) -> OtherSet:
    """The systems on one set, in their order.

    Args:
        results: what a step of `retrieval` or `kinds` left, by system.

    Raises:
        ValueError: no result of the baseline, or results of different sets.
    """
    if baseline not in results:
        raise ValueError(f"{name}: the baseline `{baseline}` is not among {', '.join(results)}")
    found = {system: _main_figure(folder) for system, folder in results.items()}
    metric, _, rows = found[baseline]
    others = {system: folder for system, folder in results.items() if system != baseline}
    differences = {
        each.system: each for each in compare_results(results[baseline], others) if each.metric == metric
    }
    systems = [
        Judged(
            system,
            value,
            differences[system].difference if system in differences else None,
            differences[system].p_bootstrap if system in differences else None,
        )
        for system, (_, value, _) in found.items()
    ]
    return OtherSet(name, metric, rows, systems)


def _main_figure(folder: Folder) -> tuple[str, Interval, int]:
    if folder.exists("per_query.parquet"):
        evaluation = read_evaluation(folder)
        return "ndcg@10", evaluation.metrics["ndcg@10"], evaluation.queries
    outcome = read_outcome(folder)
    metric, value = next(iter(outcome.metrics.items()))
    return metric, value, outcome.per_row.num_rows


def write_sets(sets: list[OtherSet], output: Folder) -> bytes:
    """other_sets.json; returns its bytes."""
    data = json.dumps([asdict(each) for each in sets], indent=2).encode()
    output.write(_FILE, data)
    return data


def read_sets(folder: Folder) -> list[OtherSet]:
    """What `write_sets` wrote; none where it wrote nothing."""
    if not folder.exists(_FILE):
        return []
    return [
        OtherSet(
            **one | {"systems": [
                Judged(**row | {
                    "value": Interval(**row["value"]),
                    "difference": row["difference"] and Interval(**row["difference"]),
                })
                for row in one["systems"]
            ]}
        )
        for one in json.loads(folder.read(_FILE))
    ]  # fmt: skip


def render_sets(sets: list[OtherSet]) -> Table:
    """A row a set and system, for a terminal."""
    table = Table(
        title="Other sets", caption="[95 % interval]; p: against the baseline, paired bootstrap, Holm"
    )
    for column in ("set", "figure", "system", "value", "p"):
        table.add_column(column, justify="right" if column in ("value", "p") else "left", no_wrap=True)
    for each in sets:
        for number, row in enumerate(each.systems):
            table.add_row(
                *((each.name, title(each.metric)) if number == 0 else ("", "")),
                row.system,
                figures(row.value).replace("[", "\\["),
                "" if row.p is None else p_text(row.p),
                end_section=number == len(each.systems) - 1,
            )
    return table
