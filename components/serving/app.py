"""The Serve applications: one gateway, one application a model version, one for the page's documents.

Built by import path, from `embedloom serve` and from a Serve config file alike. Arguments are part of Serve's code
version: a version's own application never changes them. What does change, routes and keys, is the gateway's
`user_config`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from components.serving.gateway import Gateway
from components.serving.service import ModelService


class GatewayArguments(BaseModel):
    """How the gateway runs."""

    model_config = ConfigDict(extra="forbid")

    listen: list[Any] | None = Field(None, description="host and port; none: behind Serve's proxies")
    timeout_s: float = Field(60.0, gt=0)
    gateways: int = Field(1, ge=1)
    has_documents: bool = False


class ModelArguments(BaseModel):
    """Which version, and how a replica computes."""

    model_config = ConfigDict(extra="forbid")

    release: dict[str, Any]
    engine: dict[str, Any] = Field(default_factory=dict)
    tokens_per_batch: int = Field(4096, ge=1)
    max_waiting_tokens: int = Field(262_144, ge=1, description="more are turned away with 429")
    max_wait_s: float = Field(20.0, gt=0, description="so is what would wait longer")
    max_request_tokens: int = Field(300_000, ge=1, description="a request of more gets 400")
    max_memory_gib: float = Field(0.0, ge=0)


class DocumentsArguments(BaseModel):
    """What the page searches."""

    model_config = ConfigDict(extra="forbid")

    documents: str


def build_gateway(arguments: GatewayArguments) -> Application:
    gateway = serve.deployment(name="gateway")(Gateway)
    return gateway.bind(arguments.listen, arguments.timeout_s, arguments.gateways, arguments.has_documents)


def build_model(arguments: ModelArguments) -> Application:
    model = serve.deployment(name="model", max_constructor_retry_count=1)(ModelService)
    return model.bind(
        arguments.release,
        arguments.engine,
        arguments.tokens_per_batch,
        arguments.max_waiting_tokens,
        arguments.max_wait_s,
        arguments.max_request_tokens,
        arguments.max_memory_gib,
    )


def build_documents(arguments: DocumentsArguments) -> Application:
    from components.serving.search import SearchService

    documents = serve.deployment(name="documents", max_constructor_retry_count=1)(SearchService)
    return documents.bind(arguments.documents)
