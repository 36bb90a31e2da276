"""Does a promotion cost a request? Ten under constant load.

Run: python benchmarks/promotions.py [--promotions 10] [--clients 4]
A service in a process of its own answers with one of two versions of MiniLM; the other is loaded beside it, asked for
its golden vectors, answers from then on, and the first is taken out; then back again. Clients ask for a short text,
wait, pause for 20 ms and ask again. Bar: no failed request. `ours` is the number of failed requests, `peer` what no
promotion costs. The last line is JSON; the exit code is 1 if the bar is missed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from serving import NAME, free_port, import_minilm, server  # noqa: E402

from components.serving import swap  # noqa: E402
from components.serving.verify import from_directory  # noqa: E402

PAUSE_S = 0.02
SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from components.serving.local import serve_releases
from components.serving.options import ServiceOptions
from components.serving.verify import from_directory
serve_releases([replace(from_directory(Path(sys.argv[2])), version="1")],
    options=ServiceOptions(port=int(sys.argv[3])),
    say=lambda line: print(line, flush=True))
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--promotions", type=int, default=10)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="promotions-"))
    model = directory / NAME
    import_minilm(model)
    versions = [replace(from_directory(model), version=version) for version in ("2", "1")]
    port = free_port()
    log = directory / "service.log"
    command = [sys.executable, "-c", SERVE, str(ROOT), str(model), str(port)]
    latencies: list[float] = []
    failures: list[str] = []
    seconds: list[float] = []
    stop = threading.Event()

    def client(url: str) -> None:
        while not stop.is_set():
            began = time.perf_counter()
            try:
                body = {"model": NAME, "input": "how do I sort an array"}
                requests.post(url, json=body, timeout=60).raise_for_status()
            except requests.RequestException as error:
                failures.append(str(error))
            latencies.append(time.perf_counter() - began)
            time.sleep(PAUSE_S)

    os.environ["RAY_AUTH_MODE"] = "disabled"
    try:
        with server(command, port, log, {}) as url:
            dashboard = _dashboard(log)
            threads = [threading.Thread(target=client, args=(url,)) for _ in range(options.clients)]
            for thread in threads:
                thread.start()
            for turn in range(options.promotions):
                began = time.perf_counter()
                swap.bring_in(dashboard, [versions[turn % 2]], say=lambda line: print(line, file=sys.stderr))
                swap.retire(dashboard, NAME)
                seconds.append(round(time.perf_counter() - began, 1))
            stop.set()
            for thread in threads:
                thread.join()
    finally:
        stop.set()
        shutil.rmtree(directory, ignore_errors=True)
    ordered = sorted(latencies)
    print(
        json.dumps(
            {
                "benchmark": "promotions",
                "ours": len(failures),
                "peer": 0,
                "ratio": len(failures) / len(latencies),
                "bar": 0,
                "holds": not failures,
                "detail": {
                    "promotions": options.promotions,
                    "seconds_each": seconds,
                    "requests": len(latencies),
                    "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
                    "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
                    "worst_ms": round(1000 * ordered[-1], 1),
                    "failures": failures[:3],
                },
            }
        )
    )
    return 1 if failures else 0


def _dashboard(log: Path) -> str:
    """The address that the service says when it is up."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("Ray dashboard: "):
                return line.removeprefix("Ray dashboard: ").split(". ")[0]
        time.sleep(0.2)
    raise RuntimeError(log.read_text()[-2000:])


if __name__ == "__main__":
    sys.exit(main())
