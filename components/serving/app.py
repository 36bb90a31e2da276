"""The Serve application: gateway in front, services behind.

Built by import path (`components.serving.app:build`), from `embedloom serve` and from a Serve config file
alike. Its arguments are part of Serve's code version: changing one restarts the replicas. The model is not
among them; it stands in the `user_config` of the deployment `embedding`.
"""

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from components.serving.gateway import Gateway
from components.serving.service import EmbeddingService


class AppArguments(BaseModel):
    """How the application runs on a replica; none of it changes a vector."""

    model_config = ConfigDict(extra="forbid")

    threads: int = Field(0, ge=0, description="torch threads of a replica; 0: one a CPU of the machine")
    tokens_per_batch: int = Field(4096, ge=1)
    max_waiting_tokens: int = Field(262_144, ge=1, description="more are turned away with 429")
    release: str = Field("", description="a new value starts new replicas beside the old ones (surge)")


def build(arguments: AppArguments) -> Application:
    embedding = serve.deployment(name="embedding", max_constructor_retry_count=1)(EmbeddingService)
    gateway = serve.deployment(name="gateway")(Gateway)
    return gateway.bind(
        embedding.bind(arguments.threads, arguments.tokens_per_batch, arguments.max_waiting_tokens)
    )
