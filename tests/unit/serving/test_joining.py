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
        assert sent == [1, 64, 64]
        go.set()
        return await asyncio.gather(*asking)

    replies = asyncio.run(main())
    assert [reply.message for reply in replies if isinstance(reply, Refusal)] == list(map(str, range(140)))
    assert sent == [1, 64, 64, 11]


def test_a_call_goes_at_once_where_none_is_under_way_and_else_waits_a_moment_for_others():
    sent: list[int] = []

    async def main() -> None:
        go = asyncio.Event()

        async def send(calls: list[Call]) -> list[Reply]:
            sent.append(len(calls))
            await go.wait()
            return [Refusal(400, "", "echo")] * len(calls)

        joiner = Joiner(send)
        call = EmbedCall(["a"], [], "query", None, None)
        asking = []
        for _ in range(3):
            asking.append(asyncio.create_task(joiner.ask(call)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sent == [1]
        await asyncio.sleep(0.1)
        assert sent == [1, 2]
        go.set()
        await asyncio.gather(*asking)

    asyncio.run(main())
