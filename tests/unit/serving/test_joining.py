"""Small calls are sent together while others are under way."""

import asyncio

from components.serving.calls import Call, EmbedCall, Refusal, Reply
from components.serving.joining import Joiner


def test_calls_wait_for_one_another_until_one_is_full():
    sent: list[int] = []

    async def main() -> list[Reply]:
        go = asyncio.Event()

        async def send(calls: list[Call]) -> list[Reply]:
            sent.append(len(calls))
            await go.wait()
            return [Refusal(400, call.texts[0], "echo") for call in calls if isinstance(call, EmbedCall)]

        joiner = Joiner(send)
        calls = [EmbedCall([str(number)], [], "query", None, None) for number in range(140)]
        asking = [asyncio.create_task(joiner.ask(call)) for call in calls]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sent == [1, 1, 64, 64]
        go.set()
        return await asyncio.gather(*asking)

    replies = asyncio.run(main())
    assert [reply.message for reply in replies if isinstance(reply, Refusal)] == list(map(str, range(140)))
    assert sent == [1, 1, 64, 64, 10]
