"""One global batch on one worker: its texts in micro-batches, their vectors, the loss, the gradients."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from components.model.embedder import Embedder
from components.model.tokens import batches_by_length
from components.objective.contrastive import ContrastiveBatch
from components.objective.distributed import contrastive_loss
from components.objective.objective import Objective, for_task
from components.training.batch import WorkerBatch
from components.training.gradient_cache import GradientSync, agree, backward_all, encode_all


@dataclass(frozen=True)
class MicroBatching:
    """How a worker goes through its part of a global batch. Changes the result by nothing but rounding.

    Attributes:
        tokens: most tokens of a micro-batch, padding included; a longer text stands alone.
        graph_tokens: most tokens, padding included, whose graph is kept between the passes; what is above is
            encoded twice. 0: everything is.
        gradient_sync: when gradients are reduced over the workers.
    """

    tokens: int
    graph_tokens: int
    gradient_sync: GradientSync


def accumulate_gradients(
    embedder: Embedder,
    batch: WorkerBatch,
    objective: Objective,
    micro_batching: MicroBatching,
    group: dist.ProcessGroup,
    weight: float = 1.0,
    log_temperature: torch.Tensor | None = None,
) -> dict[str, float]:
    """Add the gradient of the global batch's loss to that of the parameters; return the loss's statistics.

    `embedder` is sharded by FSDP2, which averages gradients over the workers: hence the factor on the loss.

    Args:
        weight: of the batch among those that an optimizer step goes by.
        log_temperature: a parameter in place of the objective's temperature. Its gradient is this worker's;
            that of the others is still to be averaged in.
    """
    texts = [ids.tolist() for ids in batch.tokens]
    own = list(batches_by_length([len(ids) for ids in texts], micro_batching.tokens))
    idle = own[-1][-1:]  # a worker with less to do than another repeats its shortest text, with gradient zero
    padded_tokens = [len(positions) * len(texts[positions[0]]) for positions in [*own, idle]]
    count, graphs = agree(
        padded_tokens[:-1], padded_tokens[-1], micro_batching.graph_tokens, embedder.device, group
    )
    micro_batches = own + [idle] * (count - len(own))

    def encode(number: int) -> torch.Tensor:
        return embedder(*embedder.pad([texts[position] for position in micro_batches[number]]))

    encoded = encode_all(encode, count, graphs, embedder.device)
    vectors = encoded[0].vector_BD.new_empty(len(texts), encoded[0].vector_BD.shape[1])
    for positions, micro_batch in zip(own, encoded, strict=False):
        vectors[positions] = micro_batch.vector_BD.detach()
    vectors.requires_grad_()
    result = contrastive_loss(
        contrastive_batch(batch, vectors), for_task(objective, batch.task), group,
        temperature=None if log_temperature is None else log_temperature.exp(),
    )  # fmt: skip
    (result.share * (weight * dist.get_world_size(group))).backward()
    assert vectors.grad is not None

    gradients = [vectors.grad[positions] for positions in micro_batches]
    for gradient in gradients[len(own) :]:
        gradient.zero_()
    backward_all(cast(FSDPModule, embedder), encode, encoded, gradients, micro_batching.gradient_sync)
    return result.statistics


def contrastive_batch(batch: WorkerBatch, vectors: torch.Tensor) -> ContrastiveBatch:
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
