"""Model-FLOPs utilisation: the arithmetic that a step needs over what the devices could do in its time.

Counted as in PaLM (arXiv 2204.02311, appendix B): 6 FLOPs a weight and token for forward and backward, 4 if the
weight is frozen, plus the attention's two products. Padding, recomputation and embedding look-ups count for
nothing.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from components.model.backbone import is_causal, transformer_blocks
from components.model.linear import outruns_mkl, use_onednn


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of forward and backward: so many a token, and so many a pair of a text's tokens."""

    a_token: float
    a_pair: float

    def of(self, lengths: np.ndarray) -> float:
        """For texts of these lengths (tokens)."""
        lengths = lengths.astype(np.float64)
        return float(self.a_token * lengths.sum() + self.a_pair * (lengths**2).sum())


def count_flops(backbone: PreTrainedModel) -> TrainingFlops:
    """What one text costs, by the backbone's matrices, as it is prepared for training, before it is sharded.

    With causal attention half of the pairs count, those that are needed.
    """
    config, blocks = backbone.config, transformer_blocks(backbone)
    matrices = [parameter for parameter in blocks.parameters() if parameter.ndim == 2]
    a_token = sum((6 if matrix.requires_grad else 4) * matrix.numel() for matrix in matrices)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Two products, queries by keys and weights by values, of 2 FLOPs forward and 4 backward.
    a_pair = 12 * len(blocks) * config.num_attention_heads * head_size
    return TrainingFlops(a_token=a_token, a_pair=a_pair / 2 if is_causal(backbone) else a_pair)


def matrix_product_rate(dtype: torch.dtype, device: torch.device, group: dist.ProcessGroup) -> float:
    """FLOPs a second that the devices of all workers reach together in a square linear layer. A collective.

    The best of several tries on all workers at once: what they share in training they share here.
    """
    size, tries = (8192, 10) if device.type == "cuda" else (1024, 40)
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(size, size, device=device, generator=generator).to(dtype)
    layer = nn.utils.skip_init(nn.Linear, size, size, bias=False, device=device, dtype=dtype)
    layer.weight = nn.Parameter(matrix, requires_grad=False)
    if outruns_mkl():
        use_onednn(layer)
    dist.barrier(group)
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        layer(matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    rate = torch.tensor(2 * size**3 / min(seconds), dtype=torch.float64, device=device)
    dist.all_reduce(rate, group=group)
    return float(rate)
