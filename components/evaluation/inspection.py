"""What steps left behind, a few rows at a time: pairs, mined negatives, rows turned away, the worst queries.

Tables are read by row groups from the front, until enough rows are found: of one with millions of rows the first
are there at once. How many match is read off the footers, or counted over the columns that a filter names.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from components.evaluation.worst import worst_queries
from components.storage import Folder

Kind = Literal["pairs", "negatives", "rejected", "queries"]
KINDS: dict[Kind, str] = {
    "pairs": "pairs",
    "negatives": "pairs with mined negatives",
    "rejected": "rows turned away",
    "queries": "worst queries",
}
TEXTS = ("query", "positive", "title", "text", "relevant", "instead")
"""Columns that hold a text to read; `negatives` holds several."""
_FIRST_SCORES = "negative_scores.parquet"
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Filters:
    """Which rows are wanted: those whose value is one of these. An empty tuple asks for nothing."""

    reason: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()

    def asked(self) -> dict[str, tuple[str, ...]]:
        """By column, as far as something is asked."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: values for name, values in found.items() if values}


@dataclass(frozen=True)
class Section:
    """Some rows of one table.

    Attributes:
        table: its name within what the step left.
        total: rows of the table that match; of an evaluation, all its queries.
        rows: the first of them, columns without a value left out.
    """

    step: str
    kind: Kind
    table: str
    total: int
    rows: list[dict[str, Any]]


def look(
    steps: Mapping[str, Folder],
    split_of: Callable[[Folder], Folder | None],
    kinds: Collection[Kind] = tuple(KINDS),
    filters: Filters | None = None,
    limit: int = 10,
) -> list[Section]:
    """The first rows of each table of the steps that match.

    Args:
        steps: what they left, by name.
        split_of: the split that an evaluation was made on; None where it is not known.
        kinds: which are wanted.
        filters: a table that lacks a column of theirs has no row that matches; evaluations have none of them.
        limit: rows of a table at most.
    """
    filters = filters or Filters()
    found = []
    for step, folder in steps.items():
        for kind, table in _tables(folder):
            if kind not in kinds:
                continue
            if kind == "queries":
                section = None if filters.asked() else _worst(step, folder, split_of(folder), limit)
            else:
                section = _first(step, kind, folder, table, filters, limit)
            if section and section.rows:
                found.append(section)
    return found


def read_judged(steps: Mapping[str, Folder]) -> dict[str, float]:
    """nDCG@10 of the steps that judged queries."""
    return {
        step: json.loads(folder.read("metrics.json"))["ndcg@10"]["mean"]
        for step, folder in steps.items()
        if ("queries", "per_query.parquet") in _tables(folder)
    }


def _tables(folder: Folder) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    if folder.exists("pairs.parquet"):
        found.append(("negatives" if folder.exists(_FIRST_SCORES) else "pairs", "pairs.parquet"))
    found += [("rejected", name) for name in folder.names("rejected/*.parquet")]
    if folder.exists("per_query.parquet") and folder.exists("run.parquet"):
        found.append(("queries", "per_query.parquet"))
    return found


def _first(step: str, kind: Kind, folder: Folder, table: str, filters: Filters, limit: int) -> Section | None:
    dataset = _dataset(folder, table)
    asked = filters.asked()
    if not asked.keys() <= {*dataset.schema.names}:
        return None
    wanted = None
    for column, values in asked.items():
        one = pc.field(column).isin(pa.array(values, pa.string()))
        wanted = one if wanted is None else wanted & one
    rows = [
        {name: value for name, value in row.items() if value not in (None, "", [])}
        for row in _head(dataset, limit, wanted).to_pylist(maps_as_pydicts="lossy")
    ]
    if kind == "negatives":
        ids = pa.array([row["pair_id"] for row in rows], pa.string())
        scores = _head(_dataset(folder, _FIRST_SCORES), len(rows), pc.field("pair_id").isin(ids)).to_pylist()
        score_of = {each["pair_id"]: each["first_score"] for each in scores}
        rows = [{**row, "score_of_negatives": score_of.get(row["pair_id"])} for row in rows]
    return Section(step, kind, table, dataset.count_rows(filter=wanted), rows)


def _worst(step: str, folder: Folder, split: Folder | None, limit: int) -> Section:
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in worst_queries(folder, split, limit)
    ]
    return Section(
        step, "queries", "per_query.parquet", _dataset(folder, "per_query.parquet").count_rows(), rows
    )


def _dataset(folder: Folder, name: str) -> ds.Dataset:
    return ds.dataset(folder.path(name), filesystem=folder.filesystem, format="parquet")


def _head(dataset: ds.Dataset, limit: int, wanted: ds.Expression | None) -> pa.Table:
    # Without the usual look ahead, which reads sixteen batches and four files before the first row is shown.
    return dataset.head(limit, filter=wanted, batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1)
