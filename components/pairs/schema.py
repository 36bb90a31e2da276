"""The pair table: what every training stage reads, whatever the pairs came from."""

import pyarrow as pa

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
        pa.field("score", pa.float32()),
        # what made a synthetic row
        pa.field("persona", pa.string()),
        pa.field("question_type", pa.string()),
        pa.field("difficulty", pa.string()),
        pa.field("llm", pa.string()),
        pa.field("prompt_version", pa.string()),
        pa.field("seed", pa.int64()),
    ]
)
