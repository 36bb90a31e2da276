"""The learning rate against the schedules of transformers, and where checkpoints are taken."""

import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from transformers import get_linear_schedule_with_warmup as get_linear

from components.training.schedule import export_steps, learning_rate_share


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(20, 5), (20, 0), (7, 3)])
def test_equals_transformers(schedule: str, steps: int, warmup: int) -> None:
    """transformers starts its warm-up at 0, a step without effect; ours is one step ahead of it there."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = {
        "linear": lambda: get_linear(optimizer, warmup, steps),
        "cosine": lambda: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
        "constant": lambda: get_constant_schedule_with_warmup(optimizer, warmup),
    }[schedule]()
    for step in range(steps):
        share = learning_rate_share(step, steps, warmup / steps, schedule)  # type: ignore[arg-type]
        if step < warmup:
            assert share == pytest.approx(peer.get_last_lr()[0] + 1 / warmup)
        else:
            assert share == pytest.approx(peer.get_last_lr()[0])
        optimizer.step()
        peer.step()


def test_checkpoints_are_spread_over_the_last_part() -> None:
    assert export_steps(100, 2, 0.5) == [75, 100]
    assert export_steps(10, 5, 0.5) == [6, 7, 8, 9, 10]
    assert export_steps(30, 3, 0.0) == [10, 20, 30]
    assert export_steps(30, 0, 0.5) == []
    with pytest.raises(ValueError, match="6 checkpoints do not fit into the last 5 of 10 steps"):
        export_steps(10, 6, 0.5)
