"""Pair tables on disk, piece by piece: what sources and filters read and write, however long it is."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType

import pyarrow as pa

from components.corpus.schema import PAIRS, PAIRS_FILE, REJECTED_FILE, conform
from components.corpus.tables import BATCH_ROWS, TableWriter, count_rows, read_batches
from components.storage import Folder

REJECTED = pa.schema(
    [*(field.with_nullable(True) for field in PAIRS), pa.field("reason", pa.string(), nullable=False)]
)
"""A row that was turned away may lack anything but the reason."""
_GATHERED_BYTES = 2**28


def count_pairs(folder: Folder) -> int:
    """Rows of a pair table, a file or a folder of files."""
    return count_rows(folder, PAIRS_FILE)


def read_pairs(folder: Folder, rows: int) -> Iterator[pa.Table]:
    """A pair table in tables of about `rows` rows, fewer where texts are long. They depend on the table alone.

    Raises:
        ValueError: it is no pair table.
    """
    return gather_pairs(read_batches(folder, PAIRS_FILE, rows=min(rows, BATCH_ROWS)), rows)


def gather_pairs(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Batches of a pair table as tables of about `rows` rows. Raises ValueError as `read_pairs`."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(conform(batch, PAIRS))
        if (
            sum(table.num_rows for table in held) >= rows
            or sum(table.nbytes for table in held) >= _GATHERED_BYTES
        ):
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


class PairWriter:
    """Writes `pairs.parquet`, and the rows that are turned away, with their reason, if there are any.

    Attributes:
        kept: rows written.
        rejected: rows turned away, by reason.
    """

    def __init__(self, output: Folder) -> None:
        self._stack = ExitStack()
        self._pairs = TableWriter(output, PAIRS_FILE, PAIRS)
        self._turned_away = TableWriter(output, REJECTED_FILE, REJECTED)
        self.rejected: Counter[str] = Counter()

    def __enter__(self) -> "PairWriter":
        self._stack.enter_context(self._pairs)
        self._stack.enter_context(self._turned_away)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def kept(self) -> int:
        return self._pairs.rows

    def keep(self, table: pa.Table) -> None:
        """Rows in the schema PAIRS."""
        self._pairs.write(table)

    def reject(self, table: pa.Table, reasons: Sequence[str]) -> None:
        """Rows with columns of PAIRS, and why each is turned away."""
        if table.num_rows:
            with_reason = table.append_column("reason", pa.array(reasons, pa.string()))
            self._turned_away.write(conform(with_reason, REJECTED))
            self.rejected.update(reasons)

    def numbers(self) -> dict[str, float]:
        """rows_in, rows_out and rejected_<reason>."""
        numbers = {"rows_in": self.kept + self.rejected.total(), "rows_out": self.kept}
        numbers |= {f"rejected_{reason}": count for reason, count in sorted(self.rejected.items())}
        return {name: float(value) for name, value in numbers.items()}
