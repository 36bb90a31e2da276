"""Rows of a stream in another order, when they do not fit in memory: a distribution sort over files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa


def write_spool(file: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write the rows of `tables` end to end, to be read once from front to back."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)


def read_spool(file: Path) -> Iterator[pa.Table]:
    """The rows that `write_spool` wrote, piece by piece as they came."""
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def reordered(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    place: np.ndarray,
    starts: Sequence[int],
    directory: Path,
) -> Iterator[pa.Table]:
    """The rows of `tables` in the order of `place`, one part after the other.

    Every row goes to the file of its part, then one part at a time is sorted in memory. Holds one table, one
    part, and an open file a part.

    Args:
        place: int64 [rows], the place of each row in the new order; a permutation.
        starts: the first place of each part, ascending from 0.
        directory: takes the files, which are deleted again.
    """
    files = [directory / f"part-{number:05d}.arrows" for number in range(len(starts))]
    part_of = np.searchsorted(np.asarray(starts), place, side="right") - 1
    _distribute(tables, schema, part_of, files)
    by_part = np.argsort(part_of, kind="stable")
    bounds = np.searchsorted(part_of[by_part], np.arange(len(starts) + 1))
    for file, start, end in zip(files, bounds[:-1], bounds[1:], strict=True):
        part = pa.concat_tables(read_spool(file)).combine_chunks()
        file.unlink()
        yield part.take(pa.array(np.argsort(place[by_part[start:end]])))


def _distribute(
    tables: Iterable[pa.Table], schema: pa.Schema, part_of: np.ndarray, files: Sequence[Path]
) -> None:
    with ExitStack() as stack:
        writers = []
        for file in files:
            sink = stack.enter_context(pa.OSFile(str(file), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_stream(sink, schema)))
        row = 0
        for table in tables:
            parts = part_of[row : row + table.num_rows]
            row += table.num_rows
            order = np.argsort(parts, kind="stable")
            sorted_table, sorted_parts = table.take(pa.array(order)), parts[order]
            present, first = np.unique(sorted_parts, return_index=True)
            for part, start, end in zip(present, first, [*first[1:], len(parts)], strict=True):
                writers[part].write_table(sorted_table.slice(start, end - start))
