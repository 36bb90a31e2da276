"""What becomes of a service that gets four times what it can carry?

Run: python benchmarks/overload.py [--seconds 300]
Its capacity is measured with closed clients first; then requests of 16 texts arrive at four times that rate, whether or
not earlier ones are answered; then the capacity again. Bars: every request is answered, or refused with 429 or 503
within a second at the 99th percentile; what is admitted is answered within the time limit; the memory of all
processes grows by less than 1 GiB; the capacity afterwards is at least 0.9 of that before. `ours` is that capacity in
texts a second, `peer` the one before. The last line is JSON; the exit code is 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from serving import NAME, OURS, closed, free_port, import_minilm, server  # noqa: E402

WORDS = "return the sorted copy of an array with all its values along a given axis"
TIMES, TEXTS, CLIENTS = 4.0, 16, 16
TIMEOUT_S, REFUSED_WITHIN_S, GROWTH_BAR_BYTES, RECOVERY_BAR = 60.0, 1.0, 2**30, 0.9


def memory() -> int:
    """Bytes of this machine that are not to be had."""
    return psutil.virtual_memory().total - psutil.virtual_memory().available


async def flood(url: str, texts: list[str], rate: float, seconds: float) -> tuple[dict, int]:
    """Status -> seconds of each answer, and the most memory in use."""
    found: dict[str, list[float]] = {}
    most = memory()
    draw = random.Random(0)
    timeout = aiohttp.ClientTimeout(total=2 * TIMEOUT_S)

    async def ask(session: aiohttp.ClientSession) -> None:
        began = time.perf_counter()
        try:
            async with session.post(url, json={"model": NAME, "input": draw.sample(texts, TEXTS)}) as answer:
                await answer.read()
                status = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
        found.setdefault(status, []).append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        until = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            while time.perf_counter() < until:
                group.create_task(ask(session))
                most = max(most, memory())
                await asyncio.sleep(draw.expovariate(rate))
    return found, most


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="overload-"))
    model = directory / NAME
    import_minilm(model)
    port = free_port()
    command = [sys.executable, "-c", OURS, str(ROOT), str(model), str(port), "float32"]
    draw = random.Random(1)
    words = WORDS.split()
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 200))) for _ in range(2000)]
    os.environ["RAY_AUTH_MODE"] = "disabled"
    try:
        with server(command, port, directory / "service.log", {}) as url:
            asyncio.run(closed(url, texts, CLIENTS, TEXTS, 5.0))
            before = asyncio.run(closed(url, texts, CLIENTS, TEXTS, 15.0))
            capacity = before.texts / before.seconds
            start = memory()
            found, most = asyncio.run(flood(url, texts, TIMES * capacity / TEXTS, options.seconds))
            after = asyncio.run(closed(url, texts, CLIENTS, TEXTS, 15.0))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    recovered = after.texts / after.seconds
    answered = sorted(found.get("200", [0.0]))
    refused = sorted(found.get("429", []) + found.get("503", [])) or [0.0]
    others = {status: len(each) for status, each in found.items() if status not in ("200", "429", "503")}
    holds = {
        "nothing_else": not others,
        "in_time": answered[-1] <= TIMEOUT_S,
        "refused_at_once": refused[int(0.99 * (len(refused) - 1))] <= REFUSED_WITHIN_S,
        "memory": most - start <= GROWTH_BAR_BYTES,
        "recovery": recovered >= RECOVERY_BAR * capacity,
    }
    print(
        json.dumps(
            {
                "benchmark": "overload",
                "ours": round(recovered, 1),
                "peer": round(capacity, 1),
                "ratio": round(recovered / capacity, 3),
                "bar": RECOVERY_BAR,
                "holds": all(holds.values()),
                "detail": {
                    "bars_held": holds,
                    "answered": len(found.get("200", [])),
                    "refused": len(refused),
                    "others": others,
                    "answered_p99_s": round(answered[int(0.99 * (len(answered) - 1))], 2),
                    "slowest_answer_s": round(answered[-1], 2),
                    "refusal_p99_s": round(refused[int(0.99 * (len(refused) - 1))], 3),
                    "memory_growth_mib": round((most - start) / 2**20),
                },
            }
        )
    )
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
