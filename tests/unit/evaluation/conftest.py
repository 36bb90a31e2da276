"""A test collection small enough to know by heart."""

import numpy as np
import pyarrow as pa
import pytest

from components.corpus.schema import DOCUMENTS, QRELS, QUERIES
from components.evaluation.collection import Collection
from components.evaluation.evaluation import Evaluation, rank_and_score
from components.storage import Folder

COUNT = 60


@pytest.fixture
def collection() -> Collection:
    return Collection(
        document_ids=[f"d{number:03d}" for number in range(200)],
        passages=[f"passage {number}" for number in range(200)],
        query_ids=[f"q{number:02d}" for number in range(COUNT)],
        queries=[f"query {number}" for number in range(COUNT)],
        qrels={f"q{number:02d}": {f"d{number:03d}": 1} for number in range(COUNT)},
        queries_left_out=0,
    )


@pytest.fixture
def system(collection):
    """Makes the evaluation of a system that finds each query's document at the rank given (0: not at all)."""

    def make(ranks: list[int]) -> Evaluation:
        indices_NK = np.tile(np.arange(100, 200), (COUNT, 1))
        for row, rank in enumerate(ranks):
            if rank:
                indices_NK[row, rank - 1] = row
        scores_NK = np.tile(np.linspace(1, 0, 100, dtype=np.float32), (COUNT, 1))
        return rank_and_score(collection, scores_NK, indices_NK, seconds=1.5)

    return make


@pytest.fixture
def split(tmp_path):
    """Documents of random words; a query repeats some words of its two relevant documents."""
    rng = np.random.default_rng(0)
    words = [[f"w{word}" for word in rng.integers(0, 200, 12)] for _ in range(150)]
    documents = [
        {
            "document_id": f"d{n}",
            "title": row[0],
            "text": " ".join(row[1:]),
            "language": "en",
            "source": "random",
        }
        for n, row in enumerate(words)
    ]
    queries = [{"query_id": f"q{n}", "text": " ".join(words[n][3:6] + words[n + 40][7:9])} for n in range(40)]
    qrels = [
        {"query_id": f"q{n}", "document_id": f"d{m}", "score": 1, "split": "test"}
        for n in range(40)
        for m in (n, n + 40)
    ]
    folder = Folder(str(tmp_path / "split"))
    for name, rows, schema in (
        ("documents", documents, DOCUMENTS),
        ("queries", queries, QUERIES),
        ("qrels", qrels, QRELS),
    ):
        folder.write_table(f"evaluation/{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
    return folder
