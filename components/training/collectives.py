"""What workers tell one another beside gradients."""

import torch
import torch.distributed as dist


def sum_over_workers(value: float, device: torch.device, group: dist.ProcessGroup) -> float:
    """The same on every worker. A collective."""
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=group)
    return float(total)
