"""A test collection small enough to know by heart."""

import numpy as np
import pytest

from components.evaluation.collection import Collection
from components.evaluation.evaluation import Evaluation, rank_and_score

QUERIES = 60


@pytest.fixture
def collection() -> Collection:
    return Collection(
        document_ids=[f"d{number:03d}" for number in range(200)],
        passages=[f"passage {number}" for number in range(200)],
        query_ids=[f"q{number:02d}" for number in range(QUERIES)],
        queries=[f"query {number}" for number in range(QUERIES)],
        qrels={f"q{number:02d}": {f"d{number:03d}": 1} for number in range(QUERIES)},
        queries_left_out=0,
    )


@pytest.fixture
def system(collection):
    """Makes the evaluation of a system that finds each query's document at the rank given (0: not at all)."""

    def make(ranks: list[int]) -> Evaluation:
        indices_NK = np.tile(np.arange(100, 200), (QUERIES, 1))
        for row, rank in enumerate(ranks):
            if rank:
                indices_NK[row, rank - 1] = row
        scores_NK = np.tile(np.linspace(1, 0, 100, dtype=np.float32), (QUERIES, 1))
        return rank_and_score(collection, scores_NK, indices_NK, seconds=1.5)

    return make
