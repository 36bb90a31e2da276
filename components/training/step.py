"""One global batch on one worker: its texts in micro-batches, their vectors, the loss, the gradients."""

from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from components.model.embedder import Embedder
from components.objective.batch_loss import BatchLoss
from components.objective.contrastive import ContrastiveBatch
from components.objective.distributed import contrastive_loss
from components.objective.kinds import Classification, Regression
from components.objective.objective import Objective, for_task
from components.objective.pairs import PairClassifier, classification_loss, regression_loss, scored_pairs
from components.training.batch import WorkerBatch
from components.training.gradient_cache import backward_all, encode_all
from components.training.micro_batches import MicroBatching, cut


def accumulate_gradients(
    embedder: Embedder,
    batch: WorkerBatch,
    objective: Objective | Classification | Regression,
    micro_batching: MicroBatching,
    group: dist.ProcessGroup,
    weight: float = 1.0,
) -> dict[str, float]:
    """Add the gradient of the global batch's loss to that of the parameters; return the loss's statistics.

    `embedder` is sharded by FSDP2, which averages gradients over the workers: hence the factor on the loss. The
    gradient of the loss's own parameters is this worker's; that of the others is still to be averaged in.

    Args:
        weight: of the batch among those that an optimizer step goes by.
    """
    texts = [ids.tolist() for ids in batch.tokens]
    micro_batches = cut(
        [len(ids) for ids in texts], micro_batching, micro_batching.graph_tokens, embedder.device, group
    )

    def encode(number: int) -> torch.Tensor:
        return embedder(*embedder.pad([texts[text] for text in micro_batches.texts[number]]))

    encoded = encode_all(encode, len(micro_batches), micro_batches.graphs, embedder.device)
    vectors = micro_batches.outputs(encoded)
    result = batch_loss(embedder, batch, vectors, objective, group)
    (result.share * (weight * dist.get_world_size(group))).backward()
    gradients = micro_batches.gradients(vectors)
    backward_all(cast(FSDPModule, embedder), encode, encoded, gradients, micro_batching.gradient_sync)
    return result.statistics


def batch_loss(
    embedder: Embedder,
    batch: WorkerBatch,
    vectors: torch.Tensor,
    objective: Objective | Classification | Regression,
    group: dist.ProcessGroup,
) -> BatchLoss:
    """The loss of `vectors` of `batch.tokens`, over all workers, by the objective and the parameters it has of its own.

    Those are `log_temperature` and `classifier` of the embedder.
    """
    if isinstance(objective, Objective):
        log_temperature = getattr(embedder, "log_temperature", None)
        return contrastive_loss(
            contrastive_batch(batch, vectors), for_task(objective, batch.task), group,
            temperature=None if log_temperature is None else log_temperature.exp(),
        )  # fmt: skip
    B, device = len(batch), vectors.device
    pairs = scored_pairs(
        vectors[:B],
        vectors[B : 2 * B],
        vectors[2 * B :],
        torch.from_numpy(batch.negative_rows).to(device),
        torch.from_numpy(batch.scores).to(device),
    )
    if isinstance(objective, Regression):
        return regression_loss(pairs, objective, group)
    return classification_loss(pairs, objective, cast(PairClassifier, embedder.classifier), group)


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
