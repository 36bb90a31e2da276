"""One global batch of pre-training on one worker: texts are corrupted, rebuilt in micro-batches, gradients added up."""

from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from components.objective.autoencoder import AutoEncoder, Corrupted, corrupt
from components.objective.kinds import Reconstruction
from components.training.batch import WorkerBatch
from components.training.gradient_cache import announce_backward
from components.training.micro_batches import MicroBatching, cut


def accumulate_reconstruction(
    autoencoder: AutoEncoder,
    batch: WorkerBatch,
    objective: Reconstruction,
    micro_batching: MicroBatching,
    group: dist.ProcessGroup,
    weight: float,
) -> dict[str, float]:
    """Add the gradient of L_enc + L_dec (RetroMAE, Eq. 7) to that of the parameters; return the loss's statistics.

    Each loss is the mean over its tokens in the global batch. The texts are the positives of the pairs. What is
    masked is drawn from torch's generator, the same however many micro-batches there are; what the decoder sees
    is drawn as it goes.

    Args:
        weight: of the batch among those that an optimizer step goes by.

    Returns:
        loss, encoder_loss, decoder_loss, rows; the same on every worker.
    """
    embedder, workers = autoencoder.embedder, dist.get_world_size(group)
    texts = [np.asarray(batch.tokens[len(batch) + row]) for row in range(len(batch))]
    rng = np.random.default_rng(int(torch.empty((), dtype=torch.int64).random_().item()))
    special = np.asarray(embedder.tokenizer.all_special_ids)
    mask_token = embedder.tokenizer.mask_token_id
    assert isinstance(mask_token, int)
    seen = [
        corrupt(text, objective.encoder_masked, special, mask_token, embedder.vocabulary_size, rng)
        for text in texts
    ]
    micro_batches = cut([len(text) for text in texts], micro_batching, 0, embedder.device, group)
    totals = torch.tensor(
        [len(texts), sum(text.masked.sum() for text in seen), sum(text.told.sum() for text in seen)],
        dtype=torch.float64,
        device=embedder.device,
    )
    dist.all_reduce(totals, group=group)
    rows, masked, told = totals.tolist()

    losses = torch.zeros(2, dtype=torch.float64, device=embedder.device)
    root = cast(FSDPModule, autoencoder)
    for number, chosen in enumerate(micro_batches.texts):
        announce_backward(root, number == len(micro_batches) - 1, micro_batching.gradient_sync)
        encoder, decoder = _losses(
            autoencoder, [texts[row] for row in chosen], [seen[row] for row in chosen], objective
        )
        loss = encoder / max(masked, 1) + decoder / max(told, 1)
        (loss * (weight * workers * (number < micro_batches.busy))).backward()
        if number < micro_batches.busy:
            losses += torch.stack([encoder.detach(), decoder.detach()]).double()
    dist.all_reduce(losses, group=group)
    encoder_loss, decoder_loss = losses[0].item() / max(masked, 1), losses[1].item() / max(told, 1)
    return {
        "loss": encoder_loss + decoder_loss,
        "encoder_loss": encoder_loss,
        "decoder_loss": decoder_loss,
        "rows": rows,
    }


def _losses(
    autoencoder: AutoEncoder, texts: list[np.ndarray], seen: list[Corrupted], objective: Reconstruction
) -> tuple[torch.Tensor, torch.Tensor]:
    embedder = autoencoder.embedder
    token_BT, attention_mask_BT = embedder.pad([text.tolist() for text in texts])
    shown_BT, _ = embedder.pad([text.ids.tolist() for text in seen])
    masked_BT, told_BT = (
        embedder.pad([getattr(text, name).astype(int).tolist() for text in seen])[0]
        for name in ("masked", "told")
    )
    real_BT = attention_mask_BT.bool()
    return autoencoder(
        token_BT, shown_BT, masked_BT.bool() & real_BT, told_BT.bool() & real_BT, attention_mask_BT,
        objective.decoder_masked,
    )  # fmt: skip
