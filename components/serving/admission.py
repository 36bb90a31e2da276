"""Who and what is let in: API keys and their allowance, the size of a body, how much is under way at once."""

import asyncio
import time
from collections.abc import Callable

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.answers import MAX_BODY_BYTES, RETRY_AFTER_S, BodyTooLargeError, error_response
from components.serving.keys import KeyRing
from components.serving.metrics import Metrics
from components.serving.options import is_loopback

_OPEN_PATHS = {"/", "/health", "/ready", "/docs", "/openapi.json"}
"""What needs no key: what says nothing of documents or models, and what a load balancer asks."""
STREAM_PATH = "/v1/embeddings/stream"
"""Whose body may be of any length: it is read as it is worked on."""
_MAX_REQUESTS = 1024
_MAX_BYTES = 256 * 1024 * 1024
"""Bodies under way, all together."""
_BUSY = "The service is busy: too much is under way. Try again in a second."
_DRAIN_BYTES, _DRAIN_S = 256 * 1024 * 1024, 10.0
"""A client that is still sending reads no answer: so much of a refused body is read and forgotten."""
_SILENT_S = 30.0
"""A client that sends nothing for so long in the midst of a body is given up: it holds a place."""


class Admission:
    """ASGI middleware in front of everything else; it counts what it lets in and what it refuses.

    Args:
        ring: the keys of the moment.
        routes: paths that are counted by name.
    """

    def __init__(
        self, app: ASGIApp, ring: Callable[[], KeyRing], metrics: Metrics, routes: frozenset[str]
    ) -> None:
        self._app = app
        self._ring = ring
        self._metrics = metrics
        self._routes = routes
        self._bytes = 0
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._requests += 1
        self._metrics.in_flight.inc()
        try:
            await self._admit(scope, receive, counted)
        except Exception:
            # Its answer is written further out.
            status = 500
            raise
        finally:
            self._requests -= 1
            self._metrics.in_flight.dec()
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        is_stream = scope["path"] == STREAM_PATH
        size = int(declared) if declared.isdigit() and not is_stream else 0
        refusal = self._refuse_caller(scope, headers)
        if refusal is None and size > MAX_BODY_BYTES:
            refusal = error_response(413, str(BodyTooLargeError().detail))
        if refusal is None and (
            self._requests > _MAX_REQUESTS or (self._bytes and self._bytes + size > _MAX_BYTES)
        ):
            refusal = error_response(429, _BUSY, "rate_limit_exceeded", retry_after_s=RETRY_AFTER_S)
        if refusal is not None:
            await _drain(receive)
            await refusal(scope, receive, send)
            return
        seen, held, whole = 0, size, False

        async def limited() -> Message:
            nonlocal seen, held, whole
            if is_stream:
                return await receive()
            try:
                # After the body whoever receives waits for the client to leave.
                async with asyncio.timeout(None if whole else _SILENT_S):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"Nothing of the body came for {_SILENT_S:.0f} s.") from error
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                await _drain_after(message, receive)
                raise BodyTooLargeError
            if seen > held:  # a body that did not say how long it is
                self._bytes += seen - held
                held = seen
                if self._bytes > max(held, _MAX_BYTES):
                    await _drain_after(message, receive)
                    raise HTTPException(429, _BUSY, {"retry-after": f"{RETRY_AFTER_S:.0f}"})
            return message

        self._bytes += size
        try:
            await self._app(scope, limited, send)
        finally:
            self._bytes -= held

    def _refuse_caller(self, scope: Scope, headers: dict[bytes, bytes]) -> ASGIApp | None:
        ring = self._ring()
        if scope["path"] in _OPEN_PATHS:
            return None
        if ring.is_open:
            # Whoever made it listen: a config for Serve's proxies is not checked by anybody else.
            caller = scope.get("client")
            if caller is None or is_loopback(caller[0]):
                return None
            message = (
                "Without API keys this service answers its own machine only: `embedloom key NAME` makes one."
            )
            return error_response(403, message, "api_keys_needed")
        given = headers.get(b"authorization", b"").decode("latin-1")
        key = ring.find(given.removeprefix("Bearer ").strip())
        if key is None:
            message = "An API key of this service is needed: send the header Authorization: Bearer KEY."
            return error_response(401, message, "invalid_api_key")
        self._metrics.key_requests.labels(key.name).inc()
        scope.setdefault("state", {})["key"] = key.name
        if wait_s := ring.admit(key):
            message = f"The key '{key.name}' has used up its allowance of a minute."
            return error_response(429, message, "rate_limit_exceeded", retry_after_s=wait_s)
        return None


async def _drain_after(message: Message, receive: Receive) -> None:
    if message.get("more_body"):
        await _drain(receive)


async def _drain(receive: Receive) -> None:
    """Read the rest of a body and forget it, so that the client comes to read the answer."""
    left = _DRAIN_BYTES
    try:
        async with asyncio.timeout(_DRAIN_S):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return
