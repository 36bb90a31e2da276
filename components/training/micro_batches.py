"""A worker's texts in micro-batches. All workers have the same number: under FSDP2 a forward is a collective."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from components.model.tokens import batches_by_length
from components.training.gradient_cache import Encoded, GradientSync, agree


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


@dataclass(frozen=True)
class MicroBatches:
    """Texts of this worker by number, micro-batch by micro-batch.

    Attributes:
        texts: int64 arrays. A worker with less to do than another repeats its shortest text in idle ones, at the end.
        busy: how many are not idle.
        graphs: how many, from the first, keep their graph between the passes of the gradient cache.
    """

    texts: list[np.ndarray]
    busy: int
    graphs: int

    def __len__(self) -> int:
        return len(self.texts)

    def outputs(self, encoded: Sequence[Encoded]) -> torch.Tensor:
        """What pass 1 gave for each text, [texts, ...] in their order: a leaf that a loss can be computed from."""
        first = encoded[0].vector_BD
        count = sum(len(texts) for texts in self.texts[: self.busy])
        outputs = first.new_empty(count, *first.shape[1:])
        for texts, found in zip(self.texts[: self.busy], encoded, strict=False):
            outputs[texts] = found.vector_BD.detach()
        return outputs.requires_grad_()

    def gradients(self, outputs: torch.Tensor) -> list[torch.Tensor]:
        """The gradient at `outputs`, micro-batch by micro-batch, 0 where one is idle."""
        assert outputs.grad is not None
        found = [outputs.grad[texts] for texts in self.texts]
        for idle in found[self.busy :]:
            idle.zero_()
        return found


def cut(
    lengths: Sequence[int],
    micro_batching: MicroBatching,
    graph_tokens: int,
    device: torch.device,
    group: dist.ProcessGroup,
) -> MicroBatches:
    """Micro-batches of texts of such lengths. A collective.

    Args:
        lengths: tokens of each text.
        graph_tokens: as of `MicroBatching`; 0 where there is one pass alone.
    """
    own = list(batches_by_length(lengths, micro_batching.tokens))
    idle = own[-1][-1:]
    padded = [len(texts) * lengths[texts[0]] for texts in [*own, idle]]
    count, graphs = agree(padded[:-1], padded[-1], graph_tokens, device, group)
    return MicroBatches(own + [idle] * (count - len(own)), len(own), graphs)
