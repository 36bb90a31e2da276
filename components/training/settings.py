"""What a stage is told: what decides its numbers, and where and with what it runs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from components.model.spec import Projection
from components.objective.judging import Judging
from components.objective.kinds import AnyObjective
from components.storage import Folder
from components.training.gradient_cache import GradientSync
from components.training.lora import Lora
from components.training.micro_batches import MicroBatching
from components.training.prepare import Trainable
from components.training.schedule import Schedule
from components.training.sharding import Precision


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What a user may set of how a stage learns, beside its objective.

    Attributes:
        learning_rate, warmup_share, schedule: peak, share of the steps that rise to it, and what follows.
        weight_decay, betas: of AdamW.
        max_gradient_norm: gradients are scaled down to this global norm.
        dropout: in the backbone; None leaves what the model's config says.
        trainable: `all`, or `without_embeddings`: the embedding tables stay as they are.
        lora: adapters are trained and nothing else, and merged into what is exported.
        training_head: `linear` or `mlp`: a projection behind an embedder's vector while it is trained, which no
            kept model has.
        template_denoising: the vector of an embedder's template alone is taken off while it is trained (PromptBERT).
        accumulate_steps: batches whose mean gradient an optimizer step takes, each with its own negatives.
        precision: of the computation; weights, gradients' reduction and optimizer state are float32.

    Raises:
        ValueError: a value out of range.
    """

    learning_rate: float
    warmup_share: float = 0.1
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    max_gradient_norm: float = 1.0
    dropout: float | None = None
    trainable: Trainable = "all"
    lora: Lora | None = None
    training_head: Projection = "none"
    template_denoising: bool = False
    accumulate_steps: int = 1
    precision: Precision = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(
            self, schedule=Schedule, trainable=Trainable, training_head=Projection, precision=Precision
        )
        check_least(self, accumulate_steps=1)
        if self.lora and self.trainable != "all":
            raise ValueError("with `lora` nothing but the adapters is trained; leave out `trainable`")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a stage runs on. Changes the result by nothing but rounding.

    Attributes:
        num_workers, cpus_per_worker, use_gpu: workers of the group; a GPU each with `use_gpu`.
        micro_batch_tokens: most tokens in one forward, padding included.
        graph_tokens: most tokens, padding included, whose graph a worker keeps from encoding to backward; what
            a global batch has above that is encoded twice (`gradient_cache`).
        gradient_sync: `micro_batch` keeps weights and gradients sharded, `step` talks less between workers.
        activation_checkpointing: keep blocks' inputs alone and compute the blocks again in backward.
        checkpoint_every_s: seconds between checkpoints, at least; 0 takes one after every step.
        max_failures: how often workers that died are started again from the last checkpoint.

    Raises:
        ValueError: a value out of range.
    """

    num_workers: int = 2
    cpus_per_worker: int = 1
    use_gpu: bool = False
    micro_batch_tokens: int = 2048
    graph_tokens: int = 16384
    gradient_sync: GradientSync = "micro_batch"
    activation_checkpointing: bool = False
    checkpoint_every_s: float = 60.0
    max_failures: int = 3

    def __post_init__(self) -> None:
        check_choices(self, gradient_sync=GradientSync)
        check_least(self, micro_batch_tokens=1, graph_tokens=0)


def read_options(options: Mapping[str, Any]) -> tuple[Hyperparameters, Resources]:
    """What the keyword arguments of a stage say, lists and mappings of JSON included.

    Raises:
        TypeError: one that neither has.
        ValueError: a value out of range.
    """
    names = {field.name for field in dataclasses.fields(Resources)}
    resources = {name: value for name, value in options.items() if name in names}
    others = {name: value for name, value in options.items() if name not in names}
    if "betas" in others:
        others["betas"] = tuple(others["betas"])
    if isinstance(lora := others.get("lora"), Mapping):
        others["lora"] = Lora(**{**lora, "layers": tuple(lora.get("layers", ()))})
    return Hyperparameters(**others), Resources(**resources)


@dataclass(frozen=True, kw_only=True)
class StageSettings(Hyperparameters):
    """What decides the numbers of a stage, beside the weights that it starts from.

    Attributes:
        objective: of an embedder, or of a reranker: it says what is trained.
        batches: fingerprint of the plan.
        steps: optimizer steps in all; the last one takes the batches that are left.
        export_steps: numbers of finished steps after which the weights are kept.
    """

    objective: AnyObjective | Judging
    batches: str
    steps: int
    export_steps: tuple[int, ...]

    def digest(self) -> str:
        """Of all values: a checkpoint is resumed only by the settings that made it."""
        values = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()


@dataclass(frozen=True)
class StageExecution:
    """Where and with what a stage runs.

    Attributes:
        batches: folder of a plan.
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


def check_choices(options: object, **choices: Any) -> None:
    """Each of these fields holds a value of its Literal. Raises ValueError."""
    for name, choice in choices.items():
        value = getattr(options, name)
        if value not in get_args(choice):
            raise ValueError(f"{name} is {value!r}; it must be one of {get_args(choice)}")


def check_least(options: object, **bounds: int) -> None:
    """Each of these fields is at least so much. Raises ValueError."""
    for name, least in bounds.items():
        value = getattr(options, name)
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
