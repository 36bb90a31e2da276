"""The gateway: the endpoints of `api.py` as a Ray Serve deployment, over handles to the models' applications.

On one machine it listens itself; on a cluster Serve's proxies are in front of it. Its `user_config` holds the routes
and the keys, so that a promotion changes them without restarting anything.
"""

import asyncio
import socket
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from components.serving.answers import RETRY_AFTER_S
from components.serving.api import build_api
from components.serving.calls import Call, EmbedCall, Refusal, Reply, ScoreCall, Scores, Served, Vectors
from components.serving.dispatch import Dispatcher
from components.serving.joining import Joiner, is_small
from components.serving.keys import ApiKey, KeyRing
from components.serving.metrics import Metrics
from components.serving.options import DOCUMENTS
from components.serving.routes import Routes
from components.serving.search_schema import Column, Hit, SearchRequest, SearchResponse

_TRIES, _PAUSE_S = 5, 0.2
_KNOWN_WITHIN_S = 60.0
_RERANKED = 20
_UNAVAILABLE = Refusal(
    503, "The model is not up at the moment. Try again shortly.", "service_unavailable", retry_after_s=5.0
)
_BUSY = Refusal(
    429,
    "The service is busy: its queue is full. Try again in a second.",
    "rate_limit_exceeded",
    retry_after_s=RETRY_AFTER_S,
)


