"""Pair tables on disk, piece by piece: what sources and filters read and write, however long it is."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.schema import PAIRS, conform
from components.storage import Folder

PAIRS_FILE = "pairs.parquet"
REJECTED_FILE = "rejected/rejected.parquet"
REJECTED = pa.schema(
    [*(field.with_nullable(True) for field in PAIRS), pa.field("reason", pa.string(), nullable=False)]
)
"""A row that was turned away may lack anything but the reason."""


def count_pairs(folder: Folder) -> int:
    """Rows of a pair table, from the files' footers."""
    return sum(_rows(folder, name) for name in _files(folder))


def read_pairs(folder: Folder, rows: int) -> Iterator[pa.Table]:
    """A pair table, a file or a folder of files, in pieces of `rows` rows (the last may be shorter).

    Raises:
        ValueError: a file is no pair table.
    """
    held: list[pa.Table] = []
    count = 0
    for name in _files(folder):
        with folder.open(name) as source:
            for batch in pq.ParquetFile(source).iter_batches(rows):
                held.append(conform(pa.Table.from_batches([batch]), PAIRS))
                count += batch.num_rows
                if count >= rows:
                    whole = pa.concat_tables(held)
                    yield whole.slice(0, rows)
                    held, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held)


class PairWriter:
    """Writes `pairs.parquet`, and the rows that are turned away, with their reason, once there is one.

    Attributes:
        kept: rows written.
        rejected: rows turned away, by reason.
    """

    def __init__(self, output: Folder, rejected_file: str = REJECTED_FILE) -> None:
        self._output, self._rejected_file = output, rejected_file
        self._stack = ExitStack()
        self._turned_away: pq.ParquetWriter | None = None
        self.kept = 0
        self.rejected: Counter[str] = Counter()

    def __enter__(self) -> "PairWriter":
        self._pairs = self._open(PAIRS_FILE, PAIRS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def keep(self, table: pa.Table) -> None:
        """Rows in the schema PAIRS."""
        if table.num_rows:
            self._pairs.write_table(table)
            self.kept += table.num_rows

    def reject(self, table: pa.Table, reasons: Sequence[str]) -> None:
        """Rows with columns of PAIRS, and why each is turned away."""
        if not table.num_rows:
            return
        if self._turned_away is None:
            self._turned_away = self._open(self._rejected_file, REJECTED)
        with_reason = table.append_column("reason", pa.array(reasons, pa.string()))
        self._turned_away.write_table(conform(with_reason, REJECTED))
        self.rejected.update(reasons)

    def numbers(self) -> dict[str, float]:
        """rows_in, rows_out and rejected_<reason>."""
        numbers = {"rows_in": self.kept + self.rejected.total(), "rows_out": self.kept}
        numbers |= {f"rejected_{reason}": count for reason, count in sorted(self.rejected.items())}
        return {name: float(value) for name, value in numbers.items()}

    def _open(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        sink = self._stack.enter_context(self._output.open(name, "wb"))
        return self._stack.enter_context(pq.ParquetWriter(sink, schema))


def _files(folder: Folder) -> list[str]:
    """`pairs.parquet`, or the files in it where it is a folder."""
    return folder.names(f"{PAIRS_FILE}/*.parquet") or [PAIRS_FILE]


def _rows(folder: Folder, name: str) -> int:
    with folder.open(name) as source:
        return pq.ParquetFile(source).metadata.num_rows
