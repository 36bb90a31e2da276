"""What a merge came to: angles and norms of its inputs, and in words whether it was more than an average."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from components.merge.tensor import TensorMerge

IN_EFFECT_AVERAGE = 0.05
"""Of the distance from the average to the inputs: a result nearer to the average is called one."""


def summarise(tensors: Sequence[TensorMerge]) -> dict[str, float]:
    """The figures of `merge_checkpoints` over its tensors."""
    sizes = np.array([tensor.elements for tensor in tensors], dtype=np.float64)
    with_angles = [tensor for tensor in tensors if tensor.angles]
    ratios = [tensor.norm_ratio for tensor in tensors if np.isfinite(tensor.norm_ratio)]
    return {
        "tensors": float(len(tensors)),
        "angle_mean": float(
            np.average([np.mean(t.angles) for t in with_angles], weights=[t.elements for t in with_angles])
        )
        if with_angles
        else 0.0,
        "angle_max": max((max(t.angles) for t in with_angles), default=0.0),
        "norm_ratio_max": max(ratios, default=1.0),
        "from_average": float(np.average([t.from_average for t in tensors], weights=sizes)),
        "of_spread": float(np.average([t.of_spread for t in tensors], weights=sizes)),
        "tensors_averaged": float(sum(t.is_average for t in tensors)),
    }


def in_words(figures: dict[str, float], models: int) -> str:
    """The figures of `summarise` in sentences."""
    if models == 1:
        return "One model was given: the result is that model."
    mean, largest = figures["angle_mean"], figures["angle_max"]
    apart = f"The models lie {mean:.2f}° apart in the mean over all weights, {largest:.2f}° at most."
    distance = (
        f"The result is {100 * figures['from_average']:.3f} % of its norm away from their plain average, "
        f"{100 * figures['of_spread']:.1f} % of the distance between that average and the models"
    )
    verdict = (
        "in effect this merge was an average."
        if figures["of_spread"] < IN_EFFECT_AVERAGE
        else "it is another model than their average."
    )
    averaged = int(figures["tensors_averaged"])
    cancelled = f" In {averaged} tensors the directions cancel: there it is the average." if averaged else ""
    return f"{apart} {distance}: {verdict}{cancelled}"


def angle_table(tensors: Sequence[TensorMerge]) -> pa.Table:
    """A row a tensor; a tensor that no model moved has no angle."""
    angles = [float(np.mean(tensor.angles)) if tensor.angles else None for tensor in tensors]
    return pa.table(
        {
            "tensor": [tensor.name for tensor in tensors],
            "angle_degrees": pa.array(angles, pa.float64()),
            "norm_ratio": pa.array([tensor.norm_ratio for tensor in tensors], pa.float64()),
            "from_average": pa.array([tensor.from_average for tensor in tensors], pa.float64()),
            "of_spread": pa.array([tensor.of_spread for tensor in tensors], pa.float64()),
        }
    )


def rows(tensors: Sequence[TensorMerge]) -> list[dict[str, object]]:
    """Each tensor as JSON, every angle between two models included."""
    return [
        {
            "tensor": tensor.name,
            "shape": list(tensor.shape),
            "angles": [round(angle, 4) for angle in tensor.angles],
            "norm_ratio": round(tensor.norm_ratio, 6) if np.isfinite(tensor.norm_ratio) else None,
            "from_average": round(tensor.from_average, 6),
            "of_spread": round(tensor.of_spread, 6),
            "averaged": tensor.averaged,
        }
        for tensor in tensors
    ]


def angle_figure(tensors: Sequence[TensorMerge]) -> Figure:
    """Angles between the inputs, tensor by tensor in the order of the model's files."""
    shown = [tensor for tensor in tensors if tensor.angles]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    positions = range(len(shown))
    axes.vlines(positions, [min(t.angles) for t in shown], [max(t.angles) for t in shown], color="0.7")
    matrices = [len(t.shape) > 1 for t in shown]
    for label, chosen, colour in (("matrices", True, "C0"), ("biases and norms", False, "C1")):
        at = [i for i in positions if matrices[i] == chosen]
        axes.plot(at, [np.mean(shown[i].angles) for i in at], ".", color=colour, label=label)
    axes.set(xlabel="tensor", ylabel="angle between models (degrees)", ylim=(0, None))
    axes.legend()
    return figure
