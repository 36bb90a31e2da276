"""What the writer answered, row by row, in a place that survives the attempt.

Whoever asks the writer keeps its answers here himself, about once a second: a row counts as finished when it stands
here, and is never asked for again. What a crash costs is a second of answers, however long the slowest row of a
batch takes.
"""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from components.corpus.digests import digests, find
from components.storage import Folder

ROWS = "rows"
FORGET = "forget-failures"
ID = "document_id"
WRITE_EVERY = 1.0  # seconds
FILES_UNITED = 64  # a file a second is 36,000 in ten hours, which no reader opens gladly

_REQUEST = [
    pa.field(ID, pa.string(), nullable=False),
    pa.field("family", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("passage", pa.string(), nullable=False),
    pa.field("language", pa.string(), nullable=False),
    pa.field("asked_language", pa.string(), nullable=False),
    pa.field("question_type", pa.string(), nullable=False),
    pa.field("difficulty", pa.string(), nullable=False),
    pa.field("length", pa.int64(), nullable=False),
    pa.field("request_seed", pa.int64(), nullable=False),
    pa.field("fault", pa.string(), nullable=False),
]
REQUESTS = pa.schema([*_REQUEST, pa.field("characters", pa.list_(pa.string()), nullable=False)])
"""What the writer is asked for a document.

`text` goes into the pair: the whole document for retrieval, else what is shown. `passage` is what the writer is
shown. `question_type` is the row's kind: of retrieval the type of question ("" leaves it to the writer), of
classification the aspect, of sts the two levels. `difficulty`: of retrieval, likewise. `length` in words, of a
retrieval query. `characters`: the personas offered. `fault`: why nothing can be asked, "" if it can.
"""

ANSWERS = pa.schema(
    [
        *_REQUEST,
        pa.field("character", pa.string(), nullable=False),
        pa.field("configuration", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("input_tokens", pa.int64(), nullable=False),
        pa.field("output_tokens", pa.int64(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)
"""The request, the writer's two answers as they came (`configuration` of retrieval only), and what went wrong:
`fault` a reason, `error` its words."""


class AnswerLog:
    """Writes finished rows into `state`, those of a second as one file. For one event loop."""

    def __init__(self, state: Folder) -> None:
        self._state = state
        self._rows: list[dict[str, Any]] = []
        self._writing: asyncio.Task[None] | None = None
        self._files: list[str] = []

    async def keep(self, row: dict[str, Any]) -> None:
        """Returns once the row, of ANSWERS, would survive the process."""
        self._rows.append(row)
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_soon())
        await asyncio.shield(self._writing)

    async def _write_soon(self) -> None:
        await asyncio.sleep(WRITE_EVERY)
        rows, self._rows, self._writing = self._rows, [], None
        table = pa.Table.from_pylist(rows, schema=ANSWERS)
        self._files.append(await asyncio.to_thread(_write, self._state, table))
        if len(self._files) == FILES_UNITED:
            files, self._files = self._files, []
            await asyncio.to_thread(_unite, self._state, files)


@dataclass(frozen=True)
class Finished:
    """The rows that need not be asked for again.

    Attributes:
        digests_N: int64, ascending, of their ids. failed: how many of them the writer failed for.
    """

    digests_N: np.ndarray
    failed: int

    def __contains__(self, row_id: str) -> bool:
        return bool(find(self.digests_N, digests([row_id]))[1][0])


def read_finished(state: Folder) -> Finished:
    """The ids of all finished rows."""
    for tries_left in reversed(range(10)):
        try:
            return _read_finished(answer_paths(state), state)
        except FileNotFoundError:  # another writer has just united its files
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _read_finished(paths: list[str], state: Folder) -> Finished:
    if not paths:
        return Finished(np.zeros(0, dtype=np.int64), 0)
    found, failed = [], set()
    table = ds.dataset(paths, filesystem=arrow_filesystem(state), format="parquet", schema=ANSWERS)
    for batch in table.to_batches(columns=[ID, "fault", "error"]):
        ids = batch.column(ID).to_pylist()
        found.append(digests(ids))
        failed |= {
            row_id for row_id, error in zip(ids, batch.column("error").to_pylist(), strict=True) if error
        }
    return Finished(np.unique(np.concatenate(found)), len(failed))


def ask_failures_again(state: Folder) -> None:
    """Have the next attempt forget the rows that the writer failed for."""
    state.write(FORGET, b"")


def forget_failures(state: Folder) -> None:
    """Drop the rows that the writer failed for, if `ask_failures_again` said so, and keep the others."""
    if not state.exists(FORGET):
        return
    for name in state.names(f"{ROWS}/*.parquet"):
        rows = state.read_table(name)
        good = rows.filter(pc.equal(rows.column("error"), ""))
        if good.num_rows == rows.num_rows:
            continue
        if good.num_rows:
            _write(state, good)  # as in _unite
        state.delete(name)
    state.delete(FORGET)


def answer_paths(state: Folder) -> list[str]:
    """The files that hold rows, as paths in the folder's file system."""
    return [state.path(name) for name in state.names(f"{ROWS}/*.parquet")]


def arrow_filesystem(folder: Folder) -> FileSystem:
    return LocalFileSystem() if folder.is_local else PyFileSystem(FSSpecHandler(folder.filesystem))


def answer(request: dict[str, Any], **written: Any) -> dict[str, Any]:
    """A row of ANSWERS: a request with what was written for it."""
    blank = {
        "character": "",
        "configuration": "",
        "answer": "",
        "input_tokens": 0,
        "output_tokens": 0,
        "error": "",
    }
    row = {**blank, **request, **written}
    return {name: row[name] for name in ANSWERS.names}


def _unite(state: Folder, files: list[str]) -> None:
    """A crash in between leaves rows that stand twice; readers take one."""
    _write(state, pa.concat_tables([state.read_table(name) for name in files]))
    for name in files:
        state.delete(name)


def _write(state: Folder, rows: pa.Table) -> str:
    """Returns the name of the file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    # Whole or not at all: a process may die here.
    name = f"{ROWS}/{uuid.uuid4().hex}.parquet"
    state.write(name, sink.getvalue().to_pybytes())
    return name
