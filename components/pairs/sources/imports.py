"""Pairs that come from outside: a table of any kind to a pair table."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.corpus.schema import content_id
from components.monitor import Monitor
from components.pairs.sources.kinds import Kind, Row, fill_options, find_kind
from components.pairs.sources.ordering import sort_tables
from components.pairs.sources.outside import Rows, Source, read_rows
from components.pairs.sources.write import Label, write_pairs
from components.pairs.table import PairWriter
from components.storage import Folder

_KEY = "key"
_ROWS_AT_ONCE = 4096


def import_pairs(
    *,
    source: str,
    kind: str,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    task: str | None = None,
    instruction: str | None = None,
    language: str = "en",
    origin: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    subset: str | None = None,
    split: str = "train",
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Write pairs.parquet from a table: `components/pairs/sources/kinds.py` says of each kind what is a pair.

    Rows are in the order of a seeded hash of their id, so that a limit takes a sample which does not depend on
    the order of the input.

    Args:
        source: path or URI of `*.jsonl`, `*.jsonl.gz`, `*.parquet`, of a folder of those, of a BEIR folder, or
            `hub://NAME` (a data set of the Hugging Face hub).
        kind: of `KINDS`.
        columns: for some roles of the kind the column to read; the others are found by their usual names.
        options: of the kind.
        task: name under which a trainer batches these pairs together; None: the kind's.
        instruction: for the query side; None: none.
        language: of rows that name none.
        origin: of the pairs; None: the kind.
        limit: at most so many pairs; None: all.
        seed: of the order, and of what a kind draws.
        subset: of a data set of the hub.
        split: of a data set of the hub, or which judgements of a BEIR folder.
        output: `pairs.parquet`, and `rejected/rejected.parquet` with reasons.

    Returns: rows_in, rows_out and rejected_<reason>.

    Raises:
        ValueError: a kind, option, column or source that there is not, a malformed row, or no pair is left.
    """
    found_kind = find_kind(kind)
    settings = fill_options(kind, found_kind, options or {})
    if kind == "class_label":
        settings["seed"] = seed
    rows = read_rows(Source(source, subset, split), kind, columns or {})
    label = Label(kind, task or found_kind.task, instruction, origin or kind, language)
    with (
        tempfile.TemporaryDirectory(prefix="rows-") as scratch,
        PairWriter(output) as writer,
    ):
        if found_kind.sorted_by:
            ordered: Iterable[Row] = _sorted(rows, found_kind, seed, Path(scratch))
        else:
            ordered = rows
        found = found_kind.rows(ordered, **settings)
        write_pairs(_watched(found, monitor), found_kind, label, limit, seed, writer)
    numbers = writer.numbers()
    if not writer.kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(writer.rejected.items()))
        raise ValueError(f"no pair of kind {kind} is left of {source}: {counts or 'it holds no row'}")
    monitor.metrics(numbers)
    return numbers


def _sorted(rows: Rows[Row], kind: Kind, seed: int, scratch: Path) -> Iterator[Row]:
    """Rows whose values of `sorted_by` are equal stand together, in an order of the seed."""
    roles = [*kind.roles, *kind.more_roles]
    schema = pa.schema([*((role, pa.string()) for role in roles), (_KEY, pa.string())])

    def pieces() -> Iterator[pa.Table]:
        for batch in _batches(rows):
            for row in batch:
                row[_KEY] = "".join(content_id(str(seed), row[role] or "") for role in kind.sorted_by)
            yield pa.Table.from_pylist(batch, schema=schema)

    for table in sort_tables(pieces(), _KEY, scratch):
        yield from table.to_pylist()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while batch := list(itertools.islice(left, _ROWS_AT_ONCE)):
        yield batch


def _watched(found: Iterable[Row], monitor: Monitor) -> Iterator[Row]:
    for number, row in enumerate(found, start=1):
        if number % _ROWS_AT_ONCE == 0:
            monitor.progress(number, None, "rows")
        yield row
