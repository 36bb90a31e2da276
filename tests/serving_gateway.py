"""The API without Ray: the real services in this process behind the real endpoints, on a port of its own."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import uvicorn

from components.serving.api import build_api
from components.serving.calls import Call, Refusal, Reply, Served
from components.serving.dispatch import Dispatcher
from components.serving.keys import ApiKey, KeyRing
from components.serving.metrics import Metrics
from components.serving.routes import Route, Routes, Shadow
from components.serving.search_schema import SearchRequest, SearchResponse
from components.serving.service import ModelService
from components.serving.verify import from_directory


class LocalGateway:
    """Models in this process.

    Args:
        models: directories; each is served as version `local` under its directory's name.
        shadows: model name -> another served model that is its shadow.
    """

    def __init__(
        self,
        models: Sequence[Path],
        keys: Sequence[ApiKey] = (),
        shadows: dict[str, str] | None = None,
        max_waiting_tokens: int = 100_000,
        max_request_tokens: int = 300_000,
        timeout_s: float = 30.0,
    ) -> None:
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self._ask, self.metrics, timeout_s)
        self.keys = KeyRing(list(keys))
        releases = {release.model: release for release in map(from_directory, models)}
        self.services = {
            name: ModelService(
                asdict(release), {"threads": 1}, 2048, max_waiting_tokens, 60.0, max_request_tokens
            )
            for name, release in releases.items()
        }
        routes = Routes()
        for name, release in releases.items():
            shadow = (shadows or {}).get(name)
            route = Route(name, release.kind, "local", {"local": name})
            if shadow:
                versions = {"local": name, "next": shadow}
                route = Route(name, release.kind, "local", versions, Shadow("next", 1.0))
            routes = routes.with_route(route)
        self.dispatcher.routes = routes

    async def _ask(self, application: str, call: Call) -> Reply:
        return await self.services[application].answer(call)

    async def served(self, application: str) -> Served:
        return await self.services[application].served()

    async def search(self, request: SearchRequest) -> SearchResponse | Refusal:
        return Refusal(404, "no documents here", "no_documents")


@contextlib.contextmanager
def listening(gateway: LocalGateway) -> Iterator[str]:
    """Serve a gateway's API from a thread; yields its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(build_api(gateway), http="httptools", lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
