"""LanceDB: a table with columns id, text and vector, written as one version.

A table that is there is replaced if it is one of ours, and its readers see the old rows until all new ones are there.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from components.monitor import Monitor
from components.search.coded import Coded, Form, as_column
from components.search.indexes.place import Place
from components.storage import Folder

_OURS = b"embedloom"


def check(form: Form, place: Place, output: Folder) -> None:
    if form.precision == "int8":
        raise ValueError("LanceDB keeps float32 vectors, or binary ones; it has no index over int8")
    database = _connect(place, output)
    try:
        metadata = database.open_table(place.table).schema.metadata
    except ValueError:  # there is none
        return
    if _OURS not in (metadata or {}):
        raise ValueError(
            f"{database.uri} has a table {place.table!r} that embedloom did not write: choose another --table"
        )


def write(coded: Coded, facts: dict[str, Any], place: Place, output: Folder, monitor: Monitor) -> None:
    _, code_NB = coded.shard(0)
    schema = pa.schema(
        [("id", pa.string()), ("text", pa.string()), ("vector", as_column(code_NB).type)],
        metadata={_OURS: json.dumps(facts).encode()},
    )

    def batches() -> Iterator[pa.RecordBatch]:
        done = 0
        for rows, code_NB in coded.shards():
            columns = [rows["id"].combine_chunks(), rows["text"].combine_chunks(), as_column(code_NB)]
            yield pa.record_batch(columns, schema=schema)
            done += rows.num_rows
            monitor.progress(done, coded.rows, "vectors")

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    _connect(place, output).create_table(place.table, reader, mode="overwrite")


def _connect(place: Place, output: Folder) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of a table that is new
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise ValueError("--to lancedb needs its client: pip install embedloom[lancedb]") from error
    return lancedb.connect(place.at or (output / "lancedb").uri)
