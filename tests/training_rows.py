"""Pair tables of random words, and their token tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from tiny_model import WORDS

from components.corpus.schema import content_id
from components.model.embedder import Embedder
from components.storage import Folder
from components.training.tokens import tokenise_pairs


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


def write_tokens(model: Path, directory: Path, rows: int) -> Folder:
    folder = Folder(str(directory))
    tokenise_pairs([pair_table(rows)], Embedder.load(model), 2, None, None, folder)
    return folder
