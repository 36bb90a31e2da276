"""Tables of any size put in order: sorted in parts, which lie in files, and merged block by block."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

PART_ROWS = 2**18
PART_BYTES = 2**28
"""What is sorted in memory at once, and about what all blocks of a merge hold together."""


def sort_tables(pieces: Iterable[pa.Table], key: str, scratch: Path) -> Iterator[pa.Table]:
    """The rows of all pieces in the order of a column of strings.

    Args:
        scratch: an empty directory, for what does not fit in memory.
    """
    parts: list[Path] = []
    held: list[pa.Table] = []
    for piece in pieces:
        held.append(piece)
        if (
            sum(table.num_rows for table in held) >= PART_ROWS
            or sum(table.nbytes for table in held) >= PART_BYTES
        ):
            parts.append(scratch / f"{len(parts):06d}.arrow")
            _write(pa.concat_tables(held).sort_by(key), parts[-1])
            held = []
    last = pa.concat_tables(held).sort_by(key) if held else None
    if not parts:
        if last is not None:
            yield last
        return
    if last is not None:
        parts.append(scratch / f"{len(parts):06d}.arrow")
        _write(last, parts[-1], blocks=len(parts))
    yield from _merge(parts, key)


def _write(table: pa.Table, path: Path, blocks: int = 64) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(256, table.num_rows // blocks))


def _merge(parts: list[Path], key: str) -> Iterator[pa.Table]:
    """Of every part one block is held. What is not above the least of their last keys is next."""
    sources = [_blocks(path) for path in parts]
    heads = [next(source, None) for source in sources]
    while standing := [head for head in heads if head is not None]:
        least = min(head[key][-1].as_py() for head in standing)
        ready = []
        for number, head in enumerate(heads):
            if head is None:
                continue
            below = pc.sum(pc.less_equal(head[key], least)).as_py()
            ready.append(head.slice(0, below))
            heads[number] = head.slice(below) if below < head.num_rows else next(sources[number], None)
        yield pa.concat_tables(ready).sort_by(key)


def _blocks(path: Path) -> Iterator[pa.Table]:
    with pa.ipc.open_file(path) as reader:
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])
