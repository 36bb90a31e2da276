"""The rows that survive an attempt."""

from pathlib import Path

import pyarrow as pa
import pytest

from components.storage import Folder
from components.synthesis.answers import ANSWERS, CHECKPOINT, ROWS, forget_failures, read_answers


def answer(document_id: str, fault: str = "") -> dict[str, object]:
    empty = {field.name: "" if field.type == pa.string() else 0 for field in ANSWERS}
    return empty | {"document_id": document_id, "query": f"about {document_id}", "fault": fault}


def record(state: Folder, name: str, rows: list[dict[str, object]], suffix: str = "") -> None:
    table = pa.Table.from_pylist(rows, schema=ANSWERS)
    state.write_table(f"{ROWS}/{name}.parquet", table)
    state.write_table(f"{CHECKPOINT}/{name}{suffix}.parquet", table.select(["document_id"]))


@pytest.fixture
def state(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "state"))


def ids(table: pa.Table) -> list[str]:
    return sorted(table.column("document_id").to_pylist())


def test_nothing_is_recorded_before_the_first_attempt(state: Folder):
    assert read_answers(state).num_rows == 0
    forget_failures(state)
    assert read_answers(state).num_rows == 0


def test_rows_whose_record_was_not_finished_do_not_count(state: Folder):
    record(state, "first", [answer("a"), answer("b")])
    record(state, "second", [answer("c")], suffix=".pending")
    assert ids(read_answers(state)) == ["a", "b"]


def test_a_document_counts_once(state: Folder):
    record(state, "first", [answer("a"), answer("b")])
    record(state, "second", [answer("b")])
    assert ids(read_answers(state)) == ["a", "b"]


def test_failures_are_forgotten_and_the_others_kept(state: Folder):
    record(state, "first", [answer("a"), answer("b", "engine_error")])
    record(state, "second", [answer("c", "query_unreadable"), answer("d")])
    forget_failures(state)
    assert ids(read_answers(state)) == ["a", "d"]
    recorded = pa.concat_tables([state.read_table(name) for name in state.names(f"{CHECKPOINT}/*")])
    assert ids(recorded) == ["a", "d"]
