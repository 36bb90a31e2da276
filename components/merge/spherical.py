"""The merge step: one model out of the checkpoints of a stage, by a spherical mean of every tensor.

For every tensor the directions of the inputs are averaged on the sphere (`components/merge/karcher.py`),
their norms in the ordinary way, both by weight. In task space the inputs are the differences from the
weights before the stage (W - W_before), and the mean is added to those; in weight space they are the
weights themselves. The result does not depend on the order of the checkpoints. With two of the same norm it
is their slerp.
"""

import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure

from components.merge.karcher import karcher_coefficients
from components.merge.weights import Weights, check_same
from components.model.embedder import Embedder
from components.monitor import Monitor
from components.storage import Folder

Space = Literal["task", "weight"]

_BLOCK = 1 << 22  # elements that are held in float64 at once
_ANGLES_FILE = "merge_angles.json"


@dataclass(frozen=True)
class TensorMerge:
    """How the inputs of one tensor stand to one another and to the result.

    Attributes:
        name, shape: of the tensor.
        angles: degrees between each two inputs; empty where fewer than two have a direction.
        norm_ratio: greatest over smallest norm of the inputs; infinite where one of them is zero.
        from_average: distance of the result from the plain weighted average, over the norm of that average.
        is_average: the directions cancel or oppose one another, so the plain average was taken.
    """

    name: str
    shape: tuple[int, ...]
    angles: tuple[float, ...]
    norm_ratio: float
    from_average: float
    is_average: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def merge_checkpoints(
    *,
    checkpoints: Folder,
    base: Folder,
    space: Space = "task",
    weights: list[float] | None = None,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Merge the model directories `checkpoints/*` of a training stage into one model directory.

    One tensor is in memory at a time. Tensors of integers are copied. Tokenizer, pooling, prompts and
    encoding are those of the checkpoints; digest, space id and golden vectors are made anew.

    Args:
        checkpoints: what `train_stage` wrote.
        base: the model that the stage started from; used in task space.
        weights: one for each checkpoint in the order of their names, at least 0; None: all the same.

    Returns:
        checkpoints, tensors, angle_mean and angle_max (degrees between inputs, over tensors by their size),
        norm_ratio_max, from_average (relative distance from the plain average, over tensors by size),
        tensors_averaged.

    Raises:
        ValueError: no checkpoint, wrong weights, or tensors that differ in name, shape or dtype.
    """
    if space not in get_args(Space):
        raise ValueError(f"space is {space!r}; it must be one of {get_args(Space)}")
    names = checkpoints.names("checkpoints/*")
    if not names:
        raise ValueError(f"{checkpoints.uri} has no checkpoints to merge; let the stage keep some")
    shares = _shares(weights, len(names))
    with ExitStack() as stack:
        inputs = [stack.enter_context((checkpoints / name).local()) for name in names]
        origin = stack.enter_context(base.local()) if space == "task" else None
        merged = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        shutil.copytree(inputs[-1], merged)
        tensors = list(merge_weights(inputs, origin, shares, merged, monitor))
        with output.writable() as directory:
            # Loaded and saved once: that renews digest, space id and golden vectors.
            Embedder.load(merged, dtype=_dtype(merged)).save(directory)
    monitor.artifact(_ANGLES_FILE, json.dumps([_row(tensor) for tensor in tensors], indent=1).encode())
    output.write_table("angles.parquet", _angle_table(tensors))
    if len(names) > 1:
        monitor.figure("merge_angles.png", _figure(tensors))
    return {"checkpoints": float(len(names)), **summarise(tensors)}


def merge_weights(
    inputs: Sequence[Path], base: Path | None, shares: np.ndarray, target: Path, monitor: Monitor
) -> Iterator[TensorMerge]:
    """Replace the tensors in `target`'s safetensors files, a copy of the last input's, by the merged ones.

    Yields what became of each float tensor.

    Raises:
        ValueError: tensors that differ in name, shape or dtype, or integers that differ in value.
    """
    sources = [Weights(path) for path in ([] if base is None else [base]) + list(inputs)]
    checkpoints = sources if base is None else sources[1:]
    for other in sources[:-1]:
        # the stage may have started from weights of less precision than it keeps
        check_same(sources[-1], other, dtypes=other in checkpoints)
    for number, name in enumerate(sources[-1].names):
        tensors = [source.read(name) for source in checkpoints]
        start = None if base is None else sources[0].read(name)
        if not tensors[0].is_floating_point():
            if any(not torch.equal(tensor, tensors[-1]) for tensor in tensors):
                raise ValueError(f"the integers of {name} differ between checkpoints and cannot be merged")
        else:
            merged, report = merge_tensor(name, tensors, start, shares)
            sources[-1].write(name, merged, target)
            yield report
        monitor.progress(number + 1, len(sources[-1].names), "tensors")


def merge_tensor(
    name: str, tensors: Sequence[torch.Tensor], base: torch.Tensor | None, shares_N: np.ndarray
) -> tuple[torch.Tensor, TensorMerge]:
    """The spherical mean of tensors of one shape, in float64, returned in their dtype.

    Directions of inputs that are zero do not count; their norm does. Where the mean is not unique (opposite
    directions) it is the plain weighted average.

    Args:
        base: subtracted before and added after; None: nothing.
        shares_N: float64 weights that sum up to 1.
    """
    inputs = [tensor.flatten() for tensor in tensors]
    start = None if base is None else base.flatten()
    N, elements = len(inputs), inputs[0].numel()
    gram_NN = np.zeros((N, N))
    for block_NE in _blocks(inputs, start):
        gram_NN += (block_NE @ block_NE.T).numpy()
    norm_N = np.sqrt(np.diag(gram_NN))

    moved = norm_N > 0
    scale_N = np.divide(1.0, norm_N, out=np.zeros(N), where=moved)
    cosine_NN = np.clip(gram_NN * np.outer(scale_N, scale_N), -1.0, 1.0)
    direction_N = None
    if shares_N[moved].sum() > 0:
        inner = np.ix_(moved, moved)
        direction_N = karcher_coefficients(cosine_NN[inner], shares_N[moved] / shares_N[moved].sum())
    coefficient_N = shares_N.copy()
    if direction_N is not None:
        coefficient_N[:] = 0.0
        coefficient_N[moved] = direction_N * scale_N[moved] * (shares_N @ norm_N)

    merged = torch.empty(elements, dtype=tensors[0].dtype)
    position = 0
    for block_NE in _blocks(inputs, start):
        here = slice(position, position := position + block_NE.shape[1])
        result = torch.from_numpy(coefficient_N) @ block_NE
        merged[here] = (result if start is None else start[here].double() + result).to(merged.dtype)

    gap_N = coefficient_N - shares_N
    average_norm = np.sqrt(max(shares_N @ gram_NN @ shares_N, 0.0))
    report = TensorMerge(
        name=name,
        shape=tuple(tensors[0].shape),
        angles=tuple(
            float(np.degrees(np.arccos(cosine_NN[i, j])))
            for i, j in itertools.combinations(np.flatnonzero(moved), 2)
        ),
        norm_ratio=float(norm_N.max() / norm_N.min()) if moved.all() else float("inf" if moved.any() else 1),
        from_average=float(np.sqrt(max(gap_N @ gram_NN @ gap_N, 0.0)) / average_norm)
        if average_norm
        else 0.0,
        is_average=bool(moved.any()) and direction_N is None,
    )
    return merged.reshape(tensors[0].shape), report


def summarise(tensors: Sequence[TensorMerge]) -> dict[str, float]:
    """The figures of `merge_checkpoints` over its tensors."""
    sizes = np.array([tensor.elements for tensor in tensors], dtype=np.float64)
    with_angles = [(tensor, size) for tensor, size in zip(tensors, sizes, strict=True) if tensor.angles]
    ratios = [tensor.norm_ratio for tensor in tensors if np.isfinite(tensor.norm_ratio)]
    return {
        "tensors": float(len(tensors)),
        "angle_mean": float(
            np.average([np.mean(t.angles) for t, _ in with_angles], weights=[size for _, size in with_angles])
        )
        if with_angles
        else 0.0,
        "angle_max": max((max(t.angles) for t, _ in with_angles), default=0.0),
        "norm_ratio_max": max(ratios, default=1.0),
        "from_average": float(np.average([t.from_average for t in tensors], weights=sizes)),
        "tensors_averaged": float(sum(t.is_average for t in tensors)),
    }


def _shares(weights: list[float] | None, count: int) -> np.ndarray:
    if weights is None:
        return np.full(count, 1 / count)
    shares = np.array(weights, dtype=np.float64)
    if len(shares) != count or not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() <= 0:
        raise ValueError(
            f"weights are {weights}; they must be {count} numbers of at least 0, one a checkpoint, not all 0"
        )
    return shares / shares.sum()


def _blocks(inputs: Sequence[torch.Tensor], base: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """Float64 [N, elements of the block], the base subtracted."""
    for begin in range(0, inputs[0].numel(), _BLOCK):
        block_NE = torch.stack([tensor[begin : begin + _BLOCK].double() for tensor in inputs])
        yield block_NE if base is None else block_NE - base[begin : begin + _BLOCK].double()


def _dtype(directory: Path) -> torch.dtype:
    weights = Weights(directory)
    return next(dtype for name in weights.names if (dtype := weights.dtype(name)).is_floating_point)


def _angle_table(tensors: Sequence[TensorMerge]) -> pa.Table:
    """A row a tensor; a tensor that no checkpoint moved has no angle."""
    return pa.table(
        {
            "tensor": [tensor.name for tensor in tensors],
            "angle_degrees": pa.array(
                [float(np.mean(tensor.angles)) if tensor.angles else None for tensor in tensors], pa.float64()
            ),
            "norm_ratio": pa.array([tensor.norm_ratio for tensor in tensors], pa.float64()),
            "from_average": pa.array([tensor.from_average for tensor in tensors], pa.float64()),
        }
    )


def _row(tensor: TensorMerge) -> dict[str, object]:
    return {
        "tensor": tensor.name,
        "shape": list(tensor.shape),
        "angles": [round(angle, 4) for angle in tensor.angles],
        "norm_ratio": round(tensor.norm_ratio, 6) if np.isfinite(tensor.norm_ratio) else None,
        "from_average": round(tensor.from_average, 6),
        "is_average": tensor.is_average,
    }


def _figure(tensors: Sequence[TensorMerge]) -> Figure:
    """Angles between the inputs, tensor by tensor in the order of the model's names."""
    shown = [tensor for tensor in tensors if tensor.angles]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    positions = range(len(shown))
    axes.vlines(positions, [min(t.angles) for t in shown], [max(t.angles) for t in shown], color="0.7")
    matrices = [len(t.shape) > 1 for t in shown]
    for label, chosen, colour in (("matrices", True, "C0"), ("biases and norms", False, "C1")):
        at = [i for i in positions if matrices[i] == chosen]
        axes.plot(at, [np.mean(shown[i].angles) for i in at], ".", color=colour, label=label)
    axes.set(xlabel="tensor", ylabel="angle between checkpoints (degrees)", ylim=(0, None))
    axes.legend()
    return figure
