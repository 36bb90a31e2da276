"""What the contrastive loss of a batch is made of: the readings of Eq. 1 and the presets.

Plain values, without torch, so that a recipe can be checked against them before anything is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

InBatch = Literal["query_document", "query_query", "document_document"]
DocumentQuery = Literal["none", "same_denominator", "second_softmax"]
MaskedDocumentDocument = Literal["by_qd", "by_dd", "none"]
OtherDocuments = Literal["positives_and_negatives", "positives"]
MatryoshkaMask = Literal["full", "prefix"]


@dataclass(frozen=True)
class Objective:
    """The readings of Eq. 1 (`components/objective/contrastive.py`). The defaults are the preset `paper`.

    The positive and the row's own hard negatives always stand in the denominator.

    Attributes:
        temperature: tau. Undisclosed in the paper; published stand-ins are 0.01 to 0.02.
        learnable_temperature: the trainer owns tau as a parameter that starts at `temperature`, and hands it
            to the loss.
        in_batch: which scores against other rows stand in the denominator: `query_document` s(q_i, d_j),
            `query_query` s(q_i, q_j), `document_document` s(d_i+, d_j). None of them: own hard negatives
            alone.
        document_query: s(d_i+, q_j). `none`, as in the paper; `same_denominator`, in the same Z_i (GTE,
            arXiv 2308.03281); `second_softmax`, in a softmax of their own with the positive, and the loss is
            the mean of the two (GTR, arXiv 2112.07899).
        threshold: a cell that scores higher than the row's positive by more than this is masked; None masks
            nothing. The positive's score is detached there: no gradient flows through the threshold.
        masked_document_document: what trips the threshold on s(d_i+, d_j): the score s(q_i, d_j) of the same
            cell (`by_qd`), the cell's own score (`by_dd`), or nothing (`none`).
        other_documents: who d_j is: positives and hard negatives of the other rows, or their positives alone.
        own_negatives_in_document_document: d_i+ is also compared with the row's own hard negatives.
        mask_duplicates: mask, by id, a document that is d_i+ or another known positive of q_i, wherever it
            stands (own hard negatives included); a query that is q_i or whose positive is one of those; and
            in s(d_i+, q_j) a query that is q_i or has d_i+ among its known positives.
        threshold_own_negatives: the threshold holds for the row's own hard negatives as well.
        across_workers: negatives are gathered from every worker, or from the row's own worker only.
        matryoshka_dimensions: lengths of the prefixes whose losses are added up (arXiv 2205.13147, Eq. 1),
            the cosine taken over the prefix; the last one is the full dimension. Empty: the full dimension
            alone.
        matryoshka_weights: one a length; empty: 1 each.
        matryoshka_mask: the threshold is taken at the full dimension for all prefixes, or for each prefix at
            its own scores.
        per_task: for a task the fields that differ in its batches (`for_task`).
    """

    temperature: float = 0.02
    learnable_temperature: bool = False
    in_batch: tuple[InBatch, ...] = ("query_document", "query_query", "document_document")
    document_query: DocumentQuery = "none"
    threshold: float | None = 0.1
    masked_document_document: MaskedDocumentDocument = "by_qd"
    other_documents: OtherDocuments = "positives_and_negatives"
    own_negatives_in_document_document: bool = False
    mask_duplicates: bool = True
    threshold_own_negatives: bool = True
    across_workers: bool = True
    matryoshka_dimensions: tuple[int, ...] = ()
    matryoshka_weights: tuple[float, ...] = ()
    matryoshka_mask: MatryoshkaMask = "full"
    per_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"objective.temperature is {self.temperature}; it must be above 0")
        for name, choices in (
            ("document_query", DocumentQuery),
            ("masked_document_document", MaskedDocumentDocument),
            ("other_documents", OtherDocuments),
            ("matryoshka_mask", MatryoshkaMask),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"objective.{name} is {getattr(self, name)!r}; it must be one of {get_args(choices)}"
                )
        for term in self.in_batch:
            if term not in get_args(InBatch):
                raise ValueError(f"objective.in_batch names {term!r}; it may name {get_args(InBatch)}")
        self._check_matryoshka()
        for task, changes in self.per_task.items():
            self._check_task(task, changes)

    def _check_matryoshka(self) -> None:
        dimensions, weights = self.matryoshka_dimensions, self.matryoshka_weights
        if list(dimensions) != sorted(set(dimensions)) or any(dimension < 1 for dimension in dimensions):
            raise ValueError(
                f"objective.matryoshka_dimensions is {list(dimensions)}; "
                "it must be lengths above 0, each once, the shortest first"
            )
        if weights and len(weights) != len(dimensions):
            raise ValueError(
                f"objective.matryoshka_weights has {len(weights)} entries; "
                f"it must have one for each of the {len(dimensions)} matryoshka_dimensions, or none"
            )
        if any(weight < 0 for weight in weights) or (weights and not any(weights)):
            raise ValueError(
                f"objective.matryoshka_weights is {list(weights)}; no weight may be below 0, and not all 0"
            )

    def _check_task(self, task: str, changes: Mapping[str, Any]) -> None:
        for name in changes:
            shared = {"per_task", "learnable_temperature"}
            if name in shared or (name == "temperature" and self.learnable_temperature):
                raise ValueError(f"objective.per_task.{task}.{name}: this is one value for all tasks")
        try:
            for_task(self, task)
        except ValueError as error:
            raise ValueError(f"objective.per_task.{task}: {error}") from None


PRESETS = {
    "paper": Objective(),
    # ms-swift's InfoNCE with its q-q and d-d terms and its mask switched on, but for two things: its
    # temperature, and that it stops the gradient of other workers' vectors.
    "swift": Objective(
        masked_document_document="none", own_negatives_in_document_document=True, mask_duplicates=False
    ),
}


def objective_from(config: Mapping[str, Any]) -> Objective:
    """The objective that a recipe names: a `preset` (default `paper`) and the fields that differ from it.

    Raises:
        ValueError: an unknown preset or field, or a value out of range.
    """
    changes = dict(config)
    preset = changes.pop("preset", "paper")
    if preset not in PRESETS:
        raise ValueError(f"objective.preset is {preset!r}; it must be one of {sorted(PRESETS)}")
    return _changed(PRESETS[preset], changes)


def for_task(objective: Objective, task: str) -> Objective:
    """The objective of a batch, all of whose rows are of one task."""
    return _changed(objective, {**objective.per_task.get(task, {}), "per_task": {}})


def _changed(objective: Objective, changes: Mapping[str, Any]) -> Objective:
    known = [each.name for each in fields(Objective)]
    for name in changes:
        if name not in known:
            raise ValueError(f"objective.{name} is not a field of the objective; the fields are {known}")
    # JSON and YAML have lists where the dataclass has tuples
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    return replace(objective, **plain)
