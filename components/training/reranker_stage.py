"""The training of a reranker, the step that the workflow calls."""

from typing import Any

from components.model.reranker import load_pair_tokens
from components.model.reranker_file import architecture_of
from components.monitor import Monitor
from components.objective.judging import judging_from
from components.storage import Folder
from components.training.reranker_plan import read_labels
from components.training.stage import run_stage


def train_reranker(
    *,
    batches: Folder,
    model: Folder,
    objective: dict[str, Any],
    output: Folder,
    monitor: Monitor,
    state: Folder,
    checkpoints: int = 0,
    checkpoints_from: float = 0.5,
    **options: Any,
) -> dict[str, float]:
    """Train a reranker on planned batches over Ray Train workers with FSDP2.

    Everything but batches, model and objective is as in `components.training.stage.train_stage`, resume included.

    Args:
        batches: what `plan_reranking` wrote, for an objective of the same needs.
        model: the reranker directory to start from.
        objective: fields of `components.objective.judging.Judging`.
        output: takes `model/`, `checkpoints/step-000123/` and `history.parquet`.

    Returns: as `train_stage`.

    Raises:
        ValueError: as `train_stage`; a loss over the vocabulary for a model that has none, or batches that lack what
            the loss needs.
    """
    for name in ("training_head", "template_denoising"):
        if name in options:
            raise ValueError(f"{name} is an embedder's; a reranker has no vector that it would change")
    judging = judging_from(objective)
    labels = read_labels(batches)
    if (judging.is_listwise and not labels.listwise) or (
        judging.loss == "distillation" and not labels.with_teacher
    ):
        raise ValueError(
            f"the batches were not planned for objective.loss {judging.loss!r}; plan them with this objective"
        )
    with model.local() as directory:
        encoding = load_pair_tokens(directory).digest()
        architecture = architecture_of(directory)
    if judging.loss == "full_vocabulary" and not architecture.endswith("ForCausalLM"):
        raise ValueError(
            f"objective.loss is 'full_vocabulary', but a {architecture} answers with one number and has no "
            "vocabulary to choose from; take 'two_way', 'listwise' or 'distillation'"
        )
    return run_stage(
        judging, encoding, batches=batches, model=model, output=output, monitor=monitor, state=state,
        checkpoints=checkpoints, checkpoints_from=checkpoints_from, options=options,
    )  # fmt: skip
