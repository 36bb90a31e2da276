"""Properties of the plan's arithmetic."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training import batches as batches_module
from components.training.batches import (
    WINDOW_BLOCKS,
    Laid,
    block_rows,
    drawn_tasks,
    rows_beside_their_like,
    shuffled_pass,
    task_batches,
    windows,
    worker_rows,
)


def together(ids: np.ndarray, batch: np.ndarray) -> int:
    return len(batch) - len(set(ids[batch].tolist()))


@settings(max_examples=200)
@given(data=st.data(), rows=st.integers(2, 80), keep_last=st.booleans(), seed=st.integers(0, 99))
def test_a_pass_takes_each_row_once_or_leaves_it(
    data: st.DataObject, rows: int, keep_last: bool, seed: int
) -> None:
    size = data.draw(st.integers(2, rows + 1))
    queries, positives = np.random.default_rng(seed).integers(0, data.draw(st.integers(1, rows)), (2, rows))
    numbers = np.arange(100, 100 + rows)
    by_number = np.pad(queries, (100, 0)), np.pad(positives, (100, 0))

    one = shuffled_pass(numbers, *by_number, size, keep_last, np.random.default_rng(seed))

    assert sorted(itertools.chain(one.left, *one.batches)) == numbers.tolist()
    rest = rows % size
    last = [rest] if keep_last and rest > 1 else []
    assert [len(batch) for batch in one.batches] == [size] * (rows // size) + last
    assert len(one.left) == (0 if last else rest)
    again = shuffled_pass(numbers, *by_number, size, keep_last, np.random.default_rng(seed))
    assert all((first == second).all() for first, second in zip(one.batches, again.batches, strict=True))


@settings(max_examples=150)
@given(data=st.data(), size=st.integers(2, 12), most=st.integers(1, 4), seed=st.integers(0, 99))
def test_no_text_twice_in_a_batch_where_there_are_batches_enough(
    data: st.DataObject, size: int, most: int, seed: int
) -> None:
    """With m batches and at most Q rows a query and P rows a positive: whenever m >= 2 (Q + P - 2)."""
    queries_each, positives_each = most, data.draw(st.integers(1, 4))
    enough = max(1, 2 * (queries_each + positives_each - 2))
    rows = size * data.draw(st.integers(enough, 2 * enough)) + data.draw(st.integers(0, size - 1))
    rng = np.random.default_rng(seed)
    queries = rng.permutation(np.arange(rows) // queries_each)
    positives = rng.permutation(np.arange(rows) // positives_each)
    for keep_last in (False, True):
        one = shuffled_pass(np.arange(rows), queries, positives, size, keep_last, rng)
        for batch in one.batches:
            assert together(queries, batch) == together(positives, batch) == 0
            assert rows_beside_their_like(queries[batch], positives[batch]) == 0


def test_what_cannot_be_kept_apart_is_counted() -> None:
    """One query in 7 of 10 rows, in 2 batches of 5: at least five times it stands beside itself."""
    queries = np.array([0] * 7 + [1, 2, 3])
    one = shuffled_pass(np.arange(10), queries, np.arange(10), 5, False, np.random.default_rng(0))
    assert sum(rows_beside_their_like(queries[batch], batch) for batch in one.batches) == 5
    # Four rows of one, in 4 batches: one each, and it takes a look at every place to find that.
    queries = np.array([0] * 4 + list(range(1, 9)))
    for seed in range(20):
        one = shuffled_pass(np.arange(12), queries, np.arange(12), 3, False, np.random.default_rng(seed))
        assert [together(queries, batch) for batch in one.batches] == [0] * 4


def test_all_places_are_looked_at_when_random_ones_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "TRIES", 0)
    queries = np.arange(60) // 3
    one = shuffled_pass(np.arange(60), queries, np.arange(60), 10, False, np.random.default_rng(1))
    assert sum(together(queries, batch) for batch in one.batches) == 0


def test_the_first_batches_are_shuffled_evenly() -> None:
    """Over many seeds a row stands in each batch equally often (chi square with 9 degrees of freedom)."""
    queries = np.arange(40) // 2
    count = np.zeros(10)
    for seed in range(2000):
        one = shuffled_pass(np.arange(40), queries, np.arange(40), 4, False, np.random.default_rng(seed))
        count[next(at for at, batch in enumerate(one.batches) if 7 in batch)] += 1
    assert ((count - 200) ** 2 / 200).sum() < 27.9  # exceeded with a probability of 0.001


@settings(max_examples=100)
@given(rows=st.integers(1, 5000), block=st.integers(1, 100), seed=st.integers(0, 99))
def test_windows_hold_few_blocks_and_every_row_once(rows: int, block: int, seed: int) -> None:
    found = list(windows(rows, block, np.random.default_rng(seed)))
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert max(len(np.unique(window // block)) for window in found) <= WINDOW_BLOCKS


@settings(max_examples=30)
@given(rows=st.integers(4, 900), keep_last=st.booleans(), seed=st.integers(0, 9))
def test_every_pass_has_the_same_batches_in_number_and_others_in_rows(
    rows: int, keep_last: bool, seed: int
) -> None:
    size = 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "BLOCK_ROWS", 8)
        ids = np.arange(rows)
        per_pass = rows // size + (keep_last and rows % size > 1)
        drawn = task_batches(Laid(50, ids, ids, per_pass), size, keep_last, seed, 0)
        passes = [list(itertools.islice(drawn, per_pass)) for _ in range(3)]
    for one in passes:
        placed = np.concatenate(one)
        assert len(set(placed.tolist())) == len(placed) >= rows - size + 1 - keep_last
        assert set(placed.tolist()) <= set(range(50, 50 + rows))
    # The first is the order of the layout itself.
    assert np.concatenate(passes[0]).tolist() == list(range(50, 50 + len(np.concatenate(passes[0]))))
    if rows > 40:
        assert len({tuple(np.concatenate(one)) for one in passes}) == 3


def test_a_block_is_whole_batches() -> None:
    assert [block_rows(size) for size in (2, 64, 100, 3000, 4096, 9000)] == [
        4096, 4096, 4100, 3000, 4096, 9000,
    ]  # fmt: skip


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 2.0], [0.01, 3.0, 1.0]])
def test_tasks_are_drawn_by_weight(weights: list[float] | None) -> None:
    per_pass = [30, 60, 10]
    epochs = list(itertools.islice(drawn_tasks(per_pass, weights, seed=3), 40))
    count = np.array([np.bincount(epoch, minlength=3) for epoch in epochs])
    assert (count.sum(axis=1) == 100).all()
    if weights is None:
        assert (count == per_pass).all()
    else:
        expected = 100 * np.array(weights) / sum(weights)
        assert (np.abs(count - expected) < 1).all()
        # unbiased: also what is less than one batch an epoch comes to its share
        assert np.abs(count.mean(axis=0) - expected).max() < 3 * 0.5 / np.sqrt(40)
    assert len({tuple(epoch) for epoch in epochs}) == 40  # in another order each


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_the_workers_share_a_batch_without_overlap(workers: int) -> None:
    batch = np.array([7, 3, 9, 1, 4, 8, 2, 0, 5])
    parts = [worker_rows(batch, rank, workers) for rank in range(workers)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(batch.tolist())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
