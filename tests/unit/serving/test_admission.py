"""Who is let in without a key, and how much of bodies is under way at once."""

import asyncio

import pytest
from fastapi import HTTPException

from components.serving import admission
from components.serving.admission import Admission
from components.serving.keys import KeyRing
from components.serving.metrics import Metrics


@pytest.mark.parametrize(
    ("caller", "path", "status"),
    [
        ("127.0.0.1", "/v1/models", 200),
        ("::1", "/v1/models", 200),
        ("10.0.0.7", "/v1/models", 403),
        ("10.0.0.7", "/ready", 200),
    ],
)
def test_without_keys_only_this_machine_is_answered(caller, path, status):
    """However it came to listen on other interfaces: a Serve config may say any host."""
    answered: list[int] = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message) -> None:
        answered.append(message.get("status", 0))

    door = Admission(app, lambda: KeyRing([]), Metrics(), frozenset())
    scope = {"type": "http", "path": path, "headers": [], "client": (caller, 12345)}
    asyncio.run(door(scope, receive, send))
    assert answered[0] == status


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(admission, "_SILENT_S", 0.05)
    seen: list[bytes] = []

    async def app(scope, receive, send) -> None:
        while True:
            seen.append((await receive())["body"])

    async def receive() -> dict:
        if seen:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message) -> None: ...

    door = Admission(app, lambda: KeyRing([]), Metrics(), frozenset())
    scope = {"type": "http", "path": "/", "headers": [], "client": ("127.0.0.1", 1)}
    with pytest.raises(HTTPException) as refused:
        asyncio.run(door(scope, receive, send))
    assert (refused.value.status_code, seen) == (408, [b"{"])


def test_bodies_of_no_declared_length_are_counted_as_they_come(monkeypatch):
    monkeypatch.setattr(admission, "_MAX_BYTES", 1000)
    taken: list[int] = []

    async def app(scope, receive, send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        taken.append(size)

    async def send(message) -> None: ...

    door = Admission(app, lambda: KeyRing([]), Metrics(), frozenset())
    scope = {"type": "http", "path": "/", "headers": [(b"transfer-encoding", b"chunked")]}

    def body(pieces: list[int], wait: asyncio.Event | None = None):
        left = list(pieces)

        async def receive() -> dict:
            if wait is not None and len(left) == 1:
                await wait.wait()
            return {"type": "http.request", "body": b"a" * left.pop(0), "more_body": bool(left)}

        return receive

    async def both() -> None:
        go = asyncio.Event()
        slow = asyncio.create_task(door(scope, body([800, 100], go), send))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException) as refused:
            await door(scope, body([150, 150]), send)
        assert refused.value.status_code == 429
        await door(scope, body([150]), send)  # there is room for this one
        go.set()
        await slow
        # alone, a body may be larger than what many may have together
        await door(scope, body([900, 900]), send)

    asyncio.run(both())
    assert taken == [150, 900, 1800]
