"""Several systems on several sets: one table for programs, one page for people. The last step of a comparison."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from components.evaluation import figures
from components.evaluation.cost import read_cost
from components.evaluation.evaluation import read_evaluation
from components.evaluation.keywords import BATCHES, EVALUATION, MODEL, STAGE, keyword
from components.evaluation.outcome import columns_of, read_outcome
from components.evaluation.page import Plot, template
from components.evaluation.significance import Draws, bootstrap_systems, holm, resamples_for
from components.evaluation.statistics import STATISTICS
from components.evaluation.systems_table import (
    AVERAGE,
    LEVEL,
    ComparisonTable,
    Cost,
    Figure,
    Pair,
    SetTable,
    System,
    write_comparison,
)
from components.monitor import Monitor
from components.storage import Folder

RETRIEVAL = "ndcg@10"


def compare_systems(
    *,
    output: Folder,
    monitor: Monitor,
    systems: list[str],
    about: dict[str, str],
    baseline: str,
    sets: list[str],
    points: dict[str, dict[str, Any]] | None = None,
    **folders: Folder,
) -> dict[str, float]:
    """Test every pair of systems on every set, and write it up.

    Rows of a set are resampled for all systems at once. Of a set's main figure the page and the table have each
    system's 95 % interval, its difference to the baseline (p by Holm over the systems) and all pairs (p by Holm over
    the pairs); the same of the average over the sets, each of which counts alike.

    Args:
        systems, sets: names, in the order in which they are shown.
        about: what each system is, in words.
        points: of a sweep, the value of every field that was varied, by system.
        output: gets comparison.json (systems_table.ComparisonTable) and comparison.html, one file that loads nothing.
        folders: outputs of steps, by `keywords.keyword`: `evaluate` of a system on a set, `model` of a system, and
            `stage` and `batches` of each stage of its training.

    Returns:
        `SET/SYSTEM`, the main figure.

    Raises:
        ValueError: results of one set that were not made on the same rows.
    """
    draws: dict[str, Draws] = {}
    rows: dict[str, int] = {}
    metrics: dict[str, str] = {}
    resamples = resamples_for(len(systems) * (len(systems) - 1) // 2)
    for number, name in enumerate(sets):
        results = {system: folders[keyword(EVALUATION, system, name)] for system in systems}
        metrics[name], rows[name], figures_of = _figures(name, results)
        draws[name] = bootstrap_systems(figures_of, rows[name], resamples=resamples, seed=number)
        monitor.progress(number + 1, len(sets), "sets")
    if len(sets) > 1:
        # Sets are drawn apart from one another: any draw of one goes with any of another.
        average = Draws(
            np.mean([each.seen_S for each in draws.values()], axis=0),
            np.mean([each.drawn_RS for each in draws.values()], axis=0),
        )
        draws = {AVERAGE: average} | draws
        metrics[AVERAGE], rows[AVERAGE] = AVERAGE, sum(rows.values())

    table = ComparisonTable(
        baseline,
        [System(name, about[name], _cost(name, folders)) for name in systems],
        [_test(name, metrics[name], rows[name], each, systems, baseline) for name, each in draws.items()],
    )
    _write_page(table, points, resamples, output, monitor)
    monitor.artifact("comparison.json", write_comparison(table, output))
    return {
        f"{each.name}/{figure.system}": figure.value.mean for each in table.sets for figure in each.figures
    }


Figures = Callable[[np.ndarray], Sequence[float]]


def _figures(name: str, results: Mapping[str, Folder]) -> tuple[str, int, Figures]:
    """The main figure of a set, its rows, and what gives each system's figure on some of them."""
    first = next(iter(results.values()))
    if first.exists("per_query.parquet"):
        evaluations = {system: read_evaluation(folder) for system, folder in results.items()}
        _check_alike(name, {system: each.digest for system, each in evaluations.items()})
        values_QS = np.stack([each.per_query[RETRIEVAL].to_numpy() for each in evaluations.values()], axis=1)
        return RETRIEVAL, len(values_QS), lambda rows_N: values_QS[rows_N].mean(axis=0)
    outcomes = {system: read_outcome(folder) for system, folder in results.items()}
    _check_alike(name, {system: each.digest for system, each in outcomes.items()})
    metric, statistic = next(iter(STATISTICS[outcomes[next(iter(results))].kind].items()))
    columns = [columns_of(outcome) for outcome in outcomes.values()]

    def figures_of(rows_N: np.ndarray) -> list[float]:
        return [statistic(given[rows_N], right_N[rows_N]) for given, right_N in columns]

    return metric, len(columns[0][1]), figures_of


def _check_alike(name: str, digests: Mapping[str, str]) -> None:
    first, *others = digests
    for other in others:
        if digests[other] != digests[first]:
            raise ValueError(
                f"{name}: {first} and {other} were judged on different rows ({digests[first][:9]}, "
                f"{digests[other][:9]}), so they cannot be compared"
            )


def _cost(system: str, folders: Mapping[str, Folder]) -> Cost:
    def of(what: str) -> dict[str, Folder]:
        start = keyword(what, system)
        return {name: folder for name, folder in folders.items() if name.startswith(start)}

    return read_cost(folders[keyword(MODEL, system)], of(STAGE), of(BATCHES))


def _test(name: str, metric: str, rows: int, draws: Draws, systems: list[str], baseline: str) -> SetTable:
    numbers = range(len(systems))
    compared = {(one, other): draws.compare(one, other) for one, other in combinations(numbers, 2)}
    corrected = holm([comparison.p_value for comparison in compared.values()])
    pairs = [
        Pair(systems[one], systems[other], comparison.difference, p)
        for ((one, other), comparison), p in zip(compared.items(), corrected, strict=True)
    ]
    better: dict[str, list[str]] = {system: [] for system in systems}
    worse: dict[str, list[str]] = {system: [] for system in systems}
    for pair in pairs:
        if pair.p < LEVEL:
            ahead, behind = (pair.first, pair.second)[:: 1 if pair.difference.mean > 0 else -1]
            better[ahead].append(behind)
            worse[behind].append(ahead)
    at = systems.index(baseline)
    against = {number: draws.compare(number, at) for number in numbers if number != at}
    p_against = dict(zip(against, holm([comparison.p_value for comparison in against.values()]), strict=True))
    return SetTable(
        name,
        metric,
        rows,
        [
            Figure(
                system,
                draws.interval(number),
                against[number].difference if number in against else None,
                p_against.get(number),
                better[system],
                worse[system],
            )
            for number, system in enumerate(systems)
        ],
        pairs,
    )


def _write_page(
    table: ComparisonTable,
    points: Mapping[str, Mapping[str, Any]] | None,
    resamples: int,
    output: Folder,
    monitor: Monitor,
) -> None:
    plots = {
        each.name: [
            Plot(f"scores-{each.name}", f"{each.name}: each system with its interval", figures.systems(each)),
            Plot(f"pairs-{each.name}", f"{each.name}: differences of all pairs", figures.pairs(each)),
        ]
        for each in table.sets
    }
    cost = Plot("cost", "score against seconds of training", figures.costs(table))
    whole = [cost]
    if points:
        whole.insert(0, Plot("sweep", "from the values to the scores", figures.sweep(table.sets[0], points)))
    for plot in (*(plot for of_set in plots.values() for plot in of_set), *whole):
        monitor.figure(f"{plot.name}.png", plot.figure)
    page = template("systems.html").render(
        table=table, plots=plots, whole=whole, resamples=resamples, level=LEVEL
    )
    output.write("comparison.html", page.encode())
    monitor.artifact("comparison.html", page.encode())
