"""Gradient cache (GradCache, arXiv 2101.06983) under FSDP2: batches of any size in the memory of a micro-batch.

The loss needs the vectors of the whole global batch, but its gradient reaches the encoder through one vector
at a time. So pass 1 encodes every micro-batch without a graph, the loss gives the gradient at each vector,
and pass 2 encodes every micro-batch again, with its graph, and goes backward from there. Micro-batches whose
graphs fit into memory together keep them from pass 1 and are not encoded twice.

All workers run the same number of micro-batches and keep the same number of graphs (`agree`): under FSDP2
every forward and every backward is a collective.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

Encode = Callable[[int], torch.Tensor]
"""The vectors [rows, D] of the micro-batch of a number."""

GradientSync = Literal["micro_batch", "step"]
"""When gradients are reduced over the workers, and how long gathered weights stay.

`micro_batch`: with every micro-batch; weights and gradients stay sharded. `step`: once, at the end; each
worker then holds all weights and gradients meanwhile, and a global batch costs one all-gather and one
reduce-scatter however many micro-batches it has.
"""


@dataclass(frozen=True)
class Encoded:
    """A micro-batch after pass 1.

    Attributes:
        vector_BD: with the graph behind it if that is kept.
        random_state: of the CPU and of the GPU if there is one, before it was encoded: what dropout drew from.
    """

    vector_BD: torch.Tensor
    random_state: tuple[torch.Tensor, torch.Tensor | None]


def agree(
    padded_tokens: Sequence[int],
    idle_tokens: int,
    graph_tokens: int,
    device: torch.device,
    group: dist.ProcessGroup,
) -> tuple[int, int]:
    """How many micro-batches every worker runs, and of how many, from the first, it keeps the graph.

    A collective. A worker with fewer micro-batches than another fills up with idle ones.

    Args:
        padded_tokens: of each of this worker's micro-batches.
        idle_tokens: of an idle one.
        graph_tokens: most tokens whose graph this worker keeps.
    """
    count = torch.tensor(len(padded_tokens), device=device)
    dist.all_reduce(count, dist.ReduceOp.MAX, group=group)
    idle = int(count) - len(padded_tokens)
    tokens = torch.tensor([*padded_tokens, *[idle_tokens] * idle])
    graphs = (tokens.cumsum(0) <= graph_tokens).sum().to(device)
    dist.all_reduce(graphs, dist.ReduceOp.MIN, group=group)
    return int(count), int(graphs)


def encode_all(encode: Encode, micro_batches: int, graphs: int, device: torch.device) -> list[Encoded]:
    """Pass 1: every micro-batch, the first `graphs` of them with their graphs."""
    encoded = []
    # The last one first: no kept graph lies in memory while others are encoded without one, and FSDP sees
    # backward passes in the reverse order of the forward ones.
    for number in reversed(range(micro_batches)):
        random_state = _random_state(device)
        with torch.set_grad_enabled(number < graphs):
            encoded.append(Encoded(encode(number), random_state))
    return encoded[::-1]


def backward_all(
    model: FSDPModule,
    encode: Encode,
    encoded: list[Encoded],
    gradients: Sequence[torch.Tensor],
    gradient_sync: GradientSync,
) -> None:
    """Pass 2: add to the parameters' gradients what the micro-batches' vectors owe.

    The random state is afterwards as pass 1 left it.

    Args:
        encoded: what `encode_all` gave.
        gradients: at the vectors of each micro-batch.
    """
    for number, (first, gradient_BD) in enumerate(zip(encoded, gradients, strict=True)):
        announce_backward(model, number == len(encoded) - 1, gradient_sync)
        vector_BD = first.vector_BD
        if not vector_BD.requires_grad:
            with _drawing_from(first.random_state, gradient_BD.device):
                vector_BD = encode(number)
        vector_BD.backward(gradient_BD)


def announce_backward(model: FSDPModule, last: bool, gradient_sync: GradientSync) -> None:
    """Tell FSDP what the next backward is: the last one of a step reduces gradients and gives weights back."""
    model.set_is_last_backward(last)
    model.set_requires_gradient_sync(last or gradient_sync == "micro_batch")
    model.set_reshard_after_backward(last or gradient_sync == "micro_batch")


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _drawing_from(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> Iterator[None]:
    cpu, cuda = state
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        yield
