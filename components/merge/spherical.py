"""The merge step: one model out of the checkpoints of a stage.

By default the directions of every tensor are averaged on the sphere (`karcher.py`), their norms in the ordinary
way, both by weight. In task space the inputs are the differences from the weights before the stage (W - W_before),
and the mean is added to those; in weight space they are the weights themselves. The result does not depend on the
order of the checkpoints. With two of the same norm it is their slerp.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal, get_args

from components.merge.diagnosis import angle_figure, angle_table, in_words, rows, summarise
from components.merge.models import Merging, merge_models
from components.merge.shares import make_shares
from components.merge.tensor import Granularity, Method, TensorMerge
from components.monitor import Monitor
from components.storage import Folder

Space = Literal["task", "weight"]

_ANGLES_FILE = "merge_angles.json"
_WORDS_FILE = "merge.txt"


def merge_checkpoints(
    *,
    checkpoints: Folder,
    base: Folder,
    space: Space = "task",
    method: Method = "karcher",
    per: Granularity = "tensor",
    weights: Sequence[float] | None = None,
    layer_weights: Mapping[str, Sequence[float]] | None = None,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Merge the model directories `checkpoints/*` of a training stage into one model directory.

    Args:
        checkpoints: what `train_stage` wrote.
        base: the model that the stage started from; used in task space.
        method, per: as of `tensor.merge_tensor`.
        weights: one for each checkpoint in the order of their names, at least 0; None: all the same.
        layer_weights: others for some tensors, by a pattern of their names; the first that fits counts.

    Returns:
        checkpoints, tensors, angle_mean and angle_max (degrees between inputs, over tensors by their size),
        norm_ratio_max, from_average (distance of the result from the plain average, over its norm, over tensors by
        size), of_spread (the same over the distance of the checkpoints from that average), tensors_averaged.

    Raises:
        ValueError: no checkpoint, wrong weights, or tensors that differ in name, shape or dtype.
    """
    if space not in get_args(Space):
        raise ValueError(f"space is {space!r}; it must be one of {get_args(Space)}")
    names = checkpoints.names("checkpoints/*")
    if not names:
        raise ValueError(f"{checkpoints.uri} has no checkpoints to merge; let the stage keep some")
    merging = Merging(make_shares(weights, len(names), layer_weights), method, per)
    with ExitStack() as stack:
        models = [stack.enter_context((checkpoints / name).local()) for name in names]
        origin = stack.enter_context(base.local()) if space == "task" else None
        directory = stack.enter_context(output.writable())
        tensors = merge_models(models, origin, directory, merging, monitor)
    return {"checkpoints": float(len(names)), **write_diagnosis(tensors, len(names), output, monitor)}


def write_diagnosis(
    tensors: Sequence[TensorMerge], models: int, output: Folder, monitor: Monitor
) -> dict[str, float]:
    """angles.parquet and merge.txt beside the model, the figure where the monitor keeps it; the figures."""
    figures = summarise(tensors)
    words = (in_words(figures, models) + "\n").encode()
    monitor.artifact(_ANGLES_FILE, json.dumps(rows(tensors), indent=1).encode())
    monitor.artifact(_WORDS_FILE, words)
    output.write(_WORDS_FILE, words)
    output.write_table("angles.parquet", angle_table(tensors))
    if models > 1:
        monitor.figure("merge_angles.png", angle_figure(tensors))
    return figures
