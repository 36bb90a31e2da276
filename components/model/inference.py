"""Models where nothing is trained: in the precision that they compute in, their weights laid out for it once."""

from pathlib import Path

import torch
from torch import nn

from components.model.embedder import DTYPES, ComputePrecision, Embedder
from components.model.int8 import use_int8
from components.model.linear import pack_linear
from components.model.prompt import RerankerSpec
from components.model.reranker import Reranker, load_reranker
from components.model.unpadded import leave_out_padding


def inference_embedder(
    directory: str | Path, precision: ComputePrecision = "float32", device: str = "cpu"
) -> Embedder:
    """An embedder that encodes, and can neither be trained nor saved.

    Raises:
        ValueError: as `Embedder.load`; weights are not finite; or the processor has no int8.
    """
    embedder = Embedder.load(directory, DTYPES[precision], device)
    _check_finite(embedder, directory)
    leave_out_padding(embedder)
    _lay_out(embedder.blocks(), precision)
    return embedder


def inference_reranker(
    directory: str | Path,
    precision: ComputePrecision = "float32",
    device: str = "cpu",
    spec: RerankerSpec | None = None,
    length: int | None = None,
) -> Reranker:
    """A reranker that scores, and can neither be trained nor saved; arguments and errors as of `load_reranker`."""
    reranker = load_reranker(directory, DTYPES[precision], device, spec, length)
    _lay_out(reranker.blocks(), precision)
    return reranker


def _check_finite(embedder: Embedder, directory: str | Path) -> None:
    """Here, and not only by what comes out: of a few tokens with no mask torch's attention on a CPU hides a NaN."""
    for name, weight in embedder.named_parameters():
        if not torch.isfinite(weight.detach().sum(dtype=torch.float64)):
            raise ValueError(f"{directory} holds weights that are not finite, the first of them in {name}")


def _lay_out(blocks: nn.ModuleList, precision: ComputePrecision) -> None:
    if precision == "int8":
        use_int8(blocks)
    else:
        pack_linear(blocks)
