"""What every objective gives back for a global batch."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one global batch as one worker sees it.

    Attributes:
        share: scalar with gradient, the sum of the worker's own rows over the global N. The shares of all
            workers sum up to the loss. A trainer that averages gradients over workers (FSDP, DDP) takes the
            backward of share * workers.
        statistics: the same on every worker; `loss` and `rows` are among them.
    """

    share: torch.Tensor
    statistics: dict[str, float]
