"""The report of a run: one table for programs, one page for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from components.corpus.known_items import MADE_FROM
from components.evaluation import figures
from components.evaluation.changes import largest_changes
from components.evaluation.collection import Collection, read_collection
from components.evaluation.evaluation import read_evaluation
from components.evaluation.funnel import read_counts, read_funnel
from components.evaluation.metrics import METRICS
from components.evaluation.other_sets import OtherSet, judge_on, write_sets
from components.evaluation.page import Plot, template
from components.evaluation.reranking_result import RERANKING_FILE, read_reranking
from components.evaluation.table import comparison_rows, write_rows
from components.monitor import Monitor
from components.storage import Folder

EVALUATION_PREFIX = "evaluate_"
ON_SET = "__on__"
METRIC = "ndcg@10"


@dataclass(frozen=True)
class Angles:
    """How far apart the merged checkpoints were, over tensors.

    Attributes:
        median, largest: angle in degrees; `tensor` has the largest.
        norm_ratio: greatest over smallest norm of the inputs, the median.
        words: whether it was more than an average, as the merge itself put it.
    """

    plot: Plot
    median: float
    largest: float
    tensor: str
    norm_ratio: float
    words: str


def write_report(*, output: Folder, monitor: Monitor, baseline: str, **folders: Folder) -> dict[str, float]:
    """Compare the systems of a run and write it up.

    Args:
        output: gets table.json (rows of table.Row) and report.html, one file that loads nothing.
        baseline: the system that the others are tested against, e.g. "base".
        folders: outputs of steps by name. Those named `evaluate_<system>` are rows of the table, in this
            order; the last is the one whose queries are compared with the baseline's. Those named
            `evaluate_<system>__on__<set>` are of other sets. The others, in the
            order of the work, are read for what they hold: tables of documents and pairs with what was
            rejected, scored pairs (a histogram), `history.parquet` of a training stage (step, loss),
            `angles.parquet` (tensor, angle_degrees, norm_ratio) and `merge.txt` of a merge, `encoding.json` of a
            model, `reranker.json` of a reranker, `reranking.json` (what a reranker does to a ranking), and a split
            (texts of the queries).
            A section for which nothing is found is left out.

    Returns:
        For each system its nDCG@10, and p of the difference to the baseline (Holm-corrected).

    Raises:
        ValueError: no such baseline, or evaluations made on different collections.
    """
    evaluations = {
        name.removeprefix(EVALUATION_PREFIX): read_evaluation(folder)
        for name, folder in folders.items()
        if name.startswith(EVALUATION_PREFIX) and ON_SET not in name
    }
    steps = {
        name.replace("_", "-"): folder  # an argument's name allows no dash, a step's does
        for name, folder in folders.items()
        if not name.startswith(EVALUATION_PREFIX)
    }
    sets = _other_sets(folders, baseline)
    rows = comparison_rows(evaluations, baseline)
    candidate = rows[-1]
    monitor.artifact("table.json", write_rows(rows, output))
    if sets:
        monitor.artifact("other_sets.json", write_sets(sets, output))

    stages = Plot("stages", "nDCG@10 of each system with its 95 % interval", figures.stages(rows))
    scores, losses, angles = _scores(steps), _losses(steps), _angles(steps)
    for plot in (stages, *scores, *losses, *(found.plot for found in angles)):
        monitor.figure(f"{plot.name}.png", plot.figure)

    collection = _collection(steps)
    gained, lost = (
        largest_changes(evaluations[baseline], evaluations[candidate.name], collection)
        if collection and candidate.name != baseline
        else ([], [])
    )
    rerankings = {
        name.removeprefix("rerank-"): read_reranking(folder)
        for name, folder in steps.items()
        if folder.exists(RERANKING_FILE)
    }
    page = template("report.html").render(
        rows=rows,
        rerankings=rerankings,
        sets=sets,
        baseline=next(row for row in rows if row.name == baseline),
        candidate=candidate,
        best={metric: max(row.metrics[metric].mean for row in rows) for metric in METRICS},
        left_out=evaluations[baseline].queries_left_out,
        outside=evaluations[baseline].relevant_outside,
        digest=evaluations[baseline].digest,
        others=[metric for metric in METRICS if metric != METRIC],
        stages=stages,
        sources=_sources(steps),
        models=_models(steps, "encoding.json"),
        rerankers=_models(steps, "reranker.json"),
        funnel=read_funnel(steps),
        scores=scores,
        losses=losses,
        angles=angles,
        gained=gained,
        lost=lost,
        made=_made_queries(steps),
    )
    output.write("report.html", page.encode())
    monitor.artifact("report.html", page.encode())
    means = {f"{METRIC}_{row.name}": row.metrics[METRIC].mean for row in rows}
    means |= {f"p_{row.name}": row.p[METRIC] for row in rows if row.p}
    return means | {f"gain_{name}": found.difference[METRIC].mean for name, found in rerankings.items()}


def _other_sets(folders: Mapping[str, Folder], baseline: str) -> list[OtherSet]:
    results: dict[str, dict[str, Folder]] = {}
    for name, folder in folders.items():
        system, on_set, judged_on = name.removeprefix(EVALUATION_PREFIX).partition(ON_SET)
        if on_set:
            results.setdefault(judged_on.replace("_", "-"), {})[system] = folder
    return [judge_on(name, found, baseline) for name, found in results.items()]


def _collection(steps: dict[str, Folder]) -> Collection | None:
    split = next((f for f in steps.values() if f.exists("evaluation/queries.parquet")), None)
    return read_collection(split) if split else None


def _made_queries(steps: dict[str, Folder]) -> str:
    """What the held-out queries are, where they were made of documents; empty where somebody asked them."""
    split = next((f for f in steps.values() if f.exists("evaluation/qrels.parquet")), None)
    splits = read_counts(split, "evaluation/qrels.parquet", "split") if split else {}
    parts = [name.removeprefix(MADE_FROM) for name in splits if name.startswith(MADE_FROM)]
    return " and ".join(f"{part.replace('-', ' ')}s" for part in parts)


def _sources(steps: dict[str, Folder]) -> dict[str, int]:
    """How many documents each source gave, most first."""
    documents = next((f for f in steps.values() if f.exists("documents.parquet")), None)
    return read_counts(documents, "documents.parquet", "source") if documents else {}


def _models(steps: dict[str, Folder], file: str) -> dict[str, dict[str, object]]:
    """How model directories read texts: of those that have such a file, the spec; steps of one spec together."""
    told = {
        name: json.loads(folder.read(file))["spec"]
        | {
            key: value
            for key, value in json.loads(folder.read("config.json")).items()
            if key in ("model_type", "num_hidden_layers", "hidden_size")
        }
        for name, folder in steps.items()
        if folder.exists(file)
    }
    alike: dict[str, list[str]] = {}
    for name, spec in told.items():
        alike.setdefault(json.dumps(spec, sort_keys=True), []).append(name)
    return {", ".join(names): told[names[0]] for names in alike.values()}


def _scores(steps: dict[str, Folder]) -> list[Plot]:
    plots = []
    for name, folder in steps.items():
        if not (folder.exists("pairs.parquet") and folder.exists("rejected/rejected.parquet")):
            continue
        kept = _column(folder, "pairs.parquet", "measured")
        rejected = _column(folder, "rejected/rejected.parquet", "measured")
        if len(kept):
            words = f"Histogram of scores in {name}: {len(kept)} pairs kept, {len(rejected)} rejected"
            plots.append(Plot(f"scores-{name}", words, figures.scores(kept, rejected, name)))
    return plots


def _losses(steps: dict[str, Folder]) -> list[Plot]:
    plots = []
    for name, folder in steps.items():
        if not folder.exists("history.parquet"):
            continue
        history = folder.read_table("history.parquet", columns=["step", "loss"]).sort_by("step")
        if not history.num_rows:
            continue
        step_S, loss_S = (history[column].to_numpy() for column in ("step", "loss"))
        words = f"Loss of {name} over {len(step_S)} steps: {loss_S[0]:.3f} at first, {loss_S[-1]:.3f} at last"
        plots.append(Plot(f"loss-{name}", words, figures.losses(step_S, loss_S, name)))
    return plots


def _angles(steps: dict[str, Folder]) -> list[Angles]:
    found = []
    for name, folder in steps.items():
        if not folder.exists("angles.parquet"):
            continue
        # A tensor that no checkpoint moved has no angle.
        table = folder.read_table("angles.parquet").filter(pc.is_finite(pc.field("angle_degrees")))
        if not table.num_rows:
            continue
        angle_T = table["angle_degrees"].to_numpy()
        largest = int(np.argmax(angle_T))
        words = f"Angle of each of {len(angle_T)} tensors"
        plot = Plot(f"angles-{name}", words, figures.angles(angle_T, name))
        found.append(
            Angles(
                plot=plot,
                median=float(np.median(angle_T)),
                largest=float(angle_T[largest]),
                tensor=table["tensor"][largest].as_py(),
                norm_ratio=float(np.nanmedian(table["norm_ratio"].to_numpy())),
                words=folder.read("merge.txt").decode() if folder.exists("merge.txt") else "",
            )
        )
    return found


def _column(folder: Folder, file: str, column: str) -> np.ndarray:
    table = folder.read_table(file)
    if column not in table.column_names:
        return np.empty(0)
    return table[column].drop_null().to_numpy()
