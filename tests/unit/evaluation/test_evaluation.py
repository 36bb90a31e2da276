"""Judging, keeping and comparing one system's result."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from components.evaluation.evaluation import (
    compare,
    rank_and_score,
    read_evaluation,
    write_evaluation,
)
from components.evaluation.metrics import METRICS
from components.storage import Folder


def test_known_ranks_give_their_closed_form(system):
    found = system([1] * 20 + [3] * 20 + [50] * 10 + [0] * 10)
    assert found.metrics["ndcg@10"].mean == pytest.approx((20 + 20 / math.log2(4)) / 60)
    assert found.metrics["mrr@10"].mean == pytest.approx((20 + 20 / 3) / 60)
    assert found.metrics["recall@10"].mean == pytest.approx(40 / 60)
    assert found.metrics["recall@100"].mean == pytest.approx(50 / 60)
    assert (found.corpus_size, found.queries) == (200, 60)


def test_run_holds_the_first_hundred_by_rank(system, collection):
    run = system([7] * 60).run
    assert run.num_rows == 60 * 100
    first = run.to_pylist()[:100]
    assert [row["rank"] for row in first] == list(range(1, 101))
    assert first[6]["document_id"] == "d000"
    assert all(left["score"] >= right["score"] for left, right in itertools.pairwise(first))


def test_results_that_are_missing_are_no_results(collection):
    indices = np.full((60, 5), -1)
    indices[0, 0] = 0
    found = rank_and_score(collection, np.zeros((60, 5), np.float32), indices, seconds=0)
    assert found.run.num_rows == 1
    assert found.metrics["recall@100"].mean == pytest.approx(1 / 60)


def test_a_score_that_is_not_a_number_is_an_error(collection):
    scores = np.zeros((60, 5), np.float32)
    scores[3, 2] = np.nan
    with pytest.raises(ValueError, match="`q03` has a similarity that is not a finite number"):
        rank_and_score(collection, scores, np.tile(np.arange(5), (60, 1)), seconds=0)


def test_what_is_written_is_read_back(system, tmp_path):
    found = system([2] * 60)
    folder = Folder(str(tmp_path))
    write_evaluation(found, folder)
    assert read_evaluation(folder) == found
    summary = json.loads(folder.read("metrics.json"))
    assert set(summary["ndcg@10"]) == {"mean", "low", "high"}
    assert (summary["corpus_size"], summary["queries"]) == (200, 60)
    assert set(METRICS) <= set(found.numbers())


def test_evaluations_of_different_collections_are_not_compared(system):
    with pytest.raises(ValueError, match="on different collections"):
        compare(system([1] * 60), replace(system([1] * 60), digest="0" * 64), "ndcg@10")
