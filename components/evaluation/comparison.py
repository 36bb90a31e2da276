"""Any two results compared, long after they were made, from what each left behind row by row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from components.evaluation.evaluation import compare, read_evaluation
from components.evaluation.metrics import METRICS
from components.evaluation.outcome import compare_outcomes, read_outcome
from components.evaluation.significance import Interval, effect_size, holm, randomisation_test
from components.storage import Folder


@dataclass(frozen=True)
class Difference:
    """One figure of one system against the baseline's.

    Attributes:
        baseline, value: the figure of each.
        difference: with its 95 % bootstrap interval.
        p_bootstrap: two-sided, corrected by Holm over the systems.
        p_randomisation: likewise, by exchanging the systems in each query; None for figures that are no mean.
        effect: Cohen's d of the paired differences; None for figures that are no mean.
        better, worse: how many queries; the others are alike.
    """

    system: str
    metric: str
    baseline: float
    value: float
    difference: Interval
    p_bootstrap: float
    p_randomisation: float | None
    effect: float | None
    better: int | None
    worse: int | None


def compare_results(baseline: Folder, systems: Mapping[str, Folder]) -> list[Difference]:
    """Compare results of evaluate steps with one of them: figure by figure, system by system.

    Args:
        baseline, systems: folders with per_query.parquet (retrieval) or per_row.parquet (the other kinds).

    Raises:
        ValueError: a folder holds no result, or results are not of one kind and set.
    """
    retrieval = baseline.exists("per_query.parquet")
    found = {
        name: _retrieval(name, folder, baseline) if retrieval else _others(name, folder, baseline)
        for name, folder in systems.items()
    }
    rows = []
    everything = [each for differences in found.values() for each in differences]
    for metric in dict.fromkeys(each.metric for each in everything):
        same_metric = [each for each in everything if each.metric == metric]
        bootstrap = holm([each.p_bootstrap for each in same_metric])
        randomisation = (
            holm([each.p_randomisation or 0.0 for each in same_metric])
            if retrieval
            else [None] * len(same_metric)
        )
        rows += [
            replace(each, p_bootstrap=p, p_randomisation=q)
            for each, p, q in zip(same_metric, bootstrap, randomisation, strict=True)
        ]
    return rows


def _retrieval(name: str, folder: Folder, baseline: Folder) -> list[Difference]:
    if not folder.exists("per_query.parquet"):
        raise ValueError(
            f"{folder.uri} holds no per_query.parquet: it is no result of a retrieval evaluation"
        )
    ours, theirs = read_evaluation(folder), read_evaluation(baseline)
    differences = []
    for metric in (each for each in METRICS if each in ours.metrics and each in theirs.metrics):
        comparison = compare(ours, theirs, metric)
        ours_Q, theirs_Q = (each.per_query[metric].to_numpy() for each in (ours, theirs))
        differences.append(
            Difference(
                system=name,
                metric=metric,
                baseline=float(theirs_Q.mean()),
                value=float(ours_Q.mean()),
                difference=comparison.difference,
                p_bootstrap=comparison.p_value,
                p_randomisation=randomisation_test(ours_Q, theirs_Q),
                effect=effect_size(ours_Q, theirs_Q),
                better=int(np.sum(ours_Q > theirs_Q)),
                worse=int(np.sum(ours_Q < theirs_Q)),
            )
        )
    return differences


def _others(name: str, folder: Folder, baseline: Folder) -> list[Difference]:
    ours, theirs = read_outcome(folder), read_outcome(baseline)
    differences = []
    for metric in ours.metrics:
        comparison = compare_outcomes(ours, theirs, metric)
        differences.append(
            Difference(
                system=name,
                metric=metric,
                baseline=theirs.metrics[metric].mean,
                value=ours.metrics[metric].mean,
                difference=comparison.difference,
                p_bootstrap=comparison.p_value,
                p_randomisation=None,
                effect=None,
                better=None,
                worse=None,
            )
        )
    return differences
