"""The batch plan of a reranker's training, the step that the workflow calls before it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from components.monitor import Monitor
from components.objective.judging import judging_from
from components.storage import Folder
from components.training.judged import JudgedTokenizer
from components.training.plan import PlanLength, plan_rows

LABELS = "labels.json"


@dataclass(frozen=True)
class Labels:
    """Documents of a plan by their label, and what its rows were chosen for.

    Attributes:
        listwise: rows without a negative were turned away.
        with_teacher: the rows have a teacher's scores.
    """

    yes: int
    no: int
    listwise: bool
    with_teacher: bool


def plan_reranking(
    *,
    pairs: Folder,
    model: Folder,
    objective: dict,
    batch_size: int,
    output: Folder,
    monitor: Monitor,
    epochs: float | None = None,
    steps: int | None = None,
    task_weights: Mapping[str, float] | None = None,
    keep_last: bool = True,
    negatives_per_query: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Tokenise labelled rows once and plan every global batch (`plan_folder.py` and `judged.py` say the files).

    A row is a query with its positive and its negatives, and stands in a batch with all of them.

    Args:
        pairs: `pairs.parquet` (pair table), as `prepare_reranking` or `mine_negatives` leave it.
        model: reranker directory that tokenizer, prompt and length are taken from.
        objective: fields of `components.objective.judging.Judging`; what its loss needs, every row must have.
        batch_size: rows, that is queries, of a global batch over all workers; 1 or more.
        negatives_per_query: the first so many negatives of a row are taken; None: all of them.
        epochs, steps, task_weights, keep_last, seed: as in `plan_batches`.

    Returns:
        as `plan_batches`, rejected_<reason> by the reasons of `JudgedTokenizer`, and documents_yes, documents_no.

    Raises:
        ValueError: an argument out of range, no row that can be trained on, labels all of one kind, or a malformed
            pair.
    """
    judging = judging_from(objective)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
    length = PlanLength(batch_size, epochs, steps, task_weights, keep_last, seed)
    with_teacher = judging.loss == "distillation"
    with model.local() as directory:
        tokenizer = JudgedTokenizer(directory, negatives_per_query, judging.is_listwise, with_teacher)
    index, numbers = plan_rows([pairs], tokenizer, tokenizer.encoding, length, output, monitor)
    labels = Labels(len(index), int(index.negatives_R.sum()), judging.is_listwise, with_teacher)
    if not labels.no:
        raise ValueError(
            f"every label is yes: none of {labels.yes} pairs has a negative, so the answer no is never seen; "
            "mine negatives first (`do: mine`)"
        )
    output.write(LABELS, json.dumps(asdict(labels)).encode())
    numbers |= {"documents_yes": float(labels.yes), "documents_no": float(labels.no)}
    monitor.metrics(numbers)
    return numbers


def read_labels(folder: Folder) -> Labels:
    """Raises ValueError where the plan is none of a reranker."""
    if not folder.exists(LABELS):
        raise ValueError(f"{folder.uri} is no plan of a reranker: {LABELS} is missing")
    return Labels(**json.loads(folder.read(LABELS)))
