import asyncio
import itertools
import threading

import numpy as np
import pytest

from components.serving.batcher import OverloadedError, TokenBatcher


class Recorder:
    """Computes sum and length of each text, and remembers the batches; may be held up."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, token_ids: list[list[int]]) -> np.ndarray:
        self.gate.wait(10)
        self.batches.append(token_ids)
        return np.array([[sum(ids), len(ids)] for ids in token_ids], dtype=np.float32)


def batcher(
    recorder: Recorder,
    tokens_per_batch: int = 100,
    max_waiting_tokens: int = 1000,
    max_wait_s: float = 100.0,
    streams: int = 1,
) -> TokenBatcher[list[int]]:
    return TokenBatcher(recorder.encode, streams, tokens_per_batch, max_waiting_tokens, max_wait_s)


async def run(queue: TokenBatcher[list[int]], request: list[list[int]]) -> np.ndarray:
    return await queue.run(request, [len(ids) for ids in request])


def test_each_request_gets_its_own_rows_in_order():
    rng = np.random.default_rng(0)
    requests = [
        [list(map(int, rng.integers(1, 9, rng.integers(1, 40)))) for _ in range(n)] for n in (1, 7, 30, 2)
    ]
    recorder = Recorder()
    queue = batcher(recorder)

    async def main() -> list[np.ndarray]:
        return await asyncio.gather(*(run(queue, request) for request in requests))

    for request, rows in zip(requests, asyncio.run(main()), strict=True):
        np.testing.assert_array_equal(rows, [[sum(ids), len(ids)] for ids in request])
    assert sum(len(batch) for batch in recorder.batches) == 40
    assert all(sum(map(len, batch)) <= 100 for batch in recorder.batches)


def test_a_text_above_the_budget_is_a_batch_of_its_own():
    recorder = Recorder()
    rows = asyncio.run(run(batcher(recorder, tokens_per_batch=10), [[1] * 5, [1] * 50, [1] * 5]))
    assert rows[:, 1].tolist() == [5, 50, 5]
    assert [1] * 50 in [batch[0] for batch in recorder.batches if len(batch) == 1]


def test_a_large_request_does_not_hold_up_a_small_one():
    recorder = Recorder()
    queue = batcher(recorder, tokens_per_batch=20, max_waiting_tokens=10_000)
    done: list[str] = []

    async def send(name: str, texts: int) -> None:
        await run(queue, [[1] * 10] * texts)
        done.append(name)

    async def main() -> None:
        large = asyncio.create_task(send("large", 200))
        await asyncio.sleep(0.01)
        await asyncio.gather(large, send("small", 1))

    recorder.gate.clear()
    threading.Timer(0.1, recorder.gate.set).start()
    asyncio.run(main())
    assert done == ["small", "large"]


def test_a_full_queue_turns_away_and_recovers():
    recorder = Recorder()
    queue = batcher(recorder, tokens_per_batch=10, max_waiting_tokens=30)

    async def main() -> None:
        recorder.gate.clear()
        waiting = []
        for _ in range(4):  # one is being computed, three wait
            waiting.append(asyncio.create_task(run(queue, [[1] * 10])))
            await asyncio.sleep(0.02)
        with pytest.raises(OverloadedError) as caught:
            await run(queue, [[1]])
        assert caught.value.retry_after_s >= 1
        recorder.gate.set()
        await asyncio.gather(*waiting)
        assert (await run(queue, [[1]])).tolist() == [[1, 1]]

    asyncio.run(main())


def test_what_would_wait_too_long_is_turned_away_by_the_speed_that_was_measured():
    recorder = Recorder()
    queue = batcher(recorder, tokens_per_batch=10, max_waiting_tokens=10**9, max_wait_s=0.05)

    async def main() -> None:
        recorder.gate.clear()
        threading.Timer(0.2, recorder.gate.set).start()
        await run(queue, [[1] * 10])  # 10 tokens in 0.2 s
        for _ in range(20):
            await run(queue, [[1] * 2])  # a small batch says nothing of a long queue
        recorder.gate.clear()
        first = asyncio.create_task(run(queue, [[1] * 10]))
        await asyncio.sleep(0.02)  # under way: nothing waits
        second = asyncio.create_task(run(queue, [[1] * 10]))
        await asyncio.sleep(0.02)
        assert queue.expected_wait_s() == pytest.approx(0.2, rel=0.5)
        with pytest.raises(OverloadedError):
            await run(queue, [[1]])
        recorder.gate.set()
        await asyncio.gather(first, second)

    asyncio.run(main())


def test_what_a_cancelled_request_still_waits_for_is_not_computed():
    recorder = Recorder()
    queue = batcher(recorder, tokens_per_batch=10, max_waiting_tokens=200)

    async def main() -> None:
        recorder.gate.clear()
        gone = asyncio.create_task(run(queue, [[7] * 10] * 20))
        await asyncio.sleep(0.05)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        recorder.gate.set()
        await run(queue, [[1] * 10])

    asyncio.run(main())
    assert sum(batch[0][0] == 7 for batch in recorder.batches) == 1


def test_a_failed_batch_fails_its_request_alone():
    recorder = Recorder()

    def compute(items: list[list[int]]) -> np.ndarray:
        if items[0] == [1]:
            raise RuntimeError("out of memory")
        return recorder.encode(items)

    queue = TokenBatcher(compute, 1, 1, 100, 100.0)

    async def main() -> None:
        failed, fine = await asyncio.gather(run(queue, [[1]]), run(queue, [[2]]), return_exceptions=True)
        assert isinstance(failed, RuntimeError)
        assert fine.tolist() == [[2, 1]]

    asyncio.run(main())


def test_streams_share_a_request_that_is_alone_and_keep_small_ones_together():
    recorder = Recorder()
    barrier, turns = threading.Barrier(2, timeout=10), itertools.count()

    def compute(items: list[list[int]]) -> np.ndarray:
        if next(turns) < 2:
            barrier.wait()  # passes only if two batches are computed at once
        return recorder.encode(items)

    queue = TokenBatcher(compute, 2, 10_000, 10_000, 100.0)
    texts = [[1] * 50] * 32
    assert len(asyncio.run(run(queue, texts))) == 32
    sizes = [len(batch) for batch in recorder.batches]
    assert sum(sizes) == 32
    assert max(sizes) == 16

    small = Recorder()
    asyncio.run(run(batcher(small, tokens_per_batch=10_000, streams=2), [[1] * 5] * 20))
    assert [len(batch) for batch in small.batches] == [20]


def test_whoever_comes_as_the_last_batch_ends_is_computed():
    recorder = Recorder()
    queue = batcher(recorder)

    async def main() -> None:
        for _ in range(50):
            # The next one comes in the very turn of the loop in which this one is done.
            await run(queue, [[1]])

    asyncio.run(asyncio.wait_for(main(), 20))
    assert len(recorder.batches) == 50
