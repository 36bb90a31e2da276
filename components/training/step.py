"""Forward and backward of one global batch on one worker.

The vectors of all micro-batches are computed first, with their graphs; the loss over the whole global batch
gives the gradient at each vector; then every micro-batch goes backward from there. All workers run the same
number of micro-batches, for each is a collective under FSDP.
"""

from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from components.model.embedder import Embedder
from components.model.tokens import batches_by_length
from components.objective.contrastive import ContrastiveBatch, Objective
from components.objective.distributed import contrastive_loss
from components.training.tokens import TrainingRows


def accumulate_gradients(
    embedder: Embedder,
    rows: TrainingRows,
    own: np.ndarray,
    objective: Objective,
    micro_batch_tokens: int,
    group: dist.ProcessGroup,
) -> dict[str, float]:
    """Leave the gradient of the global batch's loss in the parameters and return the loss's statistics.

    `embedder` is sharded by FSDP2, which averages gradients over the workers: hence the factor on the loss.

    Args:
        own: numbers of the rows that this worker has of the global batch.
    """
    texts = _texts(rows, own)
    micro_batches = list(batches_by_length(rows.tokens.lengths[texts].tolist(), micro_batch_tokens))
    count = torch.tensor(len(micro_batches), device=embedder.device)
    dist.all_reduce(count, dist.ReduceOp.MAX, group=group)
    # A worker with less to do repeats its shortest text with gradient zero.
    idle = int(count) - len(micro_batches)
    micro_batches += [micro_batches[-1][-1:]] * idle

    outputs = [_encode(embedder, rows, texts[positions]) for positions in micro_batches]
    vectors = outputs[0].new_empty(len(texts), outputs[0].shape[1])
    for positions, output in zip(micro_batches, outputs, strict=True):
        vectors[positions] = output.detach()
    vectors.requires_grad_()
    result = contrastive_loss(_batch(rows, own, texts, vectors), objective, group)
    (result.share * dist.get_world_size(group)).backward()
    assert vectors.grad is not None

    sharded = cast(FSDPModule, embedder)
    for number in reversed(range(len(micro_batches))):
        first_forward = number == 0
        sharded.set_requires_gradient_sync(first_forward)
        sharded.set_is_last_backward(first_forward)
        sharded.set_reshard_after_backward(first_forward)
        gradient = vectors.grad[micro_batches[number]]
        outputs[number].backward(
            gradient if number < len(micro_batches) - idle else torch.zeros_like(gradient)
        )
    return result.statistics


def _texts(rows: TrainingRows, own: np.ndarray) -> np.ndarray:
    """Numbers of the texts of the rows: queries, positives, then the negatives row after row."""
    negatives = [rows.negatives[row] for row in own]
    return np.concatenate([rows.queries[own], rows.positives[own], *negatives])


def _encode(embedder: Embedder, rows: TrainingRows, texts: np.ndarray) -> torch.Tensor:
    return embedder(*embedder.pad([rows.tokens[text].tolist() for text in texts]))


def _batch(rows: TrainingRows, own: np.ndarray, texts: np.ndarray, vectors: torch.Tensor) -> ContrastiveBatch:
    """The vectors in the order of `_texts`, with the identities that the duplicate rule goes by."""
    B, device = len(own), vectors.device
    counts = [len(rows.negatives[row]) for row in own]
    known = [torch.tensor(rows.known_positives[row]) for row in own]
    identities = torch.tensor(rows.identities[texts], device=device)
    return ContrastiveBatch(
        query_BD=vectors[:B],
        positive_BD=vectors[B : 2 * B],
        negative_MD=vectors[2 * B :],
        negative_row_M=torch.repeat_interleave(torch.arange(B), torch.tensor(counts)).to(device),
        query_id_B=identities[:B],
        positive_id_B=identities[B : 2 * B],
        negative_id_M=identities[2 * B :],
        known_positive_BP=torch.nn.utils.rnn.pad_sequence(known, batch_first=True, padding_value=-1).to(
            device
        ),
    )
