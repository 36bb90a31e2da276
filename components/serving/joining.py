"""Small calls to one application are sent together while others are under way.

A call between two processes costs about as much as computing a short query; under load most of that is saved. What
is large goes alone, so that no query waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from components.serving.calls import Call, EmbedCall, Reply

_UNDER_WAY = 3
"""While so many joined calls are under way, others wait to be sent together, until they are `_JOINED`. A replica
computes two at once; the third is on its way."""
_JOINED = 64
_GATHER_S = 0.004
"""While any are under way, so long a call waits for others: answers that went out together bring the next questions
together, and the first of those should not go alone."""
_SMALL_ITEMS, _SMALL_CHARACTERS = 4, 4000


def is_small(call: Call) -> bool:
    """Whether others may wait for this call."""
    if isinstance(call, EmbedCall):
        if len(call.texts) + len(call.token_ids) > _SMALL_ITEMS:
            return False
        return sum(map(len, call.texts)) + 4 * sum(map(len, call.token_ids)) <= _SMALL_CHARACTERS
    return len(call.documents) <= _SMALL_ITEMS and sum(map(len, call.documents)) <= _SMALL_CHARACTERS


class Joiner:
    """Args: send: asks the application for the replies to several calls."""

    def __init__(self, send: Callable[[list[Call]], Awaitable[list[Reply]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Call, asyncio.Future[Reply]]] = []
        self._gathering: asyncio.TimerHandle | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if not self._under_way or len(self._waiting) >= _JOINED:
            self._start()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHER_S, self._end_gathering)
        return await future

    def _end_gathering(self) -> None:
        self._gathering = None
        self._start()

    def _start(self) -> None:
        if self._waiting and (len(self._under_way) < _UNDER_WAY or len(self._waiting) >= _JOINED):
            joined, self._waiting = self._waiting[:_JOINED], self._waiting[_JOINED:]
            task = asyncio.get_running_loop().create_task(self._run(joined))
            self._under_way.add(task)

    async def _run(self, joined: list[tuple[Call, "asyncio.Future[Reply]"]]) -> None:
        wanted = [(call, future) for call, future in joined if not future.done()]
        try:
            replies = await self._send([call for call, _ in wanted]) if wanted else []
            for (_, future), reply in zip(wanted, replies, strict=True):
                if not future.done():
                    future.set_result(reply)
        except Exception as error:
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._under_way.discard(task)
            if self._gathering is None:
                self._start()
