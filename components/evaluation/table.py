"""The table of a run: one row a system, each tested against the baseline."""

import json
from dataclasses import asdict, dataclass

from rich.table import Table

from components.evaluation.evaluation import Evaluation, compare
from components.evaluation.metrics import METRICS
from components.evaluation.significance import Interval, holm
from components.storage import Folder


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        metrics: mean of each metric with its interval.
        difference: to the baseline, by metric; empty for the baseline itself.
        p: of that difference, two-sided, corrected by Holm over the rows; empty for the baseline.
        note: what a reader should know of this row.
    """

    name: str
    metrics: dict[str, Interval]
    difference: dict[str, Interval]
    p: dict[str, float]
    corpus_size: int
    queries: int
    note: str


def comparison_rows(evaluations: dict[str, Evaluation], baseline: str) -> list[Row]:
    """One row for each evaluation, in their order.

    Raises:
        ValueError: the baseline is not among them, or they were not all made on one collection.
    """
    if baseline not in evaluations:
        raise ValueError(f"baseline `{baseline}` is not among the evaluations {', '.join(evaluations)}")
    others = [name for name in evaluations if name != baseline]
    difference: dict[str, dict[str, Interval]] = {name: {} for name in evaluations}
    p: dict[str, dict[str, float]] = {name: {} for name in evaluations}
    for metric in METRICS:
        found = [compare(evaluations[name], evaluations[baseline], metric) for name in others]
        corrected = holm([comparison.p_value for comparison in found])
        for name, comparison, p_value in zip(others, found, corrected, strict=True):
            difference[name][metric] = comparison.difference
            p[name][metric] = p_value
    return [
        Row(
            name=name,
            metrics=evaluation.metrics,
            difference=difference[name],
            p=p[name],
            corpus_size=evaluation.corpus_size,
            queries=evaluation.queries,
            note="baseline" if name == baseline else "",
        )
        for name, evaluation in evaluations.items()
    ]


def write_rows(rows: list[Row], output: Folder) -> bytes:
    """table.json; returns its bytes."""
    data = json.dumps([asdict(row) for row in rows], indent=2).encode()
    output.write("table.json", data)
    return data


def read_rows(folder: Folder) -> list[Row]:
    """What `write_rows` wrote."""
    return [
        Row(
            **row
            | {
                field: {metric: Interval(**interval) for metric, interval in row[field].items()}
                for field in ("metrics", "difference")
            }
        )
        for row in json.loads(folder.read("table.json"))
    ]


def render_table(rows: list[Row], metrics: tuple[str, ...] = ("ndcg@10", "recall@100")) -> Table:
    """The rows for a terminal: means with 95 % intervals, p of the first metric against the baseline."""
    baseline = next(row.name for row in rows if not row.p)
    table = Table(
        title=f"{rows[0].queries:,} held-out queries over {rows[0].corpus_size:,} documents",
        caption=f"[95 % interval]; p: {title(metrics[0])} against {baseline}, paired bootstrap, Holm",
    )
    table.add_column("system")
    for metric in metrics:
        table.add_column(title(metric), justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    best = max(rows, key=lambda row: row.metrics[metrics[0]].mean)
    for row in rows:
        table.add_row(
            row.name,
            *(figures(row.metrics[metric]).replace("[", "\\[") for metric in metrics),
            p_text(row.p[metrics[0]]) if row.p else "",
            style="bold" if row is best else None,
        )
    return table


def title(metric: str) -> str:
    """How a metric's name is printed."""
    if "@" not in metric:
        return metric.replace("_", " ")
    name, depth = metric.split("@")
    return f"{ {'ndcg': 'nDCG', 'recall': 'Recall', 'mrr': 'MRR', 'map': 'MAP'}[name] }@{depth}"


def figures(interval: Interval) -> str:
    """Mean and interval to three digits."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def p_text(p: float) -> str:
    """A p value to three digits, never 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
