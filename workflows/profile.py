"""Where and how fast a workflow runs: never part of a step's identity.

A profile is one of the names below or a YAML file with the same fields. Changing it changes no fingerprint.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1)]


class Endpoint(BaseModel):
    """An OpenAI-compatible endpoint: where it is, how it may be asked, what it costs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    base_url: str
    """Up to and with the version: https://host/v1."""
    key_variable: str | None = None
    """The environment variable that holds the key, on every node; null: there is no key."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """All requests of a step together; null: no limit."""
    concurrency: Count = 16
    """Requests at once."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Of a request."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Of a request that could not be answered."""
    input_price: Annotated[float, Field(ge=0)] | None = None
    """For a million tokens; with `output_price` the plan says what a synthesis will cost."""
    output_price: Annotated[float, Field(ge=0)] | None = None
    """For a million tokens."""


class Profile(BaseModel):
    """Sizes of one place to run in."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    workers: Count = 2
    """Training workers."""
    cpus_per_worker: Count = 1
    """Of a training worker."""
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0
    """Of a training worker; 0: it trains on CPUs."""
    document_workers: Count = 2
    """Processes that work on documents at once, a CPU each."""
    encoder_workers: Count = 1
    """Processes that encode texts at once to filter, to mine and to choose personas."""
    encoder_cpus: Count = 2
    """CPUs of a process that encodes texts."""
    encoder_gpus: Annotated[float, Field(ge=0)] = 0
    """Of a process that encodes texts; may be a part of one."""
    writers: Count = 1
    """Engines that write queries side by side, each with the whole model."""
    writer_cpus: Annotated[int, Field(ge=2)] = 2
    """CPUs of an engine."""
    writer_gpus: Annotated[int, Field(ge=0)] = 0
    """Of an engine."""
    max_error_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of the rows to be written: if the writer fails for more, the step ends."""
    endpoint: Endpoint | None = None
    """Of the steps that say `do: synthesise-at-endpoint`."""
    micro_batch_tokens: Count = 2048
    """Padded tokens a worker runs at once while it trains."""
    graph_tokens: Annotated[int, Field(ge=0)] = 16384
    """Padded tokens of a batch for which a worker keeps what backward needs; what is above is encoded twice."""
    gradient_sync: Literal["micro_batch", "step"] = "micro_batch"
    """Workers share weights and gradients out with every micro-batch, or hold them whole within a step."""
    activation_checkpointing: bool = False
    """Backward computes every layer again instead of finding it in memory."""
    tokens_per_batch: Count = 2048
    """Padded tokens at once while texts are encoded."""
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 45.0
    """Seconds between two checkpoints of a training, at least."""
    step_deadline_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds after which a training, a synthesis or another long step is ended as failed."""
    maximum_cpus: Count | None = None
    """What the cluster may grow to; null: it does not grow."""
    maximum_gpus: Annotated[int, Field(ge=0)] | None = None
    """The same of GPUs."""
    device_tflops: Annotated[float, Field(gt=0)] = 0.06
    """What a GPU, or on a machine without one a worker, sustains in training and encoding, for the plan's estimates."""
    device_price: Annotated[float, Field(ge=0)] | None = None
    """Of a device hour; the plan says what the hours cost then."""
    writer_tokens_per_second: Annotated[float, Field(gt=0)] = 130.0
    """What an engine writes, all its requests together, for the plan's estimates."""


PROFILES = {
    # A small writer often does not come to an end.
    "laptop": Profile(gradient_sync="step", max_error_share=0.5),
    "gpu": Profile(
        workers=1,
        cpus_per_worker=4,
        gpus_per_worker=1,
        encoder_gpus=1,
        writer_gpus=1,
        micro_batch_tokens=65536,
        graph_tokens=65536,
        tokens_per_batch=65536,
        # An H100's dense bfloat16 rate (989) at 40 %; a writer of some 8 billion weights on it.
        device_tflops=400,
        writer_tokens_per_second=4000,
    ),
    # Nodes of eight GPUs and nodes without, as the files in cluster/ describe them; they come when a step asks.
    "cluster": Profile(
        workers=8,
        cpus_per_worker=8,
        gpus_per_worker=1,
        document_workers=32,
        encoder_workers=8,
        encoder_cpus=8,
        encoder_gpus=1,
        writers=8,
        writer_cpus=8,
        writer_gpus=1,
        max_error_share=0.05,
        micro_batch_tokens=65536,
        graph_tokens=65536,
        activation_checkpointing=True,
        tokens_per_batch=65536,
        checkpoint_every_s=600,
        step_deadline_s=7 * 24 * 3600,
        maximum_cpus=320,
        maximum_gpus=16,
        device_tflops=400,
        writer_tokens_per_second=4000,
    ),
}


def load(name_or_path: str) -> Profile:
    """A profile by name or from a YAML file. Raises ValueError with what is wrong."""
    if name_or_path in PROFILES:
        return PROFILES[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"--profile {name_or_path}: not a file, and none of the profiles here ({', '.join(PROFILES)})"
        )
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (ValidationError, yaml.YAMLError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        problem = (
            f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}" if first else str(error).splitlines()[0]
        )
        raise ValueError(f"{path}: {problem}") from error
