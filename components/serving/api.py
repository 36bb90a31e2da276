"""The HTTP face: endpoints in the formats of OpenAI, Cohere, Jina and vLLM, what is served, and the page for people.

It checks and formats; computing is behind the `Dispatcher`. It loads no model, and no torch.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable
from importlib.resources import files
from typing import Annotated, Any, Protocol, get_args

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from components.serving.admission import STREAM_PATH, Admission
from components.serving.answers import (
    ERRORS,
    AsciiResponse,
    error_response,
    on_failure,
    on_http_error,
    on_invalid,
    refusal_response,
)
from components.serving.calls import Call, EmbedCall, Kind, Refusal, Reply, ScoreCall, Scores, Served, Vectors
from components.serving.dispatch import Dispatcher
from components.serving.joining import is_small
from components.serving.keys import KeyRing
from components.serving.metrics import Metrics
from components.serving.routes import Route
from components.serving.schema import (
    EmbeddingRequest,
    EmbeddingResponse,
    ErrorResponse,
    Model,
    ModelList,
    encode_vector,
)
from components.serving.scoring_schema import RerankRequest, RerankResponse, ScoreRequest, ScoreResponse
from components.serving.search_schema import SearchRequest, SearchResponse
from components.serving.streaming import embed_lines

READY_TIMEOUT_S = 5.0
_ROUTES = frozenset(
    (
        "/",
        "/v1/embeddings",
        STREAM_PATH,
        "/v1/rerank",
        "/v2/rerank",
        "/score",
        "/search",
        "/v1/models",
        "/ready",
        "/metrics",
    )
)


_STREAM_BODY = {
    "required": True,
    "content": {
        "application/x-ndjson": {
            "schema": {"type": "string"},
            "example": '{"id": "a", "text": "Return a sorted copy of an array."}\n',
        }
    },
}


class Gateway(Protocol):
    """What the endpoints need of whoever runs them."""

    metrics: Metrics
    dispatcher: Dispatcher
    keys: KeyRing

    async def served(self, application: str) -> Served:
        """What an application serves; raises if it does not answer."""
        ...

    async def search(self, request: SearchRequest) -> SearchResponse | Refusal:
        """The demo documents ranked for the page."""
        ...


def build_api(gateway: Gateway) -> FastAPI:
    """The ASGI application over a gateway."""
    api = FastAPI(
        title="embedloom",
        summary="Embeddings and reranking by models of the registry, in the formats of OpenAI, Cohere and Jina.",
        exception_handlers={
            StarletteHTTPException: on_http_error,
            RequestValidationError: on_invalid,
            Exception: on_failure,
        },
        docs_url=None,  # FastAPI's own loads its scripts from elsewhere
        redoc_url=None,
    )
    api.add_middleware(Admission, ring=lambda: gateway.keys, metrics=gateway.metrics, routes=_ROUTES)

    async def ask(request: Request, model: str | None, call: Call) -> Reply:
        reply = await _while_connected(request, call, gateway.dispatcher.answer(model, call))
        key = getattr(request.state, "key", None)
        if key is not None and isinstance(reply, Vectors | Scores):
            gateway.keys.count_tokens(key, reply.tokens)
        return reply

    @api.post("/v1/embeddings", response_model=EmbeddingResponse, responses=ERRORS)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts or token ids, L2-normalised, in the order of the input.

        Texts longer than the model reads are cut, as everywhere in embedloom; longer token id lists fail.
        """
        call = EmbedCall(body.texts, body.token_ids, body.input_type, body.instruction, body.dimensions)
        reply = await ask(request, body.model, call)
        if isinstance(reply, Refusal):
            return refusal_response(reply)
        assert isinstance(reply, Vectors)
        # A large answer takes long enough to write that others would wait for it.
        if is_small(call):
            content = _render_vectors(reply, body)
        else:
            content = await asyncio.to_thread(_render_vectors, reply, body)
        return Response(content, media_type="application/json", headers=_headers(reply.served))

    @api.post(
        STREAM_PATH,
        response_class=StreamingResponse,
        responses=ERRORS | {200: {"content": {"application/x-ndjson": {}}}},
        openapi_extra={"requestBody": _STREAM_BODY},
    )
    async def stream(
        request: Request,
        model: Annotated[
            str, Query(min_length=1, description="A name, or name/version.", examples=["docs-search"])
        ],
        dimensions: Annotated[int | None, Query(ge=1)] = None,
    ) -> Response:
        """Vectors of any number of documents, a line in, a line out, in their order.

        `{"id", "text"}` comes in, `{"id", "embedding"}` goes out, base64 as in `/v1/embeddings`; the last line says
        `"done": true`, version and `space_id`. All of a stream is by one version. Read while you send.
        """
        found = gateway.dispatcher.routes.find(model, "embedding")
        pinned = f"{found[0].name}/{found[1]}" if found else model

        async def embed(texts: list[str]) -> Reply:
            call = EmbedCall(texts, [], "document", None, dimensions)
            reply = await gateway.dispatcher.answer(pinned, call)
            key = getattr(request.state, "key", None)
            if key is not None and isinstance(reply, Vectors):
                gateway.keys.count_tokens(key, reply.tokens)
            return reply

        return _TwoWayResponse(embed_lines(request.stream(), embed), media_type="application/x-ndjson")

    async def rerank(body: RerankRequest, request: Request, api_version: str) -> Response:
        call = ScoreCall([body.query] * len(body.documents), body.documents, body.instruction)
        reply = await ask(request, body.model, call)
        if isinstance(reply, Refusal):
            return refusal_response(reply)
        assert isinstance(reply, Scores)
        best = sorted(enumerate(reply.scores_N.tolist()), key=lambda each: -each[1])[: body.top_n]
        results = [
            {"index": index, "relevance_score": score}
            | ({"document": {"text": body.documents[index]}} if body.return_documents else {})
            for index, score in best
        ]
        content = _about(reply, "rerank") | {
            "results": results,
            "meta": {"api_version": {"version": api_version}, "billed_units": {"search_units": 1}},
        }
        return AsciiResponse(content, headers=_headers(reply.served))

    @api.post("/v1/rerank", response_model=RerankResponse, responses=ERRORS)
    async def rerank_v1(body: RerankRequest, request: Request) -> Response:
        """Documents by the probability that they answer the query, best first (Cohere's and Jina's format)."""
        return await rerank(body, request, "1")

    @api.post("/v2/rerank", response_model=RerankResponse, responses=ERRORS)
    async def rerank_v2(body: RerankRequest, request: Request) -> Response:
        """As `/v1/rerank`, where the second version of Cohere's client asks."""
        return await rerank(body, request, "2")

    @api.post("/score", response_model=ScoreResponse, responses=ERRORS)
    async def score(body: ScoreRequest, request: Request) -> Response:
        """The probability of each pair of query and document, in their order (vLLM's format)."""
        queries, documents = body.pairs()
        reply = await ask(request, body.model, ScoreCall(queries, documents, body.instruction))
        if isinstance(reply, Refusal):
            return refusal_response(reply)
        assert isinstance(reply, Scores)
        data = [
            {"index": index, "object": "score", "score": score}
            for index, score in enumerate(reply.scores_N.tolist())
        ]
        content = _about(reply, "score") | {"created": int(time.time()), "data": data}
        return AsciiResponse(content, headers=_headers(reply.served))

    async def describe(route: Route, version: str) -> Model:
        try:
            served = await asyncio.wait_for(gateway.served(route.applications[version]), READY_TIMEOUT_S)
        except Exception as error:
            message = f"{route.name}/{version} does not answer ({type(error).__name__})."
            raise HTTPException(503, message, {"retry-after": f"{READY_TIMEOUT_S:.0f}"}) from error
        current = version == route.current
        return Model(
            id=route.name if current else f"{route.name}/{version}",
            created=served.created,
            version=version,
            kind=route.kind,
            space_id=served.space_id,
            dimensions=served.dimensions,
            engine=served.engine,
            current=current,
        )

    @api.get("/v1/models", response_model=ModelList, responses=ERRORS)
    async def models() -> ModelList:
        """What is served, with version and vector space: current versions under their bare name, others by
        name/version."""
        routes = gateway.dispatcher.routes.by_name.values()
        return ModelList(
            data=[await describe(route, version) for route in routes for version in route.applications]
        )

    @api.get("/v1/models/{model:path}", response_model=Model, responses=ERRORS)
    async def one_model(model: Annotated[str, Path(examples=["docs-search"])]) -> Model | Response:
        """One of them, by its name or name/version."""
        for kind in get_args(Kind):
            if found := gateway.dispatcher.routes.find(model, kind):
                return await describe(*found)
        message = f"The model '{model}' does not exist here; GET /v1/models lists those that do."
        return error_response(404, message, "model_not_found", "model")

    @api.get("/health")
    async def health() -> dict[str, str]:
        """The gateway lives."""
        return {"status": "ok"}

    @api.get("/ready", responses={503: {"model": ErrorResponse}})
    async def ready() -> Response:
        """Every model answers by its current version."""
        routes = gateway.dispatcher.routes
        try:
            for route in routes.by_name.values():
                await asyncio.wait_for(gateway.served(route.applications[route.current]), READY_TIMEOUT_S)
        except Exception as error:
            message = f"{route.name} does not answer ({type(error).__name__})."
            return error_response(503, message, "service_unavailable", retry_after_s=READY_TIMEOUT_S)
        if not routes.by_name:
            return error_response(503, "No model is up yet.", "service_unavailable", retry_after_s=1.0)
        versions = {route.name: route.current for route in routes.by_name.values()}
        return AsciiResponse({"status": "ready", "versions": versions, "routes": routes.to_config()})

    @api.get("/metrics", response_class=PlainTextResponse, responses={401: {"model": ErrorResponse}})
    async def metrics() -> Response:
        """What this gateway has counted, in Prometheus' text format."""
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.post("/search", response_model=SearchResponse, responses=ERRORS)
    async def search(body: SearchRequest) -> Response:
        """The service's own documents for a query: by BM25, by vectors, and reranked. What the page shows."""
        found = await gateway.search(body)
        if isinstance(found, Refusal):
            return refusal_response(found)
        return AsciiResponse(found.model_dump())

    @api.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def description() -> str:
        return files("components.serving").joinpath("description.html").read_text("utf-8")

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return files("components.serving").joinpath("page.html").read_text("utf-8")

    described = api.openapi

    def openapi() -> dict[str, Any]:
        """FastAPI describes 422 for what is answered with 400 here."""
        description = described()
        for methods in description["paths"].values():
            for each in methods.values():
                each["responses"].pop("422", None)
        return description

    api.openapi = openapi  # type: ignore[method-assign]
    return api


