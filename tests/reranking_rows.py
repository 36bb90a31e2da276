"""Pair tables with negatives and a teacher's scores, and batches of them for the tiny rerankers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.corpus.schema import content_id
from components.monitor import Silent
from components.pairs.reranking import RERANKING
from components.storage import Folder
from components.training.reranker_plan import plan_reranking

WORDS = ["yes", "no", "the", "document", "query", "sort", "a list", "{query}"]


def reranking_table(rows: int, seed: int = 0) -> pa.Table:
    """Every third row has no negative, the others one or two; texts differ in length."""
    rng = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, longest)))

    table = []
    for row in range(rows):
        query, positive = f"{text(6)} {row}", f"{text(20)} {row}"
        negatives = [f"{text(20)} {row} {number}" for number in range(row % 3)]
        table.append(
            {
                "pair_id": f"pair-{row}",
                "query": query,
                "positive": positive,
                "query_id": content_id(query),
                "positive_id": content_id(positive),
                "negatives": negatives,
                "negative_ids": [content_id(each) for each in negatives],
                "task": "test",
                "instruction": "Find the function" if row % 4 == 0 else None,
                "language": "en",
                "origin": "test",
                "teacher_scores": rng.normal(0, 2, 1 + len(negatives)).tolist(),
            }
        )
    return pa.Table.from_pylist(table, schema=RERANKING)


def write_reranking_plan(
    model: Path, directory: Path, pairs: pa.Table, loss: str = "two_way", **values: Any
) -> Folder:
    """Batches of labelled rows, planned; a folder as training reads it."""
    source, folder = Folder(str(directory / "pairs")), Folder(str(directory / "batches"))
    source.write_table("pairs.parquet", pairs)
    settings = {"batch_size": 5, "steps": 2} | values
    plan_reranking(
        pairs=source,
        model=Folder(str(model)),
        objective={"loss": loss},
        output=folder,
        monitor=Silent(),
        **settings,
    )
    return folder
