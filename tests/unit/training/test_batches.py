"""Properties of the batch plan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.batches import global_batches, plan_epoch, worker_rows


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(2, 60), seed=st.integers(0, 100), epoch=st.integers(0, 3))
def test_every_row_at_most_once_and_every_batch_full(
    data: st.DataObject, rows: int, seed: int, epoch: int
) -> None:
    batch_size = data.draw(st.integers(2, rows))
    kinds = data.draw(st.integers(1, rows))
    ids = np.random.default_rng(seed).integers(0, kinds, (2, rows))
    batches = plan_epoch(ids[0], ids[1], batch_size, seed, epoch)
    assert [len(batch) for batch in batches] == [batch_size] * (rows // batch_size)
    placed = np.concatenate(batches)
    assert len(set(placed.tolist())) == len(placed)
    again = plan_epoch(ids[0], ids[1], batch_size, seed, epoch)
    assert all((first == second).all() for first, second in zip(batches, again, strict=True))


def test_no_text_twice_in_a_batch_where_that_can_be() -> None:
    """Every query has five rows, every positive three: 16 of 300 rows a batch leave room."""
    rng = np.random.default_rng(0)
    queries, positives = (
        rng.permutation(np.repeat(np.arange(60), 5)),
        rng.permutation(np.repeat(np.arange(100), 3)),
    )
    batches = plan_epoch(queries, positives, 16, seed=0, epoch=0)
    apart = [len(set(queries[b])) == len(b) == len(set(positives[b])) for b in batches]
    assert np.mean(apart) > 0.8
    random = np.random.default_rng(0).permutation(300)[: 16 * 18].reshape(18, 16)
    assert np.mean([len(set(queries[b])) == 16 == len(set(positives[b])) for b in random]) < 0.1


def test_epochs_and_seeds_differ() -> None:
    ids = np.arange(32)
    plans = {
        tuple(np.concatenate(plan_epoch(ids, ids, 8, seed, epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(plans) == 9


def test_any_step_can_be_the_start() -> None:
    ids = np.arange(21)
    whole = list(global_batches(ids, ids, 5, 1, 0, 11))
    for start in (0, 3, 4, 9, 11):
        rest = list(global_batches(ids, ids, 5, 1, start, 11))
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[start:]]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_the_workers_share_a_batch_without_overlap(workers: int) -> None:
    batch = np.array([7, 3, 9, 1, 4, 8, 2, 0, 5])
    parts = [worker_rows(batch, rank, workers) for rank in range(workers)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(batch.tolist())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_too_few_rows() -> None:
    with pytest.raises(
        ValueError, match="3 training pairs do not fill one batch; batch_size must be at most 3"
    ):
        plan_epoch(np.arange(3), np.arange(3), 4, 0, 0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        plan_epoch(np.arange(3), np.arange(3), 1, 0, 0)
