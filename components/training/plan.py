"""The batch plan of a training stage, the step that the workflow calls before it.

Pairs are read piece by piece, tokenised once, and laid out in the order in which the first epoch takes them.
What is held of every row are numbers: digests, identities, its place.
"""

import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.monitor import Monitor
from components.storage import Folder
from components.training.batches import (
    WINDOW_BLOCKS,
    Laid,
    block_rows,
    drawn_tasks,
    rows_beside_their_like,
    shuffled_pass,
    task_batches,
)
from components.training.identities import Answers
from components.training.pair_index import PairIndex, index_pairs
from components.training.plan_folder import ANSWERS, BATCHES, PLAN, STEPS, BatchPlan
from components.training.shards import write_shards
from components.training.tokens import PairTokenizer, Tokeniser, encoding_digest

GROUP_NUMBERS = 1_000_000
"""Numbers of rows in a row group of the plan."""


def plan_batches(
    *,
    pairs: Folder,
    model: Folder,
    batch_size: int,
    output: Folder,
    monitor: Monitor,
    extra_pairs: Folder | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    task_weights: Mapping[str, float] | None = None,
    keep_last: bool = False,
    negatives_per_query: int = 0,
    query_length: int | None = None,
    document_length: int | None = None,
    document_instructions: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Tokenise pairs once and plan every global batch of a training stage (`plan_folder.py` says the files).

    A batch holds rows of one task, and no two rows with one query or one positive where that can be. An epoch
    takes each row at most once; rows that do not fill a batch of their task sit it out, others in each epoch.
    The plan is the same for any number of workers.

    Args:
        pairs, extra_pairs: folders with a `pairs.parquet` (pair table), a file or a folder of files; the rows
            of both are mixed.
        model: model directory that tokenizer, templates and lengths are taken from.
        batch_size: rows of a global batch, over all workers of the training; 2 or more.
        epochs, steps: how long; exactly one of them. `epochs` may be a fraction.
        task_weights: share of the batches by task, every task named; None: by its rows. With weights an
            epoch has as many batches as without, and a task may start over before the others are through.
        keep_last: rows that do not fill a batch make a smaller one, if they are two or more.
        negatives_per_query: the first so many hard negatives of a row are taken; a row may have fewer.
        query_length, document_length: tokens of the longest text, end token included; None: those of the
            model's EncodingSpec.
        document_instructions: for a task what its documents are told, where the model's document template has
            a place for it; the query side is told by each pair.
        seed: of all that is drawn, 0 or more.

    Returns:
        rows_in, rows_out, rejected_<reason> (`empty_query`, `empty_positive`, `empty_negative`: no token
        beside the template's), shards, steps, steps_per_epoch, batches_<task> (in all steps),
        rows_sitting_out (of an epoch without weights), rows_beside_their_like (in all steps: rows whose query
        or positive stands before them in their batch), tokens (in all steps).

    Raises:
        ValueError: an argument out of range, no pairs, a task that fills no batch, a malformed pair, or a
            template that leaves no room for text.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}; in-batch negatives need at least 2 rows")
    length = PlanLength(batch_size, epochs, steps, task_weights, keep_last, seed)
    with model.local() as directory:
        tokenizer = PairTokenizer(
            directory, negatives_per_query, query_length, document_length, document_instructions
        )
        encoding = encoding_digest(directory)
    sources = [folder for folder in (pairs, extra_pairs) if folder is not None]
    numbers = plan_rows(sources, tokenizer, encoding, length, output, monitor)[1]
    monitor.metrics(numbers)
    return numbers


@dataclass(frozen=True)
class PlanLength:
    """How rows become batches: as the arguments of `plan_batches`.

    Raises:
        ValueError: a value that cannot be used.
    """

    batch_size: int
    epochs: float | None
    steps: int | None
    task_weights: Mapping[str, float] | None
    keep_last: bool
    seed: int

    def __post_init__(self) -> None:
        epochs, steps = self.epochs, self.steps
        if (epochs is None) == (steps is None):
            raise ValueError(
                f"give epochs or steps, exactly one of them; epochs is {epochs}, steps is {steps}"
            )
        if not (epochs if steps is None else steps) > 0:  # type: ignore[operator]
            raise ValueError(f"epochs or steps must be above 0; epochs is {epochs}, steps is {steps}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")


def plan_rows(
    sources: Sequence[Folder],
    tokenizer: Tokeniser,
    encoding: str,
    length: PlanLength,
    output: Folder,
    monitor: Monitor,
) -> tuple[PairIndex, dict[str, float]]:
    """Tokenise the `pairs.parquet` of each source and write the plan.

    Args:
        encoding: digest of what the tokens depend on.

    Returns:
        what is known of the rows, and the numbers of `plan_batches`.

    Raises:
        ValueError: as `plan_batches`.
    """
    batch_size, keep_last, seed, steps = length.batch_size, length.keep_last, length.seed, length.steps
    beside = Path(output.path()) if output.is_local else None
    if beside:
        beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=beside) as scratch:
        spool = Path(scratch) / "tokenised.arrows"
        index = index_pairs(sources, tokenizer, spool, output, monitor)
        weights = _weights(length.task_weights, index.tasks)
        layout = _lay_out(index, batch_size, keep_last, seed)
        content = write_shards(
            spool, tokenizer.schema, index, layout.order, layout.shard_starts, Path(scratch), output
        )
    answers = Answers.of(index.query_R, index.positive_R)
    output.write_table(ANSWERS, pa.table({"query": answers.queries, "positive": answers.positives}))

    per_epoch = sum(task.per_pass for task in layout.tasks)
    if steps is None:
        assert length.epochs is not None
        steps = max(1, round(length.epochs * per_epoch))
    drawn = itertools.islice(_drawn(layout, weights, batch_size, keep_last, seed), steps)
    written = _write_steps(drawn, index, layout, batch_size, output)
    plan = BatchPlan(
        fingerprint=hashlib.sha256(f"{content} {written.digest}".encode()).hexdigest(),
        encoding=encoding,
        rows=len(index),
        batch_size=batch_size,
        steps=steps,
        steps_per_epoch=per_epoch,
        smallest_batch=written.smallest,
        window_shards=WINDOW_BLOCKS,
        shard_starts=layout.shard_starts,
    )
    output.write(PLAN, plan.to_json())
    numbers = {
        "rows_in": len(index) + index.rejected.total(),
        "rows_out": len(index),
        **{f"rejected_{reason}": count for reason, count in sorted(index.rejected.items())},
        "shards": len(plan.shard_starts),
        "steps": steps,
        "steps_per_epoch": per_epoch,
        **{f"batches_{task}": count for task, count in sorted(written.batches.items())},
        "rows_sitting_out": layout.left,
        "rows_beside_their_like": written.beside_their_like,
        "tokens": written.tokens,
    }
    return index, {name: float(value) for name, value in numbers.items()}


