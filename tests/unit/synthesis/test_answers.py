"""The rows that survive an attempt."""

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from components.corpus.digests import digests
from components.storage import Folder
from components.synthesis import answers
from components.synthesis.answers import (
    ANSWERS,
    ROWS,
    AnswerLog,
    ask_failures_again,
    forget_failures,
    read_finished,
)


def answer(document_id: str, error: str = "") -> dict[str, object]:
    empty = {field.name: "" if field.type == pa.string() else 0 for field in ANSWERS}
    return empty | {"document_id": document_id, "answer": f"about {document_id}", "error": error}


def record(state: Folder, name: str, rows: list[dict[str, object]]) -> None:
    state.write_table(f"{ROWS}/{name}.parquet", pa.Table.from_pylist(rows, schema=ANSWERS))


def ids(state: Folder) -> list[str]:
    return sorted(state.read_table(ROWS).column("document_id").to_pylist())


@pytest.fixture
def state(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "state"))


def test_nothing_is_finished_before_the_first_attempt(state: Folder):
    assert len(read_finished(state).digests_N) == 0
    assert "a" not in read_finished(state)
    ask_failures_again(state)
    forget_failures(state)
    assert state.names(f"{ROWS}/*") == []


def test_a_row_is_on_the_disk_when_keep_returns_and_a_second_makes_one_file(state: Folder):
    async def keep_all() -> None:
        log = AnswerLog(state)
        await asyncio.gather(*(log.keep(answer(f"row {number}")) for number in range(50)))
        assert len(read_finished(state).digests_N) == 50
        await log.keep(answer("one more"))
        assert "one more" in read_finished(state)

    asyncio.run(keep_all())
    assert len(state.names(f"{ROWS}/*")) == 2


def test_the_files_of_a_long_writing_are_united(state: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answers, "WRITE_EVERY", 0.01)
    monkeypatch.setattr(answers, "FILES_UNITED", 4)

    async def keep_all() -> None:
        log = AnswerLog(state)
        for number in range(10):
            await log.keep(answer(f"row {number}"))

    asyncio.run(keep_all())
    assert len(state.names(f"{ROWS}/*")) == 2 + 2
    assert ids(state) == [f"row {number}" for number in range(10)]


def test_files_that_are_united_while_they_are_read_cost_no_row(
    state: Folder, monkeypatch: pytest.MonkeyPatch
):
    record(state, "a", [answer("row 1")])
    stale = answers.answer_paths(state)
    record(state, "b", [answer("row 1"), answer("row 2")])
    state.delete(f"{ROWS}/a.parquet")
    listed = iter([stale, answers.answer_paths(state)])
    monkeypatch.setattr(answers, "answer_paths", lambda state: next(listed))
    assert len(read_finished(state).digests_N) == 2


def test_whoever_keeps_a_row_learns_that_the_disk_refused_it(tmp_path: Path):
    (tmp_path / "file").touch()
    log_in_a_file = Folder(str(tmp_path / "file"))

    async def keep() -> None:
        await AnswerLog(log_in_a_file).keep(answer("a"))

    with pytest.raises(OSError, match="file"):
        asyncio.run(keep())


def test_half_written_files_do_not_count(state: Folder):
    record(state, "first", [answer("a")])
    state.write(f"{ROWS}/second.parquet.1234.tmp", b"PAR1 and then the process died")
    finished = read_finished(state)
    assert "a" in finished
    assert len(finished.digests_N) == 1


def test_a_row_that_stands_twice_counts_once(state: Folder):
    record(state, "first", [answer("a"), answer("b", "no answer")])
    record(state, "second", [answer("b", "no answer")])
    finished = read_finished(state)
    assert finished.digests_N.tolist() == sorted(digests(["a", "b"]))
    assert finished.failed == 1


def test_failures_are_forgotten_and_the_others_kept(state: Folder):
    record(state, "first", [answer("a"), answer("b", "no answer")])
    record(state, "second", [answer("c", "a cut-off answer")])
    record(state, "third", [answer("d")])
    forget_failures(state)  # nobody asked for that
    assert read_finished(state).failed == 2
    ask_failures_again(state)
    forget_failures(state)
    assert ids(state) == ["a", "d"]
    assert read_finished(state).failed == 0
