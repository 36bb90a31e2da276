"""The HTTP face of the services: OpenAI's embeddings endpoint, what is served, and whether it is ready.

Checks and formats requests; the computing is behind a deployment handle. It loads no model, and no torch.
"""

import asyncio
import json
import math
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.calls import EmbedCall, Refusal, Served, Vectors
from components.serving.schema import (
    EmbeddingRequest,
    EmbeddingResponse,
    ErrorBody,
    ErrorResponse,
    Model,
    ModelList,
    encode_vectors,
)

MAX_BODY_BYTES = 16 * 1024 * 1024
RETRY_AFTER_S = 1.0
READY_TIMEOUT_S = 5.0


class BodyTooLargeError(HTTPException):
    def __init__(self) -> None:
        super().__init__(413, f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB; send fewer texts.")


class BodyLimit:
    """ASGI middleware: turns a body away as soon as it is known, or seen, to exceed MAX_BODY_BYTES."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                raise BodyTooLargeError
            return message

        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            refusal = await _on_http_error(Request(scope), BodyTooLargeError())
            await refusal(scope, receive, send)
            return
        await self._app(scope, limited, send)


def error_response(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> JSONResponse:
    """An error in OpenAI's format."""
    kind = {404: "not_found_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    body = ErrorResponse(error=ErrorBody(message=message, type=kind, param=param, code=code))
    headers = {} if retry_after_s is None else {"retry-after": str(math.ceil(retry_after_s))}
    return JSONResponse(body.model_dump(), status, headers)


async def _on_http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
    return error_response(error.status_code, str(error.detail))


async def _on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(400, f"The body is no valid JSON: {first['ctx']['error']}.", "invalid_json")
    field = ".".join(part for part in first["loc"][1:] if isinstance(part, str)) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return error_response(400, f"{field}: {message}" if field else message, "invalid_value", field)


async def _on_overload(_: Request, error: BackPressureError) -> JSONResponse:
    message = "The service is busy: its queue is full. Try again in a second."
    return error_response(429, message, "rate_limit_exceeded", retry_after_s=RETRY_AFTER_S)


async def _on_unavailable(_: Request, error: DeploymentUnavailableError) -> JSONResponse:
    message = "The model is not up at the moment. Try again shortly."
    return error_response(503, message, "service_unavailable", retry_after_s=5 * RETRY_AFTER_S)


api = FastAPI(
    title="embedloom",
    summary="Embeddings in OpenAI's format from a model of the registry.",
    exception_handlers={
        StarletteHTTPException: _on_http_error,
        RequestValidationError: _on_invalid,
        BackPressureError: _on_overload,
        DeploymentUnavailableError: _on_unavailable,
    },
)
api.add_middleware(BodyLimit)


def _version_headers(served: Served) -> dict[str, str]:
    return {
        "x-embedloom-model": served.model,
        "x-embedloom-version": served.version,
        "x-embedloom-space-id": served.space_id,
    }


def _render(answer: Vectors, body: EmbeddingRequest) -> bytes:
    """The JSON body; written without a pydantic object for each of up to 2,048 vectors."""
    rows = encode_vectors(answer.vectors_ND, body.encoding_format)
    return json.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)
            ],
            "model": answer.served.model,
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
            "version": answer.served.version,
            "space_id": answer.served.space_id,
        }
    ).encode()


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 413, 429, 503)
}


# `ingress` pickles the app, and with it what stands above: what the endpoints call must be defined by here.
@serve.ingress(api)
class Gateway:
    """Args: embedding: the handle of the embedding service."""

    def __init__(self, embedding: DeploymentHandle) -> None:
        self._embedding = embedding

    @api.post("/v1/embeddings", response_model=EmbeddingResponse, responses=_ERRORS)
    async def embeddings(self, body: EmbeddingRequest) -> Response:
        """Vectors of texts or token ids, L2-normalised, in the order of the input.

        Texts longer than the model reads are cut, as everywhere in embedloom; longer token id lists fail.
        """
        call = EmbedCall(
            model=body.model,
            texts=body.texts,
            token_ids=body.token_ids,
            side=body.input_type,
            instruction=body.instruction,
            dimensions=body.dimensions,
        )
        answer: Vectors | Refusal = await self._embedding.embed.remote(call)
        if isinstance(answer, Refusal):
            retry = RETRY_AFTER_S if answer.status == 429 else None
            return error_response(answer.status, answer.message, answer.code, answer.param, retry)
        content = await asyncio.to_thread(_render, answer, body)
        return Response(content, media_type="application/json", headers=_version_headers(answer.served))

    @api.get("/v1/models", response_model=ModelList)
    async def models(self) -> ModelList:
        """What is served, with version and vector space."""
        served = await self._served()
        return ModelList(
            data=[
                Model(
                    id=each.model,
                    created=each.created,
                    version=each.version,
                    space_id=each.space_id,
                    dimensions=each.dimensions,
                )
                for each in served
            ]
        )

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """The gateway lives."""
        return {"status": "ok"}

    @api.get("/ready", responses={503: {"model": ErrorResponse}})
    async def ready(self) -> Response:
        """A model is loaded and answers."""
        try:
            served = await asyncio.wait_for(self._served(), READY_TIMEOUT_S)
        except TimeoutError:
            message = f"No replica answered within {READY_TIMEOUT_S:.0f} s."
            return error_response(503, message, "service_unavailable", retry_after_s=READY_TIMEOUT_S)
        versions = {each.model: each.version for each in served}
        return JSONResponse({"status": "ready", "versions": versions}, headers=_version_headers(served[0]))

    async def _served(self) -> list[Served]:
        return [await self._embedding.served.remote()]
