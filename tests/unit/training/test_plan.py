"""The plan of whole pair tables, and what the workers read of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import write_tiny_model
from training_rows import pair_table, write_plan

from components.model.embedder import Embedder
from components.monitor import Silent
from components.storage import Folder
from components.training import batches as batches_module
from components.training import pair_index, shards, stream
from components.training.batch import WorkerBatch
from components.training.plan import plan_batches
from components.training.plan_folder import read_plan, read_steps
from components.training.stream import pair_ids, stream_batches


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("plan") / "model")


@pytest.fixture
def many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a hundred rows are a large table: shards of 8, windows of two shards, 3 sorted parts."""
    monkeypatch.setattr(batches_module, "BLOCK_ROWS", 8)
    monkeypatch.setattr(batches_module, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr(pair_index, "READ_ROWS", 7)
    monkeypatch.setattr(shards, "SORTED_ROWS", 40)
    monkeypatch.setattr("components.training.plan.WINDOW_BLOCKS", 2)
    monkeypatch.setattr("components.training.plan.GROUP_NUMBERS", 9)
    monkeypatch.setattr(stream, "AHEAD_ROWS", 12)


def tasked(rows: int, tasks: int) -> pa.Table:
    """A quarter of the rows to each task but the last, which has the rest."""
    table = pair_table(rows)
    names = pa.array([f"task-{min(row % 4, tasks - 1)}" for row in range(rows)])
    return table.set_column(table.schema.get_field_index("task"), "task", names)


def all_batches(folder: Folder, workers: int = 1, start: int = 0) -> list[list[WorkerBatch]]:
    """Step after step what each worker gets."""
    streams = [stream_batches(folder, start, rank, workers) for rank in range(workers)]
    return [list(shares) for shares in zip(*streams, strict=True)]


def as_lists(batch: WorkerBatch) -> dict[str, Any]:
    return {
        "task": batch.task,
        "rows": batch.rows.tolist(),
        "tokens": [ids.tolist() for ids in batch.tokens],
        "identities": batch.identities.tolist(),
        "negative_rows": batch.negative_rows.tolist(),
        "known_positives": [ids.tolist() for ids in batch.known_positives],
        "global_tokens": batch.global_tokens,
    }


@pytest.mark.usefixtures("many_files")
def test_what_a_worker_reads_is_what_the_pairs_say(model: Path, tmp_path: Path) -> None:
    """Against the pair table itself, in three epochs, from many shards, on one and on three workers."""
    table = tasked(103, tasks=3)
    folder = write_plan(model, tmp_path, table, batch_size=4, epochs=3, negatives_per_query=1)
    by_id = {row["pair_id"]: row for row in table.to_pylist()}
    answers: dict[str, set[str]] = {}
    for row in by_id.values():
        answers.setdefault(row["query"], set()).add(row["positive"])
    embedder = Embedder.load(model)
    plan = read_plan(folder)
    assert len(plan.shard_starts) == len(folder.names("tokens/*")) > 10

    whole = [shares[0] for shares in all_batches(folder)]
    assert len(whole) == plan.steps == 3 * plan.steps_per_epoch
    for step, batch in enumerate(whole):
        rows = [by_id[name] for name in pair_ids(folder, step)]
        assert {row["task"] for row in rows} == {batch.task}
        negatives = [(at, text) for at, row in enumerate(rows) for text in row["negatives"][:1]]
        queries, positives = [row["query"] for row in rows], [row["positive"] for row in rows]
        documents = [*positives, *(text for _, text in negatives)]
        expected = embedder.tokenize(queries, "query") + embedder.tokenize(documents, "document")
        assert [ids.tolist() for ids in batch.tokens] == expected
        assert batch.global_tokens == sum(map(len, expected))
        assert batch.negative_rows.tolist() == [at for at, _ in negatives]
        # Identities tell apart just as texts do (each text has one id here).
        ids = batch.identities.tolist()
        assert len(set(zip(ids[:4], queries, strict=True))) == len(set(ids[:4])) == len(set(queries))
        named = dict(zip(ids[4:], documents, strict=True))
        assert len(named) == len(set(documents))
        for row, known in zip(rows, batch.known_positives, strict=True):
            met = {named[i] for i in known.tolist()}
            assert met == (answers[row["query"]] - {row["positive"]}) & set(documents)

    for shares, batch in zip(all_batches(folder, workers=3), whole, strict=True):
        for rank, share in enumerate(shares):
            own = range(rank, 4, 3)
            texts = [*own, *(4 + i for i in own)]
            texts += [8 + m for i in own for m in np.flatnonzero(batch.negative_rows == i).tolist()]
            assert share.rows.tolist() == batch.rows[rank::3].tolist()
            assert [t.tolist() for t in share.tokens] == [batch.tokens[t].tolist() for t in texts]
            assert share.identities.tolist() == batch.identities[texts].tolist()
            assert [k.tolist() for k in share.known_positives] == [
                batch.known_positives[i].tolist() for i in own
            ]
            assert share.global_tokens == batch.global_tokens
            assert share.task == batch.task


@settings(max_examples=15)
@given(data=st.data(), size=st.integers(2, 6), keep_last=st.booleans(), seed=st.integers(0, 99))
def test_an_epoch_of_any_plan(
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    size: int,
    keep_last: bool,
    seed: int,
) -> None:
    """One task a batch, no row twice, and left out only what fills no batch."""
    counts = data.draw(st.lists(st.integers(4 * size, 40), min_size=1, max_size=3))
    tasks = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    table = pair_table(len(tasks), seed)
    table = table.set_column(table.schema.get_field_index("task"), "task", pa.array(map(str, tasks)))
    folder = write_plan(
        model, tmp_path_factory.mktemp("any"), table, batch_size=size, keep_last=keep_last, seed=seed
    )
    by_id = {row["pair_id"]: row for row in table.to_pylist()}
    batches = [[by_id[name] for name in pair_ids(folder, step)] for step in range(read_plan(folder).steps)]
    assert all(len({row["task"] for row in batch}) == 1 for batch in batches)
    taken = [row["pair_id"] for batch in batches for row in batch]
    assert len(set(taken)) == len(taken)
    sizes = {task: [len(b) for b in batches if b[0]["task"] == str(task)] for task in range(len(counts))}
    for task, count in enumerate(counts):
        last = [count % size] if keep_last and count % size > 1 else []
        assert sorted(sizes[task], reverse=True) == [size] * (count // size) + last


@pytest.mark.usefixtures("many_files")
def test_any_step_can_be_the_start(model: Path, tmp_path: Path) -> None:
    folder = write_plan(model, tmp_path, tasked(60, tasks=2), steps=31)
    whole = [as_lists(batch) for (batch,) in all_batches(folder)]
    for start in (0, 1, 13, 14, 30, 31):
        assert [as_lists(batch) for (batch,) in all_batches(folder, start=start)] == whole[start:]


@pytest.mark.usefixtures("many_files")
def test_an_epoch_takes_each_row_once_and_reads_the_disk_in_runs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_plan(model, tmp_path, tasked(200, tasks=2), epochs=3)
    plan = read_plan(folder)
    steps = list(read_steps(folder, 0))
    tasks = Counter(step.task for step in steps)
    assert tasks == {
        task: 3 * (count // 4) for task, count in Counter(tasked(200, 2)["task"].to_pylist()).items()
    }
    for epoch in range(3):
        of_epoch = steps[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch]
        rows = np.concatenate([step.rows for step in of_epoch])
        assert len(set(rows.tolist())) == len(rows) == plan.steps_per_epoch * 4
        for task in tasks:
            taken = np.concatenate([step.rows for step in of_epoch if step.task == task])
            assert epoch or (np.diff(taken) == 1).all()  # the first epoch is the order on disk
    # A shard is read once an epoch.
    read = Counter[str]()
    opened = Folder.open
    monkeypatch.setattr(
        Folder, "open", lambda self, name, mode="rb": (read.update([name]), opened(self, name, mode))[1]
    )
    for _ in stream_batches(folder, 0, 0, 2):
        pass
    assert {count for name, count in read.items() if name.startswith("tokens/")} <= {1, 2, 3}


def test_the_same_pairs_give_the_same_plan(model: Path, tmp_path: Path) -> None:
    table = tasked(60, tasks=2)
    plans = {
        name: read_plan(write_plan(model, tmp_path / name, table.slice(0, rows), **changes)).fingerprint
        for name, rows, changes in [
            ("one", 60, {}), ("again", 60, {}), ("seed", 60, {"seed": 1}), ("size", 60, {"batch_size": 5}),
            ("rows", 59, {}), ("epochs", 60, {"epochs": 2.0}), ("length", 60, {"query_length": 3}),
            ("negatives", 60, {"negatives_per_query": 0}),
        ]
    }  # fmt: skip
    assert plans["one"] == plans["again"]
    assert len(set(plans.values())) == len(plans) - 1


def test_pairs_in_several_files_and_folders(model: Path, tmp_path: Path) -> None:
    table = pair_table(30)
    one = write_plan(model, tmp_path / "one", table)
    parts, extra = Folder(str(tmp_path / "parts")), Folder(str(tmp_path / "extra"))
    parts.write_table("pairs.parquet/00.parquet", table.slice(0, 10))
    parts.write_table("pairs.parquet/01.parquet", table.slice(10, 9))
    extra.write_table("pairs.parquet", table.slice(19))
    several = Folder(str(tmp_path / "several"))
    plan_batches(
        pairs=parts, extra_pairs=extra, model=Folder(str(model)), batch_size=4, epochs=1.0,
        negatives_per_query=2, output=several, monitor=Silent(),
    )  # fmt: skip
    assert read_plan(several) == read_plan(one)


def test_rows_that_fill_no_batch(model: Path, tmp_path: Path) -> None:
    dropped = write_plan(model, tmp_path / "dropped", pair_table(11), epochs=40)
    assert Counter(len(step.rows) for step in read_steps(dropped, 0)) == {4: 80}
    taken = Counter(row for step in read_steps(dropped, 0) for row in step.rows.tolist())
    assert len(taken) == 11
    assert max(taken.values()) < 40  # no row sits out every epoch, and none no epoch
    kept = write_plan(model, tmp_path / "kept", pair_table(11), epochs=2, keep_last=True)
    assert Counter(len(step.rows) for step in read_steps(kept, 0)) == {4: 4, 3: 2}
    assert read_plan(kept).smallest_batch == 3
    few = write_plan(model, tmp_path / "few", pair_table(2), keep_last=True)
    (((batch,)),) = all_batches(few)
    assert len(batch) == 2


def test_weights_share_out_the_steps(model: Path, tmp_path: Path) -> None:
    table = tasked(120, tasks=2)
    rows = Counter(table["task"].to_pylist())
    weights = {"task-0": 1.0, "task-1": 3.0}
    folder = write_plan(model, tmp_path, table, epochs=2, task_weights=weights)
    plan = read_plan(folder)
    count = Counter(step.task for step in read_steps(folder, 0))
    assert count.total() == plan.steps == 2 * sum(n // 4 for n in rows.values())
    assert abs(count["task-1"] - 0.75 * plan.steps) <= 2
    with pytest.raises(ValueError, match=r"task_weights names \['task-0'\]; it must name each task"):
        write_plan(model, tmp_path / "a", table, task_weights={"task-0": 1.0})
    with pytest.raises(ValueError, match=r"task_weights.task-1 is 0; it must be above 0"):
        write_plan(model, tmp_path / "b", table, task_weights={"task-0": 1.0, "task-1": 0})


def test_rejected_rows_are_kept_with_their_reason(model: Path, tmp_path: Path) -> None:
    table = pair_table(12)
    queries = [" " if row == 3 else query for row, query in enumerate(table["query"].to_pylist())]
    table = table.set_column(table.schema.get_field_index("query"), "query", pa.array(queries))
    pairs, output = Folder(str(tmp_path / "pairs")), Folder(str(tmp_path / "output"))
    pairs.write_table("pairs.parquet", table)
    numbers = plan_batches(
        pairs=pairs, model=Folder(str(model)), batch_size=4, epochs=1, output=output, monitor=Silent()
    )
    assert (numbers["rows_in"], numbers["rows_out"], numbers["rejected_empty_query"]) == (12, 11, 1)
    assert (numbers["steps"], numbers["rows_sitting_out"]) == (2, 3)
    (rejected,) = output.read_table("rejected/rejected.parquet").to_pylist()
    assert (rejected["pair_id"], rejected["reason"]) == ("pair-3", "empty_query")
    assert "pair-3" not in [name for step in range(2) for name in pair_ids(output, step)]
    assert not [name for name in output.files() if "scratch" in name]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (0, {}, "no training pairs: every pair table of the stage is empty"),
        (3, {}, "3 training pairs do not fill one batch; batch_size must be at most 3, not 4"),
        (9, {"tasks": 3}, r"3 training pairs of task 'task-0' do not fill one batch"),
        (1, {"keep_last": True}, r"1 training pairs do not fill one batch"),
        (9, {"batch_size": 1}, "batch_size is 1; in-batch negatives need at least 2 rows"),
        (9, {"epochs": None}, "give epochs or steps, exactly one of them"),
        (9, {"steps": 5, "epochs": 1.0}, "give epochs or steps, exactly one of them"),
        (9, {"epochs": -1.0}, "epochs or steps must be above 0"),
        (9, {"steps": 0}, "epochs or steps must be above 0"),
        (9, {"seed": -1}, "seed is -1; it must be 0 or more"),
    ],
)
def test_refused(model: Path, tmp_path: Path, rows: int, changes: dict[str, Any], message: str) -> None:
    table = tasked(max(rows, 1), changes.pop("tasks", 1)).slice(0, rows)
    with pytest.raises(ValueError, match=message):
        write_plan(model, tmp_path, table, **changes)


def test_nothing_left_of_the_rows(model: Path, tmp_path: Path) -> None:
    table = pair_table(5)
    empty = table.set_column(table.schema.get_field_index("positive"), "positive", pa.array([""] * 5))
    with pytest.raises(ValueError, match=r"none of 5 rows can be trained on \(5 empty_positive\)"):
        write_plan(model, tmp_path, empty)
