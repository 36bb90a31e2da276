"""One global batch of a reranker on one worker: its texts in micro-batches, the loss, the gradients.

A loss that goes document by document is a sum, so every micro-batch goes forward and backward once. One over the
documents of a query needs all of their scores first, and takes them by the gradient cache. What the documents of a
query share before them is computed once where that is less work (`shared_rows.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from components.model.pair_tokens import Tokens
from components.model.reranker import Reranker, YesNoReranker
from components.model.shared_prefix import shared_row
from components.objective.judging import Judging
from components.objective.yes_no import (
    full_vocabulary_loss,
    label_targets,
    listwise_loss,
    softmax_targets,
    two_way_loss,
)
from components.training.collectives import sum_over_workers
from components.training.gradient_cache import announce_backward, backward_all, encode_all
from components.training.judged import JudgedBatch
from components.training.micro_batches import MicroBatches, MicroBatching, cut
from components.training.shared_rows import rows_of, tokens_of


@dataclass(frozen=True)
class LabelWeights:
    """What a document counts in the loss, by its label; 1 in the mean over the plan."""

    yes: float
    no: float

    def of(self, label_N: Tensor) -> Tensor:
        return torch.where(label_N > 0, self.yes, self.no)


def label_weights(judging: Judging, yes: int, no: int) -> LabelWeights:
    """By the numbers of labels in the plan. With one kind alone there is nothing to balance."""
    if judging.label_weights == "equal" or not (yes and no):
        return LabelWeights(1.0, 1.0)
    return LabelWeights((yes + no) / (2 * yes), (yes + no) / (2 * no))


def accumulate_judged_gradients(
    reranker: Reranker,
    batch: JudgedBatch,
    judging: Judging,
    weights: LabelWeights,
    micro_batching: MicroBatching,
    group: dist.ProcessGroup,
    weight: float = 1.0,
) -> dict[str, float]:
    """Add the gradient of the global batch's loss to that of the parameters; return the loss's statistics.

    The model of `reranker` is sharded by FSDP2, which averages gradients over the workers: hence the factor on the
    loss.

    Args:
        weight: of the batch among those that an optimizer step goes by.

    Returns:
        loss, rows (documents, over all workers), accuracy (share of the documents whose score stands on the side of
        their label), score_yes and score_no (means by label).
    """
    pairs = batch.pairs()
    label_N = torch.from_numpy(batch.label).to(reranker.device)
    graph_tokens = micro_batching.graph_tokens if judging.is_listwise else 0
    rows = rows_of(reranker, pairs, batch.row, micro_batching.tokens)
    lengths = [tokens_of(pairs, row) for row in rows]
    of_rows = cut(lengths, micro_batching, graph_tokens, reranker.device, group)
    micro_batches = replace(
        of_rows, texts=[np.concatenate([rows[row] for row in some]) for some in of_rows.texts]
    )

    def forward(number: int) -> Tensor:
        return _outputs(reranker, [[pairs[text] for text in rows[row]] for row in of_rows.texts[number]])

    arguments = (reranker, forward, batch, label_N, judging, micro_batching, micro_batches, group)
    if judging.is_listwise:
        loss, z_N = _together(*arguments, weight)
    else:
        loss, z_N = _one_by_one(*arguments, weights, weight)
    return _statistics(loss, z_N, label_N, group)


def _outputs(reranker: Reranker, rows: list[list[Tokens]]) -> Tensor:
    """Of the texts, row after row: a language model's logits at the last position [N, V], else z [N]."""
    if not isinstance(reranker, YesNoReranker):
        return reranker(*reranker.pad([text for row in rows for text in row]))
    if max(map(len, rows)) > 1:
        return reranker.logits_of_rows([shared_row([text.ids for text in row]) for row in rows])
    ids_BT, mask_BT, _ = reranker.pad([text for row in rows for text in row])
    return reranker.last_logits(ids_BT, mask_BT)


