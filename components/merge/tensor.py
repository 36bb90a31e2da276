"""The merge of one tensor: in pieces, in float64, whole or row by row.

Two passes over the inputs: the first takes their inner products, from which the coefficients follow, the second
adds the inputs up by them. Pieces fit the processor's cache; of a large tensor nothing is held in between.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from components.merge.karcher import karcher_coefficients, slerp_coefficients

Method = Literal["karcher", "slerp", "linear"]
Granularity = Literal["tensor", "row"]
Read = Callable[[int, int], torch.Tensor]
"""Elements from the first number up to the second of a tensor laid out in one line; good until the next call."""
Write = Callable[[torch.Tensor], None]

HELD = 1 << 23  # elements of an input that are read at once, and kept between the passes if they are all
_PIECE = 1 << 17  # elements of all inputs together that are held in float64


@dataclass(frozen=True)
class TensorMerge:
    """How the inputs of one tensor stand to one another and to the result.

    Attributes:
        name, shape: of the tensor.
        angles: degrees between each two inputs; empty where fewer than two have a direction.
        norm_ratio: greatest over smallest norm of the inputs; infinite where one of them is zero.
        from_average: distance of the result from the plain weighted average, over the norm of that average.
        of_spread: the same distance over that of the farthest input (of those with a weight) from the average.
        averaged: how many directions (1 a tensor, or 1 a row) had no mean on the sphere, because they cancel or
            oppose one another; the plain average was taken.
    """

    name: str
    shape: tuple[int, ...]
    angles: tuple[float, ...]
    norm_ratio: float
    from_average: float
    of_spread: float
    averaged: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_average(self) -> bool:
        return self.averaged > 0


def merge_tensor(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    inputs: Sequence[Read],
    base: Read | None,
    shares_N: np.ndarray,
    method: Method,
    per: Granularity,
    write: Write,
) -> TensorMerge:
    """Merge N tensors of one shape.

    `karcher`: the mean of the directions on the sphere, by weight, times the mean of the norms. `slerp`:
    Shoemake's formula on two tensors as they are. `linear`: the weighted average. Inputs that are zero have no
    direction and do not count in that mean; their norm does. Where there is no one mean, it is the plain average.

    Args:
        dtype: of the result.
        inputs, base: float tensors; the base is subtracted before and added after.
        shares_N: float64 weights that sum up to 1.
        per: `row`: each row of a matrix (of all axes but the first) is merged by itself.
        write: gets the result piece by piece, in order.

    Raises:
        ValueError: an input holds NaN or infinity.
    """
    elements = math.prod(shape)
    rows = shape[0] if per == "row" and len(shape) > 1 and elements else 1
    pieces = _Pieces(inputs, base, rows, elements // rows)
    gram_RNN = np.zeros((rows, len(inputs), len(inputs)))
    for first, last, piece_NRC in pieces:
        piece_RNC = piece_NRC.transpose(0, 1)
        gram_RNN[first:last] += (piece_RNC @ piece_RNC.mT).numpy()
    if not np.isfinite(gram_RNN).all():
        raise ValueError(f"the tensor {name} holds NaN or infinity in one of the models")
    coefficients_RN, averaged = _coefficients(gram_RNN, shares_N, method)
    for first, last, piece_NRC in pieces:
        coefficient_NR1 = torch.from_numpy(coefficients_RN[first:last].T[:, :, None])
        result_RC = piece_NRC[0].mul_(coefficient_NR1[0])
        for piece_RC, coefficient_R1 in zip(piece_NRC[1:], coefficient_NR1[1:], strict=True):
            result_RC.addcmul_(piece_RC, coefficient_R1)
        if pieces.start_RC is not None:
            result_RC += pieces.start_RC
        write(result_RC.to(dtype).flatten())
    return _report(name, shape, gram_RNN, coefficients_RN, shares_N, averaged)


class _Pieces:
    """The inputs, the base subtracted, as float64 [N, rows, columns of the piece] with the rows' numbers.

    A piece may be written to, and is good until the next one.
    """

    def __init__(self, inputs: Sequence[Read], base: Read | None, rows: int, columns: int) -> None:
        self._inputs = [*inputs, base] if base is not None else list(inputs)
        self._has_base = base is not None
        self._rows, self._columns = rows, columns
        self._held: list[torch.Tensor] | None = None
        self.start_RC: torch.Tensor | None = None
        """The base's elements of the piece that was given last."""

    def __iter__(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        elements = self._rows * self._columns
        line = self._columns if self._rows > 1 else 1  # a read or a piece is whole rows
        at_once = max(line, HELD // line * line)
        piece = max(line, _PIECE // len(self._inputs) // line * line)
        # One array for all pieces: fresh memory costs more than what is done with it.
        block = torch.empty(len(self._inputs), min(piece, elements), dtype=torch.float64)
        for start in range(0, elements, at_once):
            stop = min(start + at_once, elements)
            held = self._held or [read(start, stop) for read in self._inputs]
            if stop - start == elements:
                self._held = held
            for begin in range(0, stop - start, piece):
                end = min(begin + piece, stop - start)
                for number, tensor in enumerate(held):
                    block[number, : end - begin] = tensor[begin:end]
                first, last = ((start + begin) // line, (start + end) // line) if self._rows > 1 else (0, 1)
                block_NRC = block[:, : end - begin].view(len(held), last - first, -1)
                if self._has_base:
                    self.start_RC = block_NRC[-1]
                    block_NRC = block_NRC[:-1].sub_(self.start_RC)
                yield first, last, block_NRC


def _coefficients(gram_RNN: np.ndarray, shares_N: np.ndarray, method: Method) -> tuple[np.ndarray, int]:
    """What each input is multiplied by, [R, N], and for how many of the R there was no mean on the sphere."""
    norm_RN = np.sqrt(np.diagonal(gram_RNN, axis1=1, axis2=2))
    coefficients_RN = np.tile(shares_N, (len(gram_RNN), 1))
    if method == "linear":
        return coefficients_RN, 0
    moved_RN = norm_RN > 0
    scale_RN = np.divide(1.0, norm_RN, out=np.zeros_like(norm_RN), where=moved_RN)
    cosine_RNN = np.clip(gram_RNN * scale_RN[:, :, None] * scale_RN[:, None, :], -1.0, 1.0)
    if method == "slerp":
        mixed_R = moved_RN.all(axis=1)
        found_RN, unique_R = slerp_coefficients(cosine_RNN[mixed_R, 0, 1], float(shares_N[1]))
    else:
        weights_RN = shares_N * moved_RN
        mixed_R = weights_RN.sum(axis=1) > 0
        weights_RN = weights_RN[mixed_R] / weights_RN[mixed_R].sum(axis=1, keepdims=True)
        found_RN, unique_R = karcher_coefficients(cosine_RNN[mixed_R], weights_RN)
        found_RN *= scale_RN[mixed_R] * (norm_RN[mixed_R] @ shares_N)[:, None]
    coefficients_RN[np.flatnonzero(mixed_R)[unique_R]] = found_RN[unique_R]
    return coefficients_RN, int((~unique_R).sum())


def _report(
    name: str,
    shape: tuple[int, ...],
    gram_RNN: np.ndarray,
    coefficients_RN: np.ndarray,
    shares_N: np.ndarray,
    averaged: int,
) -> TensorMerge:
    gram_NN = gram_RNN.sum(axis=0)
    norm_N = np.sqrt(np.diag(gram_NN))
    moved = np.flatnonzero(norm_N > 0)
    angles = []
    for i, first in enumerate(moved):
        for second in moved[i + 1 :]:
            cosine = gram_NN[first, second] / (norm_N[first] * norm_N[second])
            angles.append(float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))))

    def length(difference_RN: np.ndarray) -> float:
        squares = np.einsum("rn,rnm,rm->", difference_RN, gram_RNN, difference_RN)
        return float(np.sqrt(max(squares, 0.0)))

    average_RN = np.tile(shares_N, (len(gram_RNN), 1))
    gap, average_norm = length(coefficients_RN - average_RN), length(average_RN)
    inputs = [np.eye(len(shares_N))[n] for n in np.flatnonzero(shares_N)]
    spread = max(length(own_N - average_RN) for own_N in inputs)
    return TensorMerge(
        name=name,
        shape=shape,
        angles=tuple(angles),
        norm_ratio=_ratio(norm_N),
        from_average=gap / average_norm if average_norm else 0.0,
        of_spread=gap / spread if spread > 1e-9 * average_norm else 0.0,
        averaged=averaged,
    )


def _ratio(norm_N: np.ndarray) -> float:
    if not norm_N.max():
        return 1.0
    return float(norm_N.max() / norm_N.min()) if norm_N.min() else math.inf
