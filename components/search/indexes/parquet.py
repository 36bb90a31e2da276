"""Parquet: OUTPUT/vectors/000000.parquet, ... with columns id and vector."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.monitor import Monitor
from components.search.coded import Coded, Form, as_column
from components.search.indexes.place import Place
from components.storage import Folder

_PART_BYTES = 64 * 2**20


def check(form: Form, place: Place, output: Folder) -> None:
    place.refuse("parquet")


def write(coded: Coded, facts: dict[str, Any], place: Place, output: Folder, monitor: Monitor) -> None:
    """Some 64 MB of float32 a file; the metadata of each says what the vectors are."""
    write_parts(coded, facts, output / "vectors", with_vectors=True)


def write_parts(coded: Coded, facts: dict[str, Any], folder: Folder, with_vectors: bool) -> None:
    """The ids, and the vectors unless an index has them, in the order of the table."""
    metadata = {b"embedloom": json.dumps(facts).encode()}
    shards_a_part = max(1, _PART_BYTES // (coded.texts.rows_per_shard * coded.dimensions * 4))
    for part, start in enumerate(range(0, len(coded.texts), shards_a_part)):
        tables = []
        for number in range(start, min(start + shards_a_part, len(coded.texts))):
            rows, code_NB = coded.shard(number)
            columns = {"id": rows["id"]}
            if with_vectors:
                columns["vector"] = as_column(code_NB)
            tables.append(pa.table(columns))
        sink = io.BytesIO()
        pq.write_table(pa.concat_tables(tables).replace_schema_metadata(metadata), sink)
        folder.write(f"{part:06d}.parquet", sink.getvalue())
