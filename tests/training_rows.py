"""Pair tables of random words, and batches of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tiny_model import WORDS

from components.corpus.schema import content_id
from components.monitor import Silent
from components.storage import Folder
from components.training.plan import plan_batches


def pair_table(rows: int, seed: int = 0) -> pa.Table:
    """Queries and documents of random words; some rows have hard negatives, some documents come back."""
    rng = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return " ".join(f"w{word}" for word in rng.integers(0, WORDS, rng.integers(1, longest)))

    documents = [text(40) for _ in range(rows)]
    table = []
    for row in range(rows):
        positive = documents[int(rng.integers(0, rows)) if row % 5 == 0 else row]
        negatives = [documents[int(rng.integers(0, rows))] for _ in range(row % 3)]
        query = text(8) if row % 7 else "w1 w2"
        table.append(
            {
                "pair_id": f"pair-{row}",
                "query": query,
                "positive": positive,
                "query_id": content_id(query),
                "positive_id": content_id(positive),
                "negatives": negatives,
                "negative_ids": [content_id(negative) for negative in negatives],
                "task": "test",
                "language": "en",
                "origin": "test",
            }
        )
    return pa.Table.from_pylist(table)


def write_plan(model: Path, directory: Path, pairs: pa.Table, **values: Any) -> Folder:
    """Batches of pairs, planned; a folder as training reads it."""
    source, folder = Folder(str(directory / "pairs")), Folder(str(directory / "batches"))
    source.write_table("pairs.parquet", pairs)
    settings = {"batch_size": 4, "negatives_per_query": 2} | values
    if "steps" not in settings:
        settings = {"epochs": 1.0} | settings
    plan_batches(pairs=source, model=Folder(str(model)), output=folder, monitor=Silent(), **settings)
    return folder
