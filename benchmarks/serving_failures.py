"""What do clients notice when a part of a running service is killed?

Run: python benchmarks/serving_failures.py [--rate 20] [--settle 5] [--patience 60]
A version of MiniLM from an MLflow registry is served twice: as `embedloom serve` does it on one machine (one replica,
the gateway listens itself), and as on a cluster (two replicas behind Serve's proxy). Short queries arrive at a constant
rate, whether or not earlier ones are answered, while one process after the other gets SIGKILL: a replica, the gateway,
the proxy, Serve's controller, the MLflow server, and a replica while there is no MLflow. For each: how many requests
failed and how, from the kill to the start of the last one that failed, and the slowest answer. A fault is over when
the process has been replaced and everything has been answered for `--settle` seconds.

Bars: no request fails by the MLflow server, and the service recovers from everything within `--patience` seconds.
`ours` is the number of requests that failed by the MLflow server, `peer` what a registry should cost. The table goes
to stderr; the last line is JSON; the exit code is 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from serving import NAME, free_port, import_minilm, server  # noqa: E402

from components.serving.release import Release  # noqa: E402

QUERY = "how do I sort an array"
TIMEOUT_S, AT_ONCE_S = 90.0, 1.0
SERVE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from components.serving.local import serve_releases
from components.serving.options import ServiceOptions
from components.serving.release import Release
serve_releases([Release(**json.loads(sys.argv[2]))], options=ServiceOptions(**json.loads(sys.argv[3])))
"""


@dataclass
class Load:
    """What came of requests at a constant rate; times are seconds of `time.perf_counter`."""

    under_way: dict[int, float] = field(default_factory=dict)
    answered: list[tuple[float, float]] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)

    async def run(self, url: str, rate: float, stop: asyncio.Event) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            began, number = time.perf_counter(), 0
            while not stop.is_set():
                group.create_task(self._ask(session, url, number))
                number += 1
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))

    async def _ask(self, session: aiohttp.ClientSession, url: str, number: int) -> None:
        began = self.under_way[number] = time.perf_counter()
        try:
            async with session.post(url, json={"model": NAME, "input": QUERY}) as answer:
                await answer.read()
                outcome = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome = type(error).__name__
        del self.under_way[number]
        if outcome == "200":
            self.answered.append((began, time.perf_counter()))
        else:
            self.failed.append((began, outcome))

    def is_calm(self, seconds: float) -> bool:
        """Whether for so long nothing has failed, and nothing waits for longer than a second."""
        now = time.perf_counter()
        waits = [now - began for began in self.under_way.values()]
        last_failed = max((began for began, _ in self.failed), default=0.0)
        return now - last_failed >= seconds and max(waits, default=0.0) <= AT_ONCE_S


@dataclass(frozen=True)
class Fault:
    """Processes that are killed.

    Attributes:
        find: those that it can happen to.
        count: how many of them are killed; None: all.
        is_replaced: whether somebody starts them again.
    """

    name: str
    find: Callable[[], list[psutil.Process]]
    count: int | None = 1
    is_replaced: bool = True


@dataclass(frozen=True)
class Noticed:
    """What the clients of one service noticed of one fault."""

    fault: str
    requests: int
    failed: dict[str, int]
    failing_s: float
    slowest_answer_s: float
    recovered: bool


async def suffer(fault: Fault, url: str, rate: float, settle_s: float, patience_s: float) -> Noticed:
    """Kill under load, and look until it is over."""
    load, stop = Load(), asyncio.Event()
    running = asyncio.create_task(load.run(url, rate, stop))
    await asyncio.sleep(settle_s)
    present = await asyncio.to_thread(fault.find)
    victims = present[: fault.count]
    if not victims:
        raise RuntimeError(f"there is no process to kill: {fault.name}")
    killed = time.perf_counter()
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    recovered = False
    while not recovered and time.perf_counter() - killed < patience_s:
        await asyncio.sleep(0.2)
        there = len(await asyncio.to_thread(fault.find)) if fault.is_replaced else len(present)
        over = time.perf_counter() - killed >= settle_s and load.is_calm(settle_s)
        recovered = over and there >= len(present)
    stop.set()
    await running
    last_failed = max((began for began, _ in load.failed), default=killed)
    return Noticed(
        fault=fault.name,
        requests=len(load.answered) + len(load.failed),
        failed=dict(Counter(outcome for _, outcome in load.failed)),
        failing_s=round(max(0.0, last_failed - killed), 1),
        slowest_answer_s=round(max((ended - began for began, ended in load.answered), default=0.0), 2),
        recovered=recovered,
    )


