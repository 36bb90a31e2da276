"""What a stage is told: what decides its numbers, and where and with what it runs."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from components.objective.objective import Objective
from components.storage import Folder
from components.training.lora import Lora
from components.training.prepare import Trainable
from components.training.schedule import Schedule
from components.training.sharding import Precision
from components.training.step import MicroBatching


@dataclass(frozen=True)
class StageSettings:
    """What decides the numbers of a stage, beside the weights that it starts from.

    Attributes:
        batches: fingerprint of the plan.
        accumulate_steps: batches of the plan whose mean gradient an optimizer step takes. Each has its own
            negatives.
        steps: optimizer steps in all; the last one takes the batches that are left.
        learning_rate: the peak; `warmup_share` of the steps rise to it, `schedule` says what follows.
        max_gradient_norm: gradients are scaled down to this global norm.
        dropout, trainable, lora: as `prepare.prepare_model` takes them.
        precision: of the forward and backward computation; weights and optimizer state are float32.
        export_steps: numbers of finished steps after which the weights are kept.
    """

    objective: Objective
    batches: str
    accumulate_steps: int
    steps: int
    learning_rate: float
    warmup_share: float
    schedule: Schedule
    weight_decay: float
    betas: tuple[float, float]
    max_gradient_norm: float
    dropout: float | None
    trainable: Trainable
    lora: Lora | None
    precision: Precision
    seed: int
    export_steps: tuple[int, ...]

    def digest(self) -> str:
        """Of all values: a checkpoint is resumed only by the settings that made it."""
        values = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()


@dataclass(frozen=True)
class StageExecution:
    """Where and with what a stage runs.

    Attributes:
        batches: folder that `plan_batches` wrote.
        model: folder of the model that the stage starts from.
        exports: folder that takes the kept weights, a model directory each (`step-000123`).
        micro_batching, activation_checkpointing: how the batches go through memory (`step`, `prepare`).
        checkpoint_every_s: seconds between two checkpoints, or more.
        threads: torch threads of a worker.
    """

    batches: Folder
    model: Folder
    exports: Folder
    history: Folder
    """Takes what each step reported; a step that is repeated after a resume reports the same again."""
    micro_batching: MicroBatching
    activation_checkpointing: bool
    checkpoint_every_s: float
    threads: int
    device: str
