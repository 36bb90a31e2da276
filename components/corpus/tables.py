"""Tables of any size: `NAME.parquet` is one Parquet file, or a folder of shards that are read in the order of
their names."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from components.storage import Folder

BATCH_ROWS = 1024
BATCH_BYTES = 16 * 2**20
"""What a batch holds at most, unless one row alone is larger."""
READ_AHEAD = 2**20
"""Bytes of a column that are read at a time, so that a large row group is not held whole."""
PIECE_ROWS = (1024, 65536)
"""Least and most rows of a piece that one worker takes; a table has some 256 of them if it is large enough."""


@dataclass(frozen=True)
class Piece:
    """Some of a table's rows, whole row groups of one of its files.

    Attributes:
        number: place among the pieces of the table, from 0.
        first_row: place of its first row in the table.
        rows: how many there are.
    """

    folder: Folder
    file: str
    row_groups: tuple[int, ...]
    number: int
    first_row: int
    rows: int


def table_files(folder: Folder, name: str) -> list[str]:
    """The files of a table, relative to the folder."""
    return folder.names(f"{name}/*.parquet") or [name]


def has_table(folder: Folder, name: str) -> bool:
    return folder.exists(table_files(folder, name)[0])


def count_rows(folder: Folder, name: str) -> int:
    return sum(_metadata(folder, file).num_rows for file in table_files(folder, name))


def read_batches(
    folder: Folder, name: str, columns: Sequence[str] | None = None, rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """The rows of a table in their order, at most `rows` at a time, and fewer where rows are long.

    Args:
        columns: those to read, as far as they are there; None: all.
    """
    for file in table_files(folder, name):
        yield from _read_file(folder, file, None, columns, rows)


def pieces_of(folder: Folder, name: str) -> list[Piece]:
    """A table cut for workers. Depends on the table alone, not on who works on it."""
    files = [(file, _metadata(folder, file)) for file in table_files(folder, name)]
    least, most = PIECE_ROWS
    wanted = min(most, max(least, sum(metadata.num_rows for _, metadata in files) // 256))
    pieces: list[Piece] = []
    first = 0

    def add(file: str, groups: list[int], rows: int) -> None:
        nonlocal first
        pieces.append(Piece(folder, file, tuple(groups), len(pieces), first, rows))
        first += rows

    for file, metadata in files:
        groups: list[int] = []
        rows = 0
        for group in range(metadata.num_row_groups):
            in_group = metadata.row_group(group).num_rows
            if not in_group:
                continue
            groups.append(group)
            rows += in_group
            if rows >= wanted:
                add(file, groups, rows)
                groups, rows = [], 0
        if groups:
            add(file, groups, rows)
    return pieces


def read_piece(piece: Piece, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a piece, batch by batch as `read_batches`."""
    return _read_file(piece.folder, piece.file, piece.row_groups, columns, BATCH_ROWS)


class TableWriter:
    """Writes one Parquet file, batch by batch, in row groups of bounded size.

    The file appears with the first batch, be it empty; a writer that was given none leaves none.
    """

    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self.rows = 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._stack.close()

    def close(self) -> None:
        """Write what is left. As leaving a `with` block; a second time it does nothing."""
        self.__exit__(None, None, None)

    def write(self, rows: pa.Table) -> None:
        if self._writer is None:
            sink = self._stack.enter_context(self._folder.open(self._name, "wb"))
            self._writer = self._stack.enter_context(pq.ParquetWriter(sink, self._schema))
        if rows.num_rows:
            self._waiting.append(rows)
        self.rows += rows.num_rows
        if (
            sum(table.num_rows for table in self._waiting) >= BATCH_ROWS
            or sum(table.nbytes for table in self._waiting) >= BATCH_BYTES
        ):
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None and self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []


def _metadata(folder: Folder, file: str) -> pq.FileMetaData:
    with folder.open(file) as source:
        return pq.ParquetFile(source).metadata


def _read_file(
    folder: Folder,
    file: str,
    row_groups: Sequence[int] | None,
    columns: Sequence[str] | None,
    rows: int,
) -> Iterator[pa.Table]:
    with folder.open(file) as source:
        parquet = pq.ParquetFile(source, buffer_size=READ_AHEAD)
        there = parquet.schema_arrow.names
        wanted = there if columns is None else [column for column in columns if column in there]
        groups = range(parquet.metadata.num_row_groups) if row_groups is None else row_groups
        for group in groups:
            found = parquet.metadata.row_group(group)
            a_row = max(1, found.total_byte_size // max(1, found.num_rows))
            size = max(1, min(rows, BATCH_BYTES // a_row))
            for batch in parquet.iter_batches(size, row_groups=[group], columns=wanted):
                yield pa.Table.from_batches([batch])
