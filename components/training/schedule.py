"""Learning rate and checkpoint positions as functions of the step: nothing to save, nothing to restore."""

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def learning_rate_share(step: int, steps: int, warmup_share: float, schedule: Schedule) -> float:
    """The share of the peak learning rate that step `step` (0 to steps - 1) is taken with.

    Rises linearly over the first `warmup_share` of the steps to 1, then stays (`constant`) or falls to 0
    behind the last step, linearly or along half a cosine.
    """
    warmup = math.ceil(steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    rest = (steps - step) / (steps - warmup)
    return rest if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * rest))


def export_steps(steps: int, checkpoints: int, checkpoints_from: float) -> list[int]:
    """Numbers of finished steps at which the merge's checkpoints are taken.

    They are evenly spread over what follows the share `checkpoints_from` of the stage, the last one at its
    end.

    With `checkpoints_from` = 0.5 and 2 checkpoints these are three quarters of the way and the end.

    Raises:
        ValueError: the part has fewer steps than checkpoints.
    """
    first = steps * checkpoints_from
    positions = [round(first + (steps - first) * (i + 1) / checkpoints) for i in range(checkpoints)]
    if len(set(positions)) < checkpoints or (positions and positions[0] < 1):
        raise ValueError(
            f"{checkpoints} checkpoints do not fit into the last {steps - first:g} of {steps} steps; "
            "take fewer checkpoints, a smaller checkpoints_from or more steps"
        )
    return positions
