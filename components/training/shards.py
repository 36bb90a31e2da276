"""Writes the token tables of a plan: the rows of an index in their new order, shard by shard."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.spool import read_spool, reordered
from components.storage import Folder
from components.training.pair_index import PairIndex
from components.training.plan_folder import IDENTITIES, shard_name

SORTED_ROWS = 32768
"""Rows that are sorted in memory at a time, or more where there would be over MOST_PARTS parts."""
MOST_PARTS = 256
"""Files that are written at once."""


def write_shards(
    spool: Path,
    schema: pa.Schema,
    index: PairIndex,
    order: np.ndarray,
    starts: Sequence[int],
    scratch: Path,
    output: Folder,
) -> str:
    """Write the rows with their IDENTITIES, a file for each of `starts`.

    Args:
        spool: what `index_pairs` wrote.
        schema: of the rows there.
        order: int64 [rows], number in the index of the row that comes first, second, ...
        starts: number, in the new order, of the first row of each shard.
        scratch: directory for files on the way; as large as the tokens.

    Returns:
        a digest of all that was written.
    """
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ends = [*starts[1:], len(order)]
    parts = _parts(starts, len(order))
    written = hashlib.sha256()
    shard = 0
    whole = pa.schema([*schema, *IDENTITIES])
    rows = reordered(_with_identities(read_spool(spool), index, whole), whole, place, parts, scratch)
    for first, part in zip(parts, rows, strict=True):
        while shard < len(starts) and ends[shard] <= first + part.num_rows:
            table = part.slice(starts[shard] - first, ends[shard] - starts[shard])
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            data = sink.getvalue().to_pybytes()
            written.update(data)
            output.write(shard_name(shard), data)
            shard += 1
    return written.hexdigest()


def _parts(starts: Sequence[int], rows: int) -> list[int]:
    """The starts of groups of whole shards."""
    least = max(SORTED_ROWS, rows // MOST_PARTS)
    parts: list[int] = []
    for start in starts:
        if not parts or start - parts[-1] >= least:
            parts.append(start)
    return parts


def _with_identities(tables: Iterator[pa.Table], index: PairIndex, schema: pa.Schema) -> Iterator[pa.Table]:
    first = np.concatenate([[0], np.cumsum(index.negatives_R)])
    row = 0
    for table in tables:
        until = row + table.num_rows
        offsets = pa.array((first[row : until + 1] - first[row]).astype(np.int32))
        negatives = pa.array(index.negative_M[first[row] : first[until]])
        yield pa.table(
            [
                *table.columns,
                pa.array(index.query_R[row:until]),
                pa.array(index.positive_R[row:until]),
                pa.ListArray.from_arrays(offsets, negatives),
            ],
            schema=schema,
        )
        row = until
