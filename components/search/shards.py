"""Rows on disk in files of one length, so that a row's file and place follow from its number.

Arrays are .npy files, tables Arrow files. Local files are mapped: of them only what is touched is read.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from components.storage import Folder

_SIZE = "size.json"


@dataclass(frozen=True)
class _Files:
    """`rows` rows in files of `rows_per_shard`, the last one shorter."""

    folder: Folder
    rows: int
    rows_per_shard: int
    suffix: ClassVar[str]

    def __len__(self) -> int:
        """Number of files."""
        return -(-self.rows // self.rows_per_shard)

    def span(self, shard: int) -> range:
        """The rows of a file."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.rows))

    def missing(self) -> list[int]:
        """Files that are not there yet. A file appears whole or not at all."""
        there = set(self.folder.names(f"*{self.suffix}"))
        return [shard for shard in range(len(self)) if self.name(shard) not in there]

    def name(self, shard: int) -> str:
        return f"{shard:06d}{self.suffix}"

    def _check_length(self, shard: int, length: int) -> None:
        if length != len(self.span(shard)):
            raise ValueError(
                f"file {shard} of {self.folder.uri} holds {len(self.span(shard))} rows, not {length}"
            )

    def _by_file(self, rows_J: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each file that holds one of the rows, where among them its rows stand, and their places in it."""
        order = np.argsort(rows_J // self.rows_per_shard, kind="stable")
        shard_J = rows_J[order] // self.rows_per_shard
        shards, starts = np.unique(shard_J, return_index=True)
        for shard, mine in zip(shards.tolist(), np.split(order, starts[1:]), strict=True):
            yield shard, mine, rows_J[mine] - shard * self.rows_per_shard


class Shards(_Files):
    """An array of rows."""

    suffix: ClassVar[str] = ".npy"

    def write(self, shard: int, rows: np.ndarray) -> None:
        """Raises ValueError where it is not as many rows as the file has."""
        self._check_length(shard, len(rows))
        data = io.BytesIO()
        np.save(data, rows, allow_pickle=False)
        self.folder.write(self.name(shard), data.getvalue())

    def read(self, shard: int) -> np.ndarray:
        """The rows of a file; not to be written to."""
        if self.folder.is_local:
            return np.load(self.folder.path(self.name(shard)), mmap_mode="r", allow_pickle=False)
        return np.load(io.BytesIO(self.folder.read(self.name(shard))), allow_pickle=False)

    def take(self, rows_J: np.ndarray) -> np.ndarray:
        """Rows by number, in any order, [J, ...]. Each file that holds one is opened once."""
        if not len(rows_J):
            return self.read(0)[:0]
        taken: np.ndarray | None = None
        for shard, mine, places in self._by_file(rows_J):
            found = self.read(shard)
            if taken is None:
                taken = np.empty((len(rows_J), *found.shape[1:]), dtype=found.dtype)
            taken[mine] = found[places]
        assert taken is not None
        return taken


class TableShards(_Files):
    """A table of rows."""

    suffix: ClassVar[str] = ".arrow"

    def write(self, shard: int, table: pa.Table) -> None:
        """Raises ValueError where it is not as many rows as the file has."""
        self._check_length(shard, table.num_rows)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self.folder.write(self.name(shard), sink.getvalue().to_pybytes())

    def read(self, shard: int) -> pa.Table:
        """The rows of a file."""
        if self.folder.is_local:
            return pa.ipc.open_file(pa.memory_map(self.folder.path(self.name(shard)))).read_all()
        return pa.ipc.open_file(self.folder.read(self.name(shard))).read_all()

    def take(self, rows_J: np.ndarray, columns: list[str]) -> pa.Table:
        """Rows by number, in any order. Each file that holds one is opened once."""
        if not len(rows_J):
            return self.read(0).select(columns).slice(0, 0)
        parts, order = [], []
        for shard, mine, places in self._by_file(rows_J):
            parts.append(self.read(shard).select(columns).take(pa.array(places)))
            order.append(mine)
        back = np.empty(len(rows_J), dtype=np.int64)
        back[np.concatenate(order)] = np.arange(len(rows_J))
        return pa.concat_tables(parts).take(pa.array(back))


def write_tables(pieces: Iterable[pa.Table], folder: Folder, rows_per_shard: int) -> TableShards:
    """Write tables of one schema, which are drawn one after the other, as rows in files of one length.

    What an earlier attempt finished is taken as it is, in files of its length, and nothing is drawn.
    """
    if (written := written_tables(folder)) is not None:
        return written
    held: list[pa.Table] = []
    count = rows = shard = 0

    def write(table: pa.Table) -> None:
        nonlocal rows, shard
        rows += table.num_rows
        TableShards(folder, rows, rows_per_shard).write(shard, table.combine_chunks())
        shard += 1

    for piece in pieces:
        held.append(piece)
        count += piece.num_rows
        while count >= rows_per_shard:
            whole = pa.concat_tables(held)
            write(whole.slice(0, rows_per_shard))
            held, count = [whole.slice(rows_per_shard)], count - rows_per_shard
    if count:
        write(pa.concat_tables(held))
    folder.write(_SIZE, json.dumps({"rows": rows, "rows_per_shard": rows_per_shard}).encode())
    return TableShards(folder, rows, rows_per_shard)


def written_tables(folder: Folder) -> TableShards | None:
    """What `write_tables` finished in a folder."""
    if not folder.exists(_SIZE):
        return None
    return TableShards(folder, **json.loads(folder.read(_SIZE)))
