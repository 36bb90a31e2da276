"""The queries that a system answers worst, with what it should have found and what it found instead."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from components.corpus.schema import passage
from components.storage import Folder

METRICS = ("ndcg@10", "recall@100")


def worst_queries(evaluation: Folder, split: Folder | None, count: int) -> list[dict[str, Any]]:
    """The queries of the lowest nDCG@10, of those the ones of the lowest Recall@100 first.

    Of the corpus and of the judgements only what these queries need is held.

    Args:
        evaluation: per_query.parquet and run.parquet (`evaluation.write_evaluation`).
        split: output of split_documents, which the evaluation was made on; None: only ids are known.
        count: how many at most.

    Returns:
        query_id, METRICS and, of the evaluation's first document, `first_id`; with a split also `query`, `relevant_id`
        and `relevant` (the relevant document that stands best, or any), `rank` (its own; None: not among the results),
        and `instead`, the text of the first document if that is not relevant.
    """
    per_query = evaluation.read_table("per_query.parquet", columns=["query_id", *METRICS])
    order = [(metric, "ascending") for metric in METRICS] + [("query_id", "ascending")]
    rows = per_query.sort_by(order).slice(0, count).to_pylist()
    ids = [row["query_id"] for row in rows]
    ranks: dict[str, dict[str, int]] = {query_id: {} for query_id in ids}
    for found in _rows(evaluation, "run.parquet", "query_id", ids, ["query_id", "document_id", "rank"]):
        ranks[found["query_id"]][found["document_id"]] = found["rank"]
    for row in rows:
        row["first_id"] = next((one for one, rank in ranks[row["query_id"]].items() if rank == 1), None)
    if split is None:
        return rows

    relevant: dict[str, list[str]] = {query_id: [] for query_id in ids}
    judgements = ["query_id", "document_id", "score"]
    for judged in _rows(split, "evaluation/qrels.parquet", "query_id", ids, judgements):
        if judged["score"] > 0:
            relevant[judged["query_id"]].append(judged["document_id"])
    for row in rows:
        mine = ranks[row["query_id"]]
        best = min(sorted(relevant[row["query_id"]]), key=lambda one: mine.get(one, len(mine) + 1))
        row |= {"relevant_id": best, "rank": mine.get(best)}
    wanted = {row[key] for row in rows for key in ("relevant_id", "first_id") if row[key]}
    texts = {
        each["document_id"]: passage(each["title"], each["text"])
        for each in _rows(
            split, "evaluation/documents.parquet", "document_id", wanted, ["document_id", "title", "text"]
        )
    }
    queries = {
        each["query_id"]: each["text"]
        for each in _rows(split, "evaluation/queries.parquet", "query_id", ids, ["query_id", "text"])
    }
    for row in rows:
        is_right = row["first_id"] in relevant[row["query_id"]]
        row |= {
            "query": queries.get(row["query_id"]),
            "relevant": texts.get(row["relevant_id"]),
            "instead": None if is_right or row["first_id"] is None else texts.get(row["first_id"]),
        }
    return rows


def _rows(
    folder: Folder, name: str, key: str, values: Iterable[str], columns: list[str]
) -> list[dict[str, Any]]:
    """The rows of a table whose key is among the values."""
    is_wanted = pc.field(key).isin(pa.array(values, pa.string()))
    dataset = ds.dataset(folder.path(name), filesystem=folder.filesystem, format="parquet")
    return dataset.to_table(columns=columns, filter=is_wanted).to_pylist()
