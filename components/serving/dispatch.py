"""From a `model` name to the reply of the version that it means: routes, the time limit, the shadow's share."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from components.serving.calls import Call, EmbedCall, Kind, Refusal, Reply, Scores, Vectors
from components.serving.metrics import Metrics, difference
from components.serving.routes import Routes

Ask = Callable[[str, Call], Awaitable[Reply]]
"""Asks a Serve application. Raises whatever Serve raises."""

_SHADOWS_UNDER_WAY = 8


class Dispatcher:
    """Args: ask: how an application is asked; timeout_s: after which a request is given up."""

    def __init__(self, ask: Ask, metrics: Metrics, timeout_s: float) -> None:
        self._ask = ask
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._shadows: set[asyncio.Task[None]] = set()
        self.routes = Routes()

    async def answer(self, model: str | None, call: Call) -> Reply:
        """The reply of the version that `model` means."""
        kind: Kind = "embedding" if isinstance(call, EmbedCall) else "reranker"
        found = self.routes.find(model, kind)
        if found is None:
            names = ", ".join(f"'{route.name}'" for route in self.routes.by_name.values()) or "none"
            message = f"The model '{model}' does not exist here; served are {names}."
            if model is None:
                message = f"No model was named, and not exactly one {kind} model is served (there: {names})."
            return Refusal(404, message, "model_not_found", "model")
        route, version = found
        try:
            reply = await asyncio.wait_for(self._ask(route.applications[version], call), self._timeout_s)
        except TimeoutError:
            message = f"No answer within {self._timeout_s:.0f} s. Try again later, or with fewer texts."
            return Refusal(503, message, "timeout", retry_after_s=5.0)
        if isinstance(reply, Vectors | Scores):
            self._metrics.tokens.labels(route.name, version).inc(reply.tokens)
            shadow = route.shadow
            if shadow and version == route.current and random.random() < shadow.share:
                self._start_shadow(
                    route.name, shadow.version, route.applications[shadow.version], call, reply
                )
        return reply

    def _start_shadow(self, name: str, version: str, application: str, call: Call, reply: Reply) -> None:
        if len(self._shadows) >= _SHADOWS_UNDER_WAY:
            self._metrics.shadow_requests.labels(name, version, "skipped").inc()
            return
        task = asyncio.create_task(self._run_shadow(name, version, application, call, reply))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _run_shadow(self, name: str, version: str, application: str, call: Call, reply: Reply) -> None:
        """Ask another version too and compare; nobody gets its answer."""
        began = time.perf_counter()
        try:
            theirs = await asyncio.wait_for(self._ask(application, call), self._timeout_s)
        except Exception:
            # Whatever it was, it is the shadow's and concerns no client: counted is all that is to be done.
            self._metrics.shadow_requests.labels(name, version, "failed").inc()
            return
        outcome = "refused" if isinstance(theirs, Refusal) else "answered"
        self._metrics.shadow_requests.labels(name, version, outcome).inc()
        self._metrics.shadow_seconds.labels(name, version).observe(time.perf_counter() - began)
        apart = difference(reply, theirs)
        if apart is not None:
            self._metrics.shadow_difference.labels(name, version).observe(apart)
