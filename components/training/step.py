"""Forward and backward of one global batch on one worker.

The vectors of all micro-batches are computed first, with their graphs; the loss over the whole global batch
gives the gradient at each vector; then every micro-batch goes backward from there. All workers run the same
number of micro-batches, for each is a collective under FSDP.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from components.model.embedder import Embedder
from components.model.tokens import batches_by_length
from components.objective.contrastive import ContrastiveBatch, Objective
from components.objective.distributed import contrastive_loss
from components.training.batch import WorkerBatch


def accumulate_gradients(
    embedder: Embedder,
    batch: WorkerBatch,
    objective: Objective,
    micro_batch_tokens: int,
    group: dist.ProcessGroup,
) -> dict[str, float]:
    """Leave the gradient of the global batch's loss in the parameters and return the loss's statistics.

    `embedder` is sharded by FSDP2, which averages gradients over the workers: hence the factor on the loss.
    """
    texts = [ids.tolist() for ids in batch.tokens]
    micro_batches = list(batches_by_length([len(ids) for ids in texts], micro_batch_tokens))
    count = torch.tensor(len(micro_batches), device=embedder.device)
    dist.all_reduce(count, dist.ReduceOp.MAX, group=group)
    # A worker with less to do repeats its shortest text with gradient zero.
    idle = int(count) - len(micro_batches)
    micro_batches += [micro_batches[-1][-1:]] * idle

    outputs = [
        embedder(*embedder.pad([texts[position] for position in positions])) for positions in micro_batches
    ]
    vectors = outputs[0].new_empty(len(texts), outputs[0].shape[1])
    for positions, output in zip(micro_batches, outputs, strict=True):
        vectors[positions] = output.detach()
    vectors.requires_grad_()
    result = contrastive_loss(_contrastive(batch, vectors), objective, group)
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


def _contrastive(batch: WorkerBatch, vectors: torch.Tensor) -> ContrastiveBatch:
    """`vectors` of `batch.tokens`, with the identities that the duplicate rule goes by."""
    B, device = len(batch), vectors.device
    known = [torch.from_numpy(ids) for ids in batch.known_positives]
    identities = torch.from_numpy(batch.identities).to(device)
    return ContrastiveBatch(
        query_BD=vectors[:B],
        positive_BD=vectors[B : 2 * B],
        negative_MD=vectors[2 * B :],
        negative_row_M=torch.from_numpy(batch.negative_rows).to(device),
        query_id_B=identities[:B],
        positive_id_B=identities[B : 2 * B],
        negative_id_M=identities[2 * B :],
        known_positive_BP=torch.nn.utils.rnn.pad_sequence(known, batch_first=True, padding_value=-1).to(
            device
        ),
    )
