"""The vectors of a whole table, written for whoever searches them (`indexes/`).

    OUTPUT/embedding.json           written last: model, space_id, dimensions, precision, ...
           vectors/000000.parquet   id, vector; the same facts in the metadata of each file
           index.faiss              in place of the vectors; its row i is row i of ids/*.parquet
           lancedb/, qdrant/        or such a database, where it is not somewhere else
           rejected/rows.parquet    rows without a text or an id
           work/                    what goes on after an interruption; gone at the end

Texts are encoded file by file by the workers of `encoding.py`; of all rows nothing is held but FAISS' own index.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from components.corpus.formats import File, find_tables
from components.corpus.tables import TableWriter
from components.model.agreement import ENCODING_FILE
from components.model.embedder import ComputePrecision
from components.model.spec import Side
from components.monitor import Monitor
from components.search import texts
from components.search.coded import Coded, Form
from components.search.encoding import encode_shards
from components.search.indexes.place import Place
from components.search.indexes.targets import INDEXES, Target
from components.search.quantise import cut, ranges_of
from components.search.shards import write_tables
from components.search.workers import Workers
from components.storage import Folder

EMBEDDING_FILE = "embedding.json"
_WORK = "work"
_REJECTED = pa.schema([("id", pa.string()), ("place", pa.string()), ("reason", pa.string())])
_TEXTS = pa.schema([("id", pa.string()), ("text", pa.string()), ("instruction", pa.string())])
_ROWS_PER_SHARD = 1024


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
    place: Place | None = None,
    compute: ComputePrecision = "float32",
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
        target, place: the kind of index, and where it is if it is a database.
        text, id_column: as of `texts.find_columns`.
        instruction: of queries, in place of the model's own.
        compute: precision in which the model computes.
        tokens_per_batch, workers: execution only.
        rows_per_shard: rows that an interruption costs, for each worker.

    Returns: the facts of `embedding.json`.

    Raises:
        ValueError: a table, columns, a form or a model that cannot be used, or a folder that holds other vectors.
    """
    form, place = form or Form(), place or Place()
    files, columns, dimensions = check_table(source, model, text, id_column, form, target, place, output)
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
    kept = {"dimensions": dimensions, "precision": form.precision, "target": target, **asdict(place)}
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
    facts = {"model": name, "from": source, **identity, **kept, "rows": written.rows}
    ranges = None
    if form.precision == "int8":
        ranges = ranges_of(cut(vectors.read(shard), dimensions) for shard in range(len(vectors)))
        facts["ranges"] = {"low": ranges.low_D.tolist(), "high": ranges.high_D.tolist()}
    INDEXES[target].write(
        Coded(written, vectors, dimensions, form.precision, ranges), facts, place, output, monitor
    )
    output.write(EMBEDDING_FILE, json.dumps(facts, indent=1).encode())
    work.delete()
    return facts


def check_table(
    source: str,
    model: Folder,
    text: Sequence[str],
    id_column: str | None,
    form: Form,
    target: Target,
    place: Place,
    output: Folder,
) -> tuple[list[File], texts.Columns, int]:
    """Files, columns and dimensions, before anything is computed. Arguments and errors as of `embed_table`."""
    INDEXES[target].check(form, place, output)
    dimensions = form.checked(json.loads(model.read(ENCODING_FILE))["spec"]["dimensions"])
    files = _documents(source)
    return files, texts.find_columns(files, text, id_column), dimensions


def is_current(facts: Mapping[str, Any], model: Folder) -> bool:
    """Whether the vectors of an earlier call are of this model, and of the texts as they are now."""
    encoding = json.loads(model.read(ENCODING_FILE))
    made_of = texts.digest(_documents(facts["from"])), encoding["weights_digest"], encoding["space_id"]
    return made_of == (facts["source"], facts["weights_digest"], facts["space_id"])


def embed_again(
    facts: Mapping[str, Any],
    *,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    tokens_per_batch: int = 8192,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Embed the table of an earlier call, as it is now, by the model as it is now; all else stays as it was.

    Args:
        facts: of the earlier `embedding.json`.
        output: another folder than that of the earlier call.

    Returns, raises: as `embed_table`.
    """
    return embed_table(
        source=facts["from"], model=model, output=output, monitor=monitor, name=facts["model"],
        text=facts["text"], id_column=facts["id"], side=facts["side"], instruction=facts["instruction"],
        form=Form(facts["dimensions"], facts["precision"]), target=facts["target"],
        place=Place(facts["at"], facts["table"]), compute=facts["compute"], tokens_per_batch=tokens_per_batch,
        workers=workers, rows_per_shard=facts["rows_per_shard"],
    )  # fmt: skip


def _documents(source: str) -> list[File]:
    return [file for file in find_tables(source) if file.holds == "documents"]


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