def of_ray(title: str) -> Callable[[], list[psutil.Process]]:
    """The processes below this one that Ray has given such a title."""

    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "".join(process.cmdline()[:1]).startswith(title):  # of a zombie it is empty
                    found.append(process)
        return found

    return find


def registered(directory: Path, tracking_uri: str) -> Release:
    """MiniLM as a version of a registry."""
    from components.model.export import weights_digest
    from components.serving.versions import add_version, connect, release_of

    model = directory / NAME
    import_minilm(model)
    client = connect(tracking_uri)
    space = json.loads((model / "encoding.json").read_text())["space_id"]
    tags = {"weights_digest": weights_digest(model), "space_id": space}
    return release_of(client, add_version(client, NAME, model, "embedding", tags, "failures", None))


def measure(options: argparse.Namespace, directory: Path) -> dict[str, list[Noticed]]:
    """Service -> what was noticed of each fault."""
    from workflows.engine import server as mlflow

    tracking = mlflow.start(directory / "mlflow")
    tracking.wait()

    def of_mlflow() -> list[psutil.Process]:
        if not tracking.is_alive():
            return []
        process = psutil.Process(tracking.pid)
        return [process, *process.children(recursive=True)]

    replica = of_ray(f"ray::ServeReplica:{NAME}-")
    gateway = of_ray("ray::ServeReplica:embedloom:")
    services = {
        "one machine": (
            {"replicas": 1},
            [
                Fault("the only replica", replica),
                Fault("the gateway", gateway),
                Fault("Serve's controller", of_ray("ray::ServeController")),
            ],
        ),
        "behind Serve's proxy": (
            {"replicas": 2, "own_port": False},
            [
                Fault("one replica of two", replica),
                Fault("the gateway", gateway),
                Fault("the proxy", of_ray("ray::ProxyActor")),
                Fault("the MLflow server", of_mlflow, count=None, is_replaced=False),
                Fault("one replica of two, with no MLflow", replica),
            ],
        ),
    }
    found: dict[str, list[Noticed]] = {}
    try:
        release = json.dumps(asdict(registered(directory, tracking.uri)))
        for name, (service, faults) in services.items():
            port = free_port()
            command = [sys.executable, "-c", SERVE, str(ROOT), release, json.dumps({"port": port, **service})]
            with server(command, port, directory / "service.log", {}) as url:
                found[name] = []
                for fault in faults:
                    noticed = asyncio.run(suffer(fault, url, options.rate, options.settle, options.patience))
                    print(f"{name}: {noticed}", file=sys.stderr)
                    found[name].append(noticed)
    finally:
        mlflow.stop(directory / "mlflow")
    return found


def table(found: dict[str, list[Noticed]]) -> str:
    rows = [
        "| service | killed | requests | failed | failing for | slowest answer |",
        "|---|---|---|---|---|---|",
    ]
    for service, each in found.items():
        for noticed in each:
            kinds = ", ".join(f"{count} {outcome}" for outcome, count in noticed.failed.items()) or "0"
            over = f"{noticed.failing_s} s" if noticed.recovered else "not over"
            rows.append(
                f"| {service} | {noticed.fault} | {noticed.requests} | {kinds} | {over} | "
                f"{noticed.slowest_answer_s} s |"
            )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before and after each fault")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for which a fault may last")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    directory = Path(tempfile.mkdtemp(prefix="failures-"))
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # as in the cluster's image
        "XDG_CACHE_HOME": str(directory / "cache"),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    try:
        found = measure(options, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(table(found), file=sys.stderr)
    every = [noticed for each in found.values() for noticed in each]
    by_mlflow = sum(sum(each.failed.values()) for each in every if each.fault == "the MLflow server")
    holds = {"mlflow_costs_nothing": by_mlflow == 0, "recovered": all(each.recovered for each in every)}
    print(
        json.dumps(
            {
                "benchmark": "serving_failures",
                "ours": by_mlflow,
                "peer": 0,
                "ratio": by_mlflow,
                "bar": 0,
                "holds": all(holds.values()),
                "detail": {
                    "bars_held": holds,
                    "noticed": {service: [asdict(row) for row in each] for service, each in found.items()},
                },
            }
        )
    )
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