def _logit(reranker: Reranker, outputs: Tensor) -> Tensor:
    """z [N] of what `_outputs` gave."""
    return reranker.yes_minus_no(outputs) if isinstance(reranker, YesNoReranker) else outputs


def _one_by_one(
    reranker: Reranker,
    forward: Callable[[int], Tensor],
    batch: JudgedBatch,
    label_N: Tensor,
    judging: Judging,
    micro_batching: MicroBatching,
    micro_batches: MicroBatches,
    group: dist.ProcessGroup,
    weights: LabelWeights,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """This worker's part of the loss, and z of its texts [N]."""
    documents = sum_over_workers(float(len(label_N)), reranker.device, group)
    share_N = weights.of(label_N) / documents
    scale = weight * dist.get_world_size(group)
    model = cast(FSDPModule, reranker.model)
    loss, z_N = torch.zeros((), device=reranker.device), torch.empty_like(label_N)
    last = len(micro_batches) - 1
    for number, texts in enumerate(micro_batches.texts):
        announce_backward(model, number == last, micro_batching.gradient_sync)
        at = torch.from_numpy(texts).to(reranker.device)
        loss_B, z_B = _losses(reranker, judging, forward(number), label_N[at])
        busy = number < micro_batches.busy
        loss_B.backward(share_N[at] * (scale if busy else 0.0))
        if busy:
            loss += (loss_B.detach() * share_N[at]).sum()
            z_N[at] = z_B.detach()
    return loss, z_N


def _losses(reranker: Reranker, judging: Judging, outputs: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and z of each text [B], [B], by its label."""
    z_B = _logit(reranker, outputs)
    if judging.loss != "full_vocabulary":
        return two_way_loss(z_B, label_B), z_B
    assert isinstance(reranker, YesNoReranker)
    token_B = torch.where(label_B > 0, reranker.yes_id, reranker.no_id)
    return full_vocabulary_loss(outputs, token_B), z_B


def _together(
    reranker: Reranker,
    forward: Callable[[int], Tensor],
    batch: JudgedBatch,
    label_N: Tensor,
    judging: Judging,
    micro_batching: MicroBatching,
    micro_batches: MicroBatches,
    group: dist.ProcessGroup,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """As `_one_by_one`, of a loss over the documents of a query."""

    def encode(number: int) -> Tensor:
        return _logit(reranker, forward(number))

    encoded = encode_all(encode, len(micro_batches), micro_batches.graphs, reranker.device)
    z_N = micro_batches.outputs(encoded)
    row_N = torch.from_numpy(batch.row).to(reranker.device)
    rows = int(batch.row[-1]) + 1
    if judging.loss == "listwise":
        target_N = label_targets(label_N, row_N, rows)
    else:
        teacher_N = torch.from_numpy(batch.teacher_scores).to(reranker.device)
        target_N = softmax_targets(teacher_N / judging.temperature, row_N, rows)
    queries = sum_over_workers(float(rows), reranker.device, group)
    loss = listwise_loss(z_N / judging.temperature, target_N, row_N, rows).sum() / queries
    (loss * (weight * dist.get_world_size(group))).backward()
    gradients = micro_batches.gradients(z_N)
    backward_all(cast(FSDPModule, reranker.model), encode, encoded, gradients, micro_batching.gradient_sync)
    return loss.detach(), z_N.detach()


def _statistics(loss: Tensor, z_N: Tensor, label_N: Tensor, group: dist.ProcessGroup) -> dict[str, float]:
    yes_N = label_N > 0
    score_N = torch.sigmoid(z_N)
    sums = torch.stack(
        [
            loss,
            yes_N.sum(),
            (~yes_N).sum(),
            ((z_N > 0) == yes_N).sum(),
            score_N[yes_N].sum(),
            score_N[~yes_N].sum(),
        ]
    ).double()
    dist.all_reduce(sums, group=group)
    total, yes, no, right, score_yes, score_no = sums.tolist()
    found = {"loss": total, "rows": yes + no, "accuracy": right / (yes + no), "score_yes": score_yes / yes}
    return found | ({"score_no": score_no / no} if no else {})
