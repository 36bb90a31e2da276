"""What a folder of planned batches holds, and how its small files are read.

plan.json             BatchPlan, written last
batches.parquet       BATCHES: one row a step, in order
tokens/000000.parquet the rows that the steps name, numbered through from shard to shard: token ids, IDENTITIES
answers.parquet       ANSWERS: queries with several positives, and what those are
rejected/             rows that cannot be trained on, with their reason
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.storage import Folder
from components.training.identities import Answers

PLAN = "plan.json"
STEPS = "batches.parquet"
ANSWERS = "answers.parquet"

IDENTITIES = pa.schema(
    [
        pa.field("query_identity", pa.int64(), nullable=False),
        pa.field("positive_identity", pa.int64(), nullable=False),
        pa.field("negative_identities", pa.list_(pa.int64()), nullable=False),
    ]
)

BATCHES = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("rows", pa.list_(pa.int64()), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class BatchPlan:
    """The facts of a plan.

    Attributes:
        fingerprint: of the batches and the tokens in them; with a step it says how far a training is.
        encoding: digest of the tokenizer and the templates that the tokens are of.
        steps: batches in all.
        steps_per_epoch: of these, those of one epoch.
        smallest_batch: rows of the smallest batch.
        window_shards: no task has rows of more shards than this in its next batches.
        shard_starts: number of the first row of each shard.
    """

    fingerprint: str
    encoding: str
    rows: int
    batch_size: int
    steps: int
    steps_per_epoch: int
    smallest_batch: int
    window_shards: int
    shard_starts: list[int]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()


@dataclass(frozen=True)
class PlannedBatch:
    """One step: numbers of rows, int64 [batch], of one task, and the tokens that they have together."""

    task: str
    rows: np.ndarray
    tokens: int


def read_plan(folder: Folder) -> BatchPlan:
    """Raises FileNotFoundError where no plan was finished."""
    return BatchPlan(**json.loads(folder.read(PLAN)))


def read_steps(folder: Folder, start: int) -> Iterator[PlannedBatch]:
    """The batches from step `start` (0 is the first) to the end."""
    with folder.open(STEPS) as source:
        file = pq.ParquetFile(source)
        passed = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if passed + count > start:
                table = file.read_row_group(group)
                rows = table.column("rows")
                for at in range(max(0, start - passed), count):
                    yield PlannedBatch(
                        table.column("task")[at].as_py(),
                        rows[at].values.to_numpy(),
                        table.column("tokens")[at].as_py(),
                    )
            passed += count


def read_answers(folder: Folder) -> Answers:
    table = folder.read_table(ANSWERS)
    return Answers(table.column("query").to_numpy(), table.column("positive").to_numpy())


def shard_name(shard: int) -> str:
    return f"tokens/{shard:06d}.parquet"
