"""What the writer answered, row by row, in a place that survives the attempt.

Ray Data writes it, and leaves out what stands there when the step is tried again.
"""

import contextlib
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import ray
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem
from ray.data import DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig

from components.corpus.schema import conform
from components.storage import Folder

ROWS = "rows"
CHECKPOINT = "checkpoint"
ID = "document_id"
WAIT_FOR_ENGINE = 1200  # seconds until engines that do not start are given up

ANSWERS = pa.schema(
    [
        pa.field(ID, pa.string(), nullable=False),
        pa.field("passage", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("request_seed", pa.int64(), nullable=False),
        pa.field("configuration", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("character", pa.string(), nullable=False),
        pa.field("question_type", pa.string(), nullable=False),
        pa.field("difficulty", pa.string(), nullable=False),
        pa.field("input_tokens", pa.int64(), nullable=False),
        pa.field("output_tokens", pa.int64(), nullable=False),
        pa.field("fault", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)
"""What the writer was shown, its two answers as they came, and what went wrong, if anything did."""


@contextlib.contextmanager
def checkpointed(state: Folder) -> Iterator[None]:
    """Datasets made in the block leave out the rows that `state` already holds and record those they write.

    Ray's data context is global to the process, so it is put back at the end.
    """
    context = DataContext.get_current().copy()
    context.checkpoint_config = CheckpointConfig(
        id_column=ID,
        checkpoint_path=state.path(CHECKPOINT),
        override_filesystem=_arrow_filesystem(state),
        delete_checkpoint_on_success=False,
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = WAIT_FOR_ENGINE
    with DataContext.current(context):
        yield


def read_dataset(folder: Folder, name: str, columns: list[str], rows_per_block: int) -> Dataset:
    """A Parquet table as a dataset of small blocks: a block is what is recorded at once."""
    dataset = ray.data.read_parquet(
        folder.path(name), filesystem=_arrow_filesystem(folder), columns=columns, num_cpus=0
    )
    return dataset.repartition(target_num_rows_per_block=rows_per_block)


def write_answers(state: Folder, dataset: Dataset) -> None:
    """Run the dataset, which gives rows of ANSWERS, into `state`."""
    dataset.select_columns(ANSWERS.names).write_parquet(
        state.path(ROWS), filesystem=_arrow_filesystem(state), ray_remote_args={"num_cpus": 0}
    )


def read_answers(state: Folder) -> pa.Table:
    """The rows that are recorded as finished, one a document."""
    finished = [name for name in state.names(f"{CHECKPOINT}/*.parquet") if ".pending." not in name]
    if not finished:
        return ANSWERS.empty_table()
    # Ray Data does not say of every file that its ids are never null.
    recorded = pa.concat_tables(
        [state.read_table(name, columns=[ID]) for name in finished], promote_options="default"
    )
    rows = conform(state.read_table(ROWS), ANSWERS)
    rows = rows.filter(pc.is_in(rows.column(ID), recorded.column(ID).combine_chunks()))
    # A crash while failures are forgotten can leave a row behind that is then written again.
    first = {document_id: row for row, document_id in reversed(list(enumerate(rows.column(ID).to_pylist())))}
    return rows.take(sorted(first.values()))


def forget_failures(state: Folder) -> None:
    """Drop the rows that failed, so that the next attempt asks for them again and keeps the others."""
    answers = read_answers(state)
    good = answers.filter(pc.equal(answers.column("fault"), ""))
    state.delete(CHECKPOINT)
    state.delete(ROWS)
    if good.num_rows:
        name = f"kept-{uuid.uuid4().hex}.parquet"
        state.write_table(f"{ROWS}/{name}", good)
        state.write_table(f"{CHECKPOINT}/{name}", good.select([ID]))


def _arrow_filesystem(folder: Folder) -> FileSystem:
    return LocalFileSystem() if folder.is_local else PyFileSystem(FSSpecHandler(folder.filesystem))
