"""Bulk embedding: documents come in as lines and vectors go out as lines, a few groups at a time.

Nothing is held but the groups under way: where the client reads slowly, or the service is busy, the client is read
from slowly.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from components.serving.calls import Refusal, Reply, Vectors
from components.serving.schema import check_text, encode_vector

_TEXTS, _CHARACTERS, _UNDER_WAY = 32, 64_000, 3
_MAX_LINE_BYTES = 1024 * 1024
_LONGEST_WAIT_S = 5.0

Embed = Callable[[list[str]], Awaitable[Reply]]


class StreamError(ValueError):
    """A line that cannot be used; the message says which."""


@dataclass(frozen=True)
class Line:
    """A document: `id` is whatever the client will know it by."""

    id: Any
    text: str


async def embed_lines(body: AsyncIterator[bytes], embed: Embed) -> AsyncIterator[bytes]:
    """Lines `{"id", "embedding"}` in the order of the input, `embedding` in base64 of little-endian float32.

    The last line is `{"done": true, "documents", "tokens", "model", "version", "space_id"}`, or `{"error"}`: a
    stream that ends otherwise is not whole.

    Args:
        body: JSON Lines `{"id", "text"}` in pieces of any size.
        embed: the vectors of some texts.
    """
    under_way: deque[asyncio.Task[tuple[list[Line], Vectors]]] = deque()
    documents = tokens = 0
    last: Vectors | None = None

    async def next_lines() -> bytes:
        nonlocal documents, tokens, last
        lines, last = await under_way.popleft()
        documents += len(lines)
        tokens += last.tokens
        return b"".join(_render(line.id, vector) for line, vector in zip(lines, last.vectors_ND, strict=True))

    try:
        async for group in _groups(_lines(body)):
            under_way.append(asyncio.create_task(_embedded(group, embed)))
            if len(under_way) >= _UNDER_WAY:
                yield await next_lines()
        while under_way:
            yield await next_lines()
        if last is None:
            raise StreamError("the body holds no line")
    except StreamError as error:
        yield _line({"error": {"message": str(error), "type": "invalid_request_error"}})
        return
    finally:
        for task in under_way:
            task.cancel()
    yield _line(
        {
            "done": True,
            "documents": documents,
            "tokens": tokens,
            "model": last.served.model,
            "version": last.served.version,
            "space_id": last.served.space_id,
        }
    )


async def _embedded(group: list[Line], embed: Embed) -> tuple[list[Line], Vectors]:
    """Vectors of a group; a busy service is waited for. Raises StreamError if it refuses."""
    while True:
        reply = await embed([line.text for line in group])
        if isinstance(reply, Vectors):
            return group, reply
        assert isinstance(reply, Refusal)
        if reply.retry_after_s is None:
            raise StreamError(reply.message)
        await asyncio.sleep(min(reply.retry_after_s, _LONGEST_WAIT_S))


async def _groups(lines: AsyncIterator[Line]) -> AsyncIterator[list[Line]]:
    group: list[Line] = []
    async for line in lines:
        group.append(line)
        if len(group) == _TEXTS or sum(len(each.text) for each in group) > _CHARACTERS:
            yield group
            group = []
    if group:
        yield group


async def _lines(body: AsyncIterator[bytes]) -> AsyncIterator[Line]:
    """Raises StreamError, naming the line."""
    rest = b""
    number = 0
    async for piece in body:
        *whole, rest = (rest + piece).split(b"\n")
        for content in whole:
            number += 1
            if content.strip():
                yield _read(content, number)
        if len(rest) > _MAX_LINE_BYTES:
            raise StreamError(f"line {number + 1} is longer than {_MAX_LINE_BYTES} bytes")
    if rest.strip():
        yield _read(rest, number + 1)


def _read(content: bytes, number: int) -> Line:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StreamError(f"line {number} is no valid JSON") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"]:
        raise StreamError(f"line {number} is no object with a field `text` that is not empty")
    try:
        check_text(row["text"], f"line {number}")
    except ValueError as error:
        raise StreamError(str(error)) from error
    return Line(row.get("id", number), row["text"])


def _render(name: Any, vector_D: Any) -> bytes:
    return _line({"id": name, "embedding": encode_vector(vector_D, "base64")})


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"
