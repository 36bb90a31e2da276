"""What each step let through and what it turned away, read from what the steps left behind."""

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.dataset as ds

from components.storage import Folder

# What a step's output may hold, by the file names that all steps share, in the order of the work.
TABLES = {
    "documents.parquet": "documents",
    "queries.parquet": "labelled queries",
    "train/documents.parquet": "documents to train on",
    "train/queries.parquet": "labelled queries to train on",
    "synthesis/documents.parquet": "documents to write queries for",
    "evaluation/documents.parquet": "documents to search in the evaluation",
    "evaluation/queries.parquet": "held-out queries",
    "pairs.parquet": "pairs",
    "batches.parquet": "global batches",
}


@dataclass(frozen=True)
class Passed:
    """One table that a step left.

    Attributes:
        rows: how many rows it holds.
        what: what a row is.
        origins: for pairs, how many come from where, most first.
        rejected: rows the step turned away, by reason, most first; with the first table of a step only.
    """

    step: str
    rows: int
    what: str
    origins: dict[str, int]
    rejected: dict[str, int]


def read_funnel(steps: dict[str, Folder]) -> list[Passed]:
    """The tables of the steps, step by step. A step without one is left out."""
    found = []
    for step, folder in steps.items():
        rejected = _rejected(folder)
        for name, what in TABLES.items():
            if not folder.exists(name):
                continue
            rows = ds.dataset(folder.path(name), filesystem=folder.filesystem).count_rows()
            if not rows and not rejected:
                continue
            origins = read_counts(folder, name, "origin") if what == "pairs" else {}
            found.append(Passed(step, rows, what, origins, rejected))
            rejected = {}
        if folder.exists("groups.parquet"):
            groups = folder.read_table("groups.parquet", columns=["group_id"])
            distinct = pc.count_distinct(groups["group_id"]).as_py()
            found.append(Passed(step, distinct, "groups of like documents", {}, {}))
    return found


def _rejected(folder: Folder) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name in folder.names("rejected/*.parquet"):
        total.update(read_counts(folder, name, "reason"))
    return dict(total.most_common())


def read_counts(folder: Folder, name: str, column: str) -> dict[str, int]:
    """How often each value of a column occurs, most first."""
    dataset = ds.dataset(folder.path(name), filesystem=folder.filesystem)
    counted = dataset.to_table(columns=[column])[column].value_counts().to_pylist()
    return dict(Counter({str(each["values"]): each["counts"] for each in counted}).most_common())
