"""The vectors of a whole table, written for whoever searches them: Parquet, or a FAISS index.

    OUTPUT/embedding.json           written last: model, space_id, dimensions, precision, ...
           vectors/000000.parquet   id, vector; the same facts in the metadata of each file
           index.faiss              in place of the vectors; its row i is row i of ids/*.parquet
           rejected/rows.parquet    rows without a text or an id
           work/                    what goes on after an interruption; gone at the end

Texts are encoded file by file by the workers of `encoding.py`; of all rows nothing is held but FAISS' own index.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.formats import File, find_tables
from components.corpus.tables import TableWriter
from components.model.agreement import ENCODING_FILE
from components.model.embedder import Precision as ModelPrecision
from components.model.spec import Side
from components.monitor import Monitor
from components.search import texts
from components.search.encoding import encode_shards
from components.search.quantise import Precision, Ranges, cut, ranges_of, to_bits, to_int8
from components.search.shards import Shards, TableShards, write_tables
from components.search.workers import Workers
from components.storage import Folder

Target = Literal["parquet", "faiss"]
EMBEDDING_FILE = "embedding.json"
INDEX_FILE = "index.faiss"
_WORK = "work"
_REJECTED = pa.schema([("id", pa.string()), ("place", pa.string()), ("reason", pa.string())])
_TEXTS = pa.schema([("id", pa.string()), ("text", pa.string()), ("instruction", pa.string())])
_PART_BYTES = 64 * 2**20
_ROWS_PER_SHARD = 1024


@dataclass(frozen=True)
class Form:
    """How vectors are kept.

    Attributes:
        dimensions: the first so many; None: all of the model's.
        precision: a number a dimension, a byte, or a bit.
    """

    dimensions: int | None = None
    precision: Precision = "float32"

    def checked(self, widest: int) -> int:
        """The dimensions of a model that gives `widest`. Raises ValueError where there are not so many."""
        dimensions = self.dimensions or widest
        if dimensions > widest:
            raise ValueError(f"--dimensions is {dimensions}, the model gives {widest}")
        if self.precision == "binary" and dimensions % 8:
            raise ValueError(f"binary keeps 8 dimensions in a byte: {dimensions} is no multiple of 8")
        return dimensions


def embed_table(
    *,
    source: str,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    name: str,
    text: Sequence[str] = (),
    id_column: str | None = None,
    side: Side = "document",
    instruction: str | None = None,
    form: Form | None = None,
    target: Target = "parquet",
    compute: ModelPrecision | Literal["int8"] = "float32",
    tokens_per_batch: int = 8192,
    workers: Workers | None = None,
    rows_per_shard: int = _ROWS_PER_SHARD,
) -> dict[str, Any]:
    """Embed every row of a table; what an earlier call finished is not done again.

    Args:
        source: path or URI of a table (.jsonl, .csv, .tsv, each also with .gz, or .parquet), of a folder of those, or
            of a BEIR folder, whose corpus is read.
        model: model directory.
        name: what the model is called in the metadata.
        text, id_column: as of `texts.find_columns`.
        instruction: of queries, in place of the model's own.
        compute: precision in which the model computes.
        tokens_per_batch, workers: execution only.
        rows_per_shard: rows that an interruption costs, for each worker.

    Returns: the facts of `embedding.json`.

    Raises:
        ValueError: a table, columns, a form or a model that cannot be used, or a folder that holds other vectors.
    """
    form = form or Form()
    files, columns, dimensions = check_table(source, model, text, id_column, form, target)
    encoding = json.loads(model.read(ENCODING_FILE))
    # What vectors are made of, and how they are kept: the first must be the same to go on with a folder.
    identity = {
        "source": texts.digest(files),
        "text": list(columns.text),
        "id": columns.id,
        "weights_digest": encoding["weights_digest"],
        "space_id": encoding["space_id"],
        "side": side,
        "instruction": instruction,
        "compute": compute,
        "rows_per_shard": rows_per_shard,
    }
    kept = {"dimensions": dimensions, "precision": form.precision, "target": target}
    if output.exists(EMBEDDING_FILE):
        there = json.loads(output.read(EMBEDDING_FILE))
        _check_same(output, {**identity, **kept}, there)
        return there
    work = output / _WORK
    if work.exists("identity.json"):
        _check_same(output, identity, json.loads(work.read("identity.json")))
    else:
        work.write("identity.json", json.dumps(identity).encode())

    written = write_tables(_texts(files, columns, side, instruction, output), work / "texts", rows_per_shard)
    if not written.rows:
        raise ValueError(f"no row of {source} holds a text in {', '.join(columns.text)}")
    vectors = encode_shards(
        written, side, model, work / "vectors", monitor,
        precision=compute, tokens_per_batch=tokens_per_batch, workers=workers,
    )  # fmt: skip
    facts = {"model": name, **identity, **kept, "rows": written.rows}
    ranges = None
    if form.precision == "int8":
        ranges = ranges_of(cut(vectors.read(shard), dimensions) for shard in range(len(vectors)))
        facts["ranges"] = {"low": ranges.low_D.tolist(), "high": ranges.high_D.tolist()}
    if target == "faiss":
        cuts = (cut(vectors.read(shard), dimensions) for shard in range(len(vectors)))
        output.write(INDEX_FILE, build_index(cuts, form.precision, ranges).tobytes())
    _write_parts(written, vectors, dimensions, form.precision, ranges, facts, output)
    output.write(EMBEDDING_FILE, json.dumps(facts, indent=1).encode())
    work.delete()
    return facts


def check_table(
    source: str, model: Folder, text: Sequence[str], id_column: str | None, form: Form, target: Target
) -> tuple[list[File], texts.Columns, int]:
    """Files, columns and dimensions, before anything is computed. Arguments and errors as of `embed_table`."""
    if target == "faiss":
        _faiss()
    dimensions = form.checked(json.loads(model.read(ENCODING_FILE))["spec"]["dimensions"])
    files = [file for file in find_tables(source) if file.holds == "documents"]
    return files, texts.find_columns(files, text, id_column), dimensions


def _texts(
    files: Sequence[File], columns: texts.Columns, side: Side, instruction: str | None, output: Folder
) -> Iterator[pa.Table]:
    """What is to be encoded, some rows at a time; rows without a text or an id are turned away."""
    kept: list[dict[str, str | None]] = []
    with TableWriter(output, "rejected/rows.parquet", _REJECTED) as rejected:
        for number, (place, row) in enumerate(texts.read_rows(files)):
            row_id = row.get(columns.id) if columns.id else number
            text = texts.text_of(place, row, columns)
            if text and row_id not in (None, ""):
                kept.append({"id": str(row_id), "text": text, "instruction": instruction})
            else:
                reason = "no_id" if text else "no_text"
                shown = None if row_id in (None, "") else str(row_id)
                gone = {"id": shown, "place": place, "reason": reason}
                rejected.write(pa.Table.from_pylist([gone], schema=_REJECTED))
            if len(kept) == _ROWS_PER_SHARD:
                yield pa.Table.from_pylist(kept, schema=_TEXTS)
                kept = []
        if kept:
            yield pa.Table.from_pylist(kept, schema=_TEXTS)


def _check_same(output: Folder, wanted: dict[str, Any], there: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if there.get(name) != value:
            raise ValueError(
                f"{output.uri} holds other vectors (their {name} is {_short(there.get(name))}, not {_short(value)}): "
                "delete it, or name another folder"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:30]}..."


def _encode(vector_ND: np.ndarray, precision: Precision, ranges: Ranges | None) -> np.ndarray:
    if precision == "binary":
        return to_bits(vector_ND)
    return vector_ND if ranges is None else to_int8(vector_ND, ranges)


def _write_parts(
    written: TableShards,
    vectors: Shards,
    dimensions: int,
    precision: Precision,
    ranges: Ranges | None,
    facts: dict[str, Any],
    output: Folder,
) -> None:
    """The Parquet files: ids and, unless an index has them, vectors."""
    with_vectors = facts["target"] == "parquet"
    folder = output / ("vectors" if with_vectors else "ids")
    shards_a_part = max(1, _PART_BYTES // (written.rows_per_shard * dimensions * 4))
    metadata = {b"embedloom": json.dumps(facts).encode()}
    for part, start in enumerate(range(0, len(written), shards_a_part)):
        name = f"{part:06d}.parquet"
        tables = []
        for shard in range(start, min(start + shards_a_part, len(written))):
            columns = {"id": written.read(shard)["id"]}
            if with_vectors:
                code_NB = _encode(cut(vectors.read(shard), dimensions), precision, ranges)
                columns["vector"] = pa.FixedSizeListArray.from_arrays(
                    pa.array(np.ascontiguousarray(code_NB).reshape(-1)), code_NB.shape[1]
                )
            tables.append(pa.table(columns))
        sink = io.BytesIO()
        pq.write_table(pa.concat_tables(tables).replace_schema_metadata(metadata), sink)
        folder.write(name, sink.getvalue())


def build_index(
    vectors: Iterable[np.ndarray], precision: Precision, ranges: Ranges | None = None
) -> np.ndarray:
    """An exact index of FAISS, in bytes: inner product over float32 or int8, Hamming distance over bits.

    Args:
        vectors: float32 [N, D] at a time.
        ranges: of int8.

    Raises:
        ValueError: FAISS is not installed.
    """
    faiss = _faiss()
    index = None
    for vector_ND in vectors:
        if index is None:
            index = _empty_index(faiss, vector_ND.shape[1], precision, ranges)
        index.add(to_bits(vector_ND) if precision == "binary" else np.ascontiguousarray(vector_ND))
    return faiss.serialize_index_binary(index) if precision == "binary" else faiss.serialize_index(index)


def _empty_index(faiss: Any, dimensions: int, precision: Precision, ranges: Ranges | None) -> Any:
    if precision == "binary":
        return faiss.IndexBinaryFlat(dimensions)
    if ranges is None:
        return faiss.IndexFlatIP(dimensions)
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexScalarQuantizer(dimensions, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(np.stack([ranges.low_D, ranges.high_D]))  # it takes the least and the greatest
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ValueError("--to faiss needs FAISS: pip install faiss-cpu") from error
    return faiss