class _TwoWayResponse(StreamingResponse):
    """Starlette's own looks out for a disconnect by receiving, and so eats pieces of a body that is still coming."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.stream_response(send)
        except ClientDisconnect:
            return


class _ClientGoneError(StarletteHTTPException):
    """Nobody reads the answer any more; 499 is nginx's number for it."""

    def __init__(self) -> None:
        super().__init__(499, "The client closed the request.")


async def _while_connected(request: Request, call: Call, reply: Awaitable[Reply]) -> Reply:
    """The reply, unless the client goes away before: then what is left of a large call is not computed."""
    if is_small(call):
        return await reply
    asking = asyncio.ensure_future(reply)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise _ClientGoneError
        return asking.result()
    finally:
        asking.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(served: Served) -> dict[str, str]:
    return {
        "x-embedloom-model": served.model,
        "x-embedloom-version": served.version,
        "x-embedloom-space-id": served.space_id,
    }


def _about(reply: Scores, prefix: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": "list",
        "model": reply.served.model,
        "usage": {"prompt_tokens": reply.tokens, "total_tokens": reply.tokens},
        "version": reply.served.version,
        "scorer_id": reply.served.space_id,
    }


def _render_vectors(answer: Vectors, body: EmbeddingRequest) -> bytes:
    """The JSON body; written without a pydantic object for each of up to 2,048 vectors.

    Row by row: `json.dumps` holds the interpreter until it is done, whichever thread calls it.
    """
    rows = [
        json.dumps(
            {
                "object": "embedding",
                "index": index,
                "embedding": encode_vector(vector_D, body.encoding_format),
            }
        )
        for index, vector_D in enumerate(answer.vectors_ND)
    ]
    about = json.dumps(
        {
            "model": answer.served.model,
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
            "version": answer.served.version,
            "space_id": answer.served.space_id,
        }
    )
    return f'{{"object": "list", "data": [{", ".join(rows)}], {about[1:]}'.encode()
