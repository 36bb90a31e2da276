"""One model's result on one set of rows, kept so that any two models can be compared on it later.

What retrieval is to `evaluation.py` the other kinds are here: their figures belong to the set as a whole, not to a
row, so intervals and tests draw rows and compute the figure anew.
"""

import json
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import pyarrow as pa

from components.evaluation.labelled import Kind
from components.evaluation.significance import (
    Comparison,
    Interval,
    bootstrap_statistic,
    bootstrap_systems,
)
from components.evaluation.statistics import COLUMNS, STATISTICS
from components.storage import Folder

RESAMPLES = 1000
_ROWS = "per_row.parquet"
_METRICS = "metrics.json"


@dataclass(frozen=True)
class Outcome:
    """What is known of one model on one set.

    Attributes:
        per_row: by COLUMNS of the kind, a row a row of the set, in its order.
        metrics: the kind's figures, the main one first, with their 95 % bootstrap intervals.
        digest: of the set and of how it is judged; two outcomes compare only where it is the same.
        seconds: time of encoding and judging.
    """

    kind: Kind
    per_row: pa.Table
    metrics: dict[str, Interval]
    digest: str
    seconds: float

    def numbers(self) -> dict[str, float]:
        """The outcome as a flat dict: `spearman`, `spearman_low`, `spearman_high`, ..., rows and seconds."""
        flat: dict[str, float] = {}
        for metric, interval in self.metrics.items():
            flat |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
        return flat | {"rows": self.per_row.num_rows, "seconds": self.seconds}


def judge(kind: Kind, given: np.ndarray, right_N: np.ndarray, digest: str, seconds: float) -> Outcome:
    """The figures of a kind.

    Args:
        given: what the model gave, [N], or [N, experiments].
        right_N: what is right.
    """
    columns = dict(zip(COLUMNS[kind], (given.tolist(), right_N.tolist()), strict=True))
    metrics = {
        metric: bootstrap_statistic(statistic, (given, right_N), resamples=RESAMPLES)
        for metric, statistic in STATISTICS[kind].items()
    }
    return Outcome(kind, pa.table(columns), metrics, digest, seconds)


def compare_outcomes(candidate: Outcome, baseline: Outcome, metric: str) -> Comparison:
    """Paired bootstrap of one figure over the rows of two outcomes.

    Rows are drawn for both together; p is as of `significance.paired_bootstrap`.

    Raises:
        ValueError: they are not of one kind and set, or the kind has no such figure.
    """
    if candidate.kind != baseline.kind or candidate.digest != baseline.digest:
        raise ValueError(
            f"outcomes on different sets ({candidate.kind} {candidate.digest[:9]}, {baseline.kind} "
            f"{baseline.digest[:9]}) cannot be compared: evaluate both on the same rows"
        )
    if metric not in STATISTICS[candidate.kind]:
        raise ValueError(
            f"{candidate.kind} has no figure {metric!r}; it has {', '.join(STATISTICS[candidate.kind])}"
        )
    statistic = STATISTICS[candidate.kind][metric]
    columns = [columns_of(outcome) for outcome in (candidate, baseline)]
    draws = bootstrap_systems(
        lambda rows_N: [statistic(given[rows_N], right_N[rows_N]) for given, right_N in columns],
        len(columns[0][1]),
        resamples=RESAMPLES,
    )
    return draws.compare(0, 1)


def write_outcome(outcome: Outcome, output: Folder) -> None:
    """per_row.parquet and metrics.json."""
    output.write_table(_ROWS, outcome.per_row)
    summary = {
        "kind": outcome.kind,
        "metrics": {metric: asdict(interval) for metric, interval in outcome.metrics.items()},
        "digest": outcome.digest,
        "seconds": outcome.seconds,
    }
    output.write(_METRICS, json.dumps(summary, indent=2).encode())


def read_outcome(folder: Folder) -> Outcome:
    """What `write_outcome` wrote.

    Raises:
        ValueError: the folder holds none.
    """
    if not folder.exists(_ROWS):
        raise ValueError(f"{folder.uri} holds no {_ROWS}: it is no outcome of an evaluation")
    summary = json.loads(folder.read(_METRICS))
    return Outcome(
        kind=cast(Kind, summary["kind"]),
        per_row=folder.read_table(_ROWS),
        metrics={metric: Interval(**interval) for metric, interval in summary["metrics"].items()},
        digest=summary["digest"],
        seconds=summary["seconds"],
    )


def columns_of(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """What the model gave for each row, and what is right."""
    given, right = (np.array(outcome.per_row[column].to_pylist()) for column in COLUMNS[outcome.kind])
    return given, right
