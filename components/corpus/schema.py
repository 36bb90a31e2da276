"""The tables that pass between steps: one written schema each, checked where a table enters and leaves a step."""

import hashlib

import pyarrow as pa

DOCUMENTS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("metadata", pa.map_(pa.string(), pa.string())),
    ]
)

QUERIES = pa.schema(
    [pa.field("query_id", pa.string(), nullable=False), pa.field("text", pa.string(), nullable=False)]
)

QRELS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("score", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

# What every training stage reads, whatever the pairs came from.
PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("positive", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("positive_id", pa.string(), nullable=False),
        pa.field("negatives", pa.list_(pa.string())),
        pa.field("negative_ids", pa.list_(pa.string())),
        pa.field("task", pa.string(), nullable=False),
        pa.field("instruction", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("score", pa.float32()),  # what the source says of the pair: how alike, or which class
        pa.field("measured", pa.float32()),  # what the last filter or mining gave query and positive
        # what made a synthetic row
        pa.field("persona", pa.string()),
        pa.field("question_type", pa.string()),
        pa.field("difficulty", pa.string()),
        pa.field("llm", pa.string()),
        pa.field("prompt_version", pa.string()),
        pa.field("seed", pa.int64()),
    ]
)

PAIRS_FILE = "pairs.parquet"
REJECTED_FILE = "rejected/rejected.parquet"
"""Beside the pairs: those that were turned away, with their reason."""


def rejected_schema(schema: pa.Schema) -> pa.Schema:
    """Of rows of a table that are turned away: `reason` is one of few words, `detail` says more."""
    fields = [field.with_nullable(True) for field in schema]
    return pa.schema(
        [*fields, pa.field("reason", pa.string(), nullable=False), pa.field("detail", pa.string())]
    )


def content_id(*parts: str) -> str:
    """An id derived from content alone: the same on any machine."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def passage(title: str | None, text: str) -> str:
    """The text of a document as it is encoded and searched: title, one space, text (BEIR's and MTEB's convention)."""
    return f"{title} {text}" if title else text


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns and types; optional columns that are absent become null.

    Raises:
        ValueError: a required column is missing or holds a null, or a column cannot be cast.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise ValueError(f"column `{field.name}` is missing; columns are {table.column_names}")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            raise ValueError(f"column `{field.name}` holds {column.null_count} nulls; it must hold none")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise ValueError(f"column `{field.name}` is {column.type}, not {field.type}: {error}") from error
    return pa.table(columns, schema=schema)