@serve.ingress()
class Gateway:
    """Args:
    listen: `[host, port]` to listen on itself; None: only Serve's proxies lead here.
    timeout_s: after which a request is given up.
    gateways: how many there are; limits of keys are shared out among them.
    has_documents: whether the application of the page's documents runs.
    """

    def __init__(
        self, listen: list[Any] | None, timeout_s: float, gateways: int, has_documents: bool
    ) -> None:
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self._ask, self.metrics, timeout_s)
        self.keys = KeyRing([])
        self._key_rows: list[dict[str, Any]] = []
        self._gateways = gateways
        self._has_documents = has_documents
        self._handles: dict[str, DeploymentHandle] = {}
        self._joiners: dict[str, Joiner] = {}
        self._served: dict[str, Served] = {}
        self._listen = listen
        self._server: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take over routes and keys. The first time, start listening: before there is nothing to answer."""
        routes = Routes.from_config(user_config["routes"])
        known = routes.applications()
        for application in known - self._handles.keys():
            self._handles[application] = await _handle(application)
            self._joiners[application] = Joiner(self._sender(application))
        if user_config["keys"] != self._key_rows:
            # Not at every promotion: what a key has used of its minute would be forgotten.
            self._key_rows = user_config["keys"]
            self.keys = KeyRing([ApiKey(**row) for row in self._key_rows], self._gateways)
        self.dispatcher.routes = routes
        for application in self._handles.keys() - known:
            del self._handles[application], self._joiners[application]
            self._served.pop(application, None)
        if self._listen is not None and self._server is None:
            self._server = asyncio.create_task(self._listen_on(*self._listen))

    def check_health(self) -> None:
        if self._server is not None and self._server.done():
            raise RuntimeError("the gateway does not listen any more")

    async def _listen_on(self, host: str, port: int) -> None:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Gateways of one service share the port. The deployer has checked that nobody else has it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        config = uvicorn.Config(
            build_api(self), http="httptools", lifespan="off", access_log=False, log_config=None
        )
        await uvicorn.Server(config).serve(sockets=[listener])

    async def served(self, application: str) -> Served:
        """What an application serves, asked anew: that it answers is part of what is asked.

        One whose queue is full is at work, which is an answer too.
        """
        try:
            self._served[application] = await self._handles[application].served.remote()
        except BackPressureError:
            if application not in self._served:
                raise
        return self._served[application]

    async def _ask(self, application: str, call: Call) -> Reply:
        joiner = self._joiners.get(application)
        if joiner is None:
            # Retired since the route was looked up.
            return _UNAVAILABLE
        if is_small(call):
            return await joiner.ask(call)
        return (await self._send(application, "answer", call))[0]

    def _sender(self, application: str) -> Any:
        async def send(calls: list[Call]) -> list[Reply]:
            return await self._send(application, "answer_each", calls)

        return send

    async def _send(self, application: str, method: str, argument: Any) -> list[Reply]:
        """The replies to a call or to several; a replica that dies under them is asked for again elsewhere."""
        count = len(argument) if method == "answer_each" else 1
        for attempt in range(_TRIES):
            handle = self._handles.get(application)
            if handle is None:
                return [_UNAVAILABLE] * count
            response = getattr(handle, method).remote(argument)
            try:
                found = await response
                return found if method == "answer_each" else [found]
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError:
                return [_BUSY] * count
            except DeploymentUnavailableError:
                return [_UNAVAILABLE] * count
            except (RayActorError, RayServeException):
                await asyncio.sleep(_PAUSE_S * (attempt + 1))
        return [_UNAVAILABLE] * count

    async def search(self, request: SearchRequest) -> SearchResponse | Refusal:
        """Three rankings of the page's documents."""
        if not self._has_documents:
            message = "This service was started without documents: `embedloom serve NAME --documents FOLDER`."
            return Refusal(404, message, "no_documents")
        try:
            return await self._search(request)
        except (RayActorError, RayServeException):
            return _UNAVAILABLE

    async def _search(self, request: SearchRequest) -> SearchResponse:
        documents = await asyncio.to_thread(serve.get_app_handle, DOCUMENTS)
        size = await documents.size.remote()
        began = time.perf_counter()
        found = await documents.lexical.remote(request.query, request.k)
        bm25 = Column(ranker="BM25", hits=[_hit(each) for each in found], milliseconds=_since(began))
        began = time.perf_counter()
        query = EmbedCall([request.query], [], "query", None, None)
        reply = await self.dispatcher.answer(None, query)
        if not isinstance(reply, Vectors):
            note = reply.message if isinstance(reply, Refusal) else ""
            empty = Column(ranker="none", hits=[], note=note)
            return SearchResponse(documents=size, encoded=size, bm25=bm25, embedding=empty, reranked=empty)
        served = reply.served
        route = self.dispatcher.routes.by_name[served.model]
        nearest, encoded = await documents.nearest.remote(
            reply.vectors_ND[0],
            max(request.k, _RERANKED),
            served.space_id,
            route.applications[served.version],
        )
        note = "" if encoded == size else f"{encoded:,} of {size:,} documents are encoded so far"
        embedding = Column(
            ranker=f"{served.model} version {served.version}",
            space_id=served.space_id,
            hits=[_hit(each) for each in nearest[: request.k]],
            note=note,
            milliseconds=_since(began),
        )
        reranked = await self._rerank(request, nearest[:_RERANKED])
        return SearchResponse(
            documents=size, encoded=encoded, bm25=bm25, embedding=embedding, reranked=reranked
        )

    async def _rerank(self, request: SearchRequest, pool: list[Any]) -> Column:
        if not pool:
            return Column(ranker="no reranker", hits=[], note="no document is encoded yet")
        began = time.perf_counter()
        scored = await self.dispatcher.answer(
            None, ScoreCall([request.query] * len(pool), [each.text for each in pool], None)
        )
        if not isinstance(scored, Scores):
            note = scored.message if isinstance(scored, Refusal) else ""
            if isinstance(scored, Refusal) and scored.status == 404:
                note = "Nothing reranks here: `embedloom serve NAME --reranker MODEL` does."
            return Column(ranker="no reranker", hits=[], note=note)
        order = sorted(range(len(pool)), key=lambda row: -scored.scores_N[row])[: request.k]
        return Column(
            ranker=f"{scored.served.model} version {scored.served.version}",
            space_id=scored.served.space_id,
            hits=[_hit(pool[row], float(scored.scores_N[row])) for row in order],
            note=f"the first {len(pool)} of the embedder",
            milliseconds=_since(began),
        )


async def _handle(application: str) -> DeploymentHandle:
    """After a restart of everything a model's application may be known a little later than the gateway."""
    deadline = time.monotonic() + _KNOWN_WITHIN_S
    while True:
        try:
            return await asyncio.to_thread(serve.get_app_handle, application)
        except RayServeException:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE_S)


def _hit(found: Any, score: float | None = None) -> Hit:
    return Hit(
        document_id=found.document_id,
        title=found.title,
        text=found.text[:400],
        score=found.score if score is None else score,
    )


def _since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 1)