def _weights(by_task: Mapping[str, float] | None, tasks: list[str]) -> list[float] | None:
    if by_task is None:
        return None
    if set(by_task) != set(tasks):
        raise ValueError(
            f"task_weights names {sorted(by_task)}; it must name each task of the pairs once, {tasks}"
        )
    for task, weight in by_task.items():
        if not 0 < weight < float("inf"):
            raise ValueError(f"task_weights.{task} is {weight}; it must be above 0")
    return [by_task[task] for task in tasks]


@dataclass(frozen=True)
class _Layout:
    """The new order of the rows: task after task, each in the order of its first pass.

    Attributes:
        order: int64, number in the index of the row that comes first, second, ...
        shard_starts: numbers, in the new order, of the first row of each block of each task.
        left: rows that sit out an epoch.
    """

    order: np.ndarray
    tasks: list[Laid]
    shard_starts: list[int]
    left: int


def _lay_out(index: PairIndex, batch_size: int, keep_last: bool, seed: int) -> _Layout:
    orders, tasks = [], []
    starts: list[int] = []
    first = left = 0
    for number, name in enumerate(index.tasks):
        rows = np.flatnonzero(index.task_R == number)
        rng = np.random.default_rng([seed, 0, number])
        one = shuffled_pass(rows, index.query_R, index.positive_R, batch_size, keep_last, rng)
        if not one.batches:
            which = f" of task {name!r}" if len(index.tasks) > 1 else ""
            raise ValueError(
                f"{len(rows)} training pairs{which} do not fill one batch; batch_size must be at most "
                f"{len(rows)}, not {batch_size}, or keep_last true (from 2 pairs on)"
            )
        order = np.concatenate([*one.batches, one.left])
        orders.append(order)
        tasks.append(Laid(first, index.query_R[order], index.positive_R[order], len(one.batches)))
        starts += range(first, first + len(rows), block_rows(batch_size))
        first, left = first + len(rows), left + len(one.left)
    return _Layout(np.concatenate(orders), tasks, starts, left)


def _drawn(
    layout: _Layout, weights: list[float] | None, batch_size: int, keep_last: bool, seed: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Batches without end: the number of the task, and numbers of rows in the new order."""
    batches = [
        task_batches(laid, batch_size, keep_last, seed, task) for task, laid in enumerate(layout.tasks)
    ]
    for epoch in drawn_tasks([laid.per_pass for laid in layout.tasks], weights, seed):
        for task in epoch.tolist():
            yield task, next(batches[task])


@dataclass(frozen=True)
class _Written:
    digest: str
    batches: Counter[str]
    smallest: int
    tokens: int
    beside_their_like: int


def _write_steps(
    drawn: Iterator[tuple[int, np.ndarray]],
    index: PairIndex,
    layout: _Layout,
    batch_size: int,
    output: Folder,
) -> _Written:
    query_R, positive_R = index.query_R[layout.order], index.positive_R[layout.order]
    tokens_R = index.tokens_R[layout.order]
    digest, batches = hashlib.sha256(), Counter[str]()
    smallest, tokens, beside_their_like = len(index), 0, 0
    with output.open(STEPS, "wb") as sink, pq.ParquetWriter(sink, BATCHES) as writer:
        while group := list(itertools.islice(drawn, max(1, GROUP_NUMBERS // batch_size))):
            tasks = [index.tasks[task] for task, _ in group]
            counts = [int(tokens_R[rows].sum()) for _, rows in group]
            for _, rows in group:
                digest.update(rows.tobytes())
                smallest = min(smallest, len(rows))
                beside_their_like += rows_beside_their_like(query_R[rows], positive_R[rows])
            tokens += sum(counts)
            batches.update(tasks)
            writer.write_table(pa.table([tasks, [rows for _, rows in group], counts], schema=BATCHES))
    return _Written(digest.hexdigest(), batches, smallest, tokens, beside_their_like)
