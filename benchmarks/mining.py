"""Exact search as mining does it, against faiss-cpu's exact index: time, results, memory of a worker.

Run: python benchmarks/mining.py [--documents 50000 100000 200000] [--queries 20000] [--rounds 3]
Random unit vectors of 384 dimensions, the 100 best documents of every query. Ours: vectors in files, two Ray tasks
of one CPU at once, findings written to files; reading and writing are in the time. faiss: IndexFlatIP over vectors
that lie in memory already, two threads; the time of its search alone. In turn, medians.

Both compute float32 inner products, in other orders of summation, so documents whose scores differ by less than that
rounding may change places. Where the two name different documents for a rank, both are scored again in float64,
and the scores must agree to 2e-6; any other difference fails. The bars: at most 1.2 times faiss for the largest
corpus, and a worker's memory, above that of one that has done nothing, within `sharded.worker_bytes`.
The last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import ray  # noqa: E402

from components.monitor import Silent  # noqa: E402
from components.search.running import unpack  # noqa: E402
from components.search.sharded import search_shards, worker_bytes  # noqa: E402
from components.search.shards import Shards  # noqa: E402
from components.storage import Folder  # noqa: E402

DIMENSIONS, DEPTH, WORKERS = 384, 100, 2
ROWS_PER_SHARD = 8192
BAR = 1.2
SAME_SCORE = 2e-6


def unit_vectors(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(folder: str, vectors: np.ndarray) -> Shards:
    shards = Shards(Folder(folder), len(vectors), ROWS_PER_SHARD)
    for shard in range(len(shards)):
        span = shards.span(shard)
        shards.write(shard, vectors[span.start : span.stop])
    return shards


class Watch:
    """The most anonymous memory of any Ray worker while the block runs, in bytes. Mapped files are not in it."""

    def __enter__(self) -> "Watch":
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, *_anonymous(), 0)


def _anonymous() -> list[int]:
    found = []
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith("ray::"):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                continue
            found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
    return found


def differences(
    query_ND: np.ndarray, document_MD: np.ndarray, ours_NK: np.ndarray, peer_NK: np.ndarray
) -> tuple[int, float]:
    """Ranks at which the two name different documents, and how far their scores lie apart at most, in float64."""
    query, rank = np.nonzero(ours_NK != peer_NK)
    if not len(query):
        return 0, 0.0
    wanted = query_ND[query].astype(np.float64)
    gap = np.abs(
        np.einsum("jd,jd->j", wanted, document_MD[ours_NK[query, rank]].astype(np.float64))
        - np.einsum("jd,jd->j", wanted, document_MD[peer_NK[query, rank]].astype(np.float64))
    )
    return len(query), float(gap.max())


def idle_worker() -> int:
    """Anonymous memory of a worker that has imported what it needs and done nothing, in bytes."""

    def loaded() -> str:
        import components.search.sharded  # noqa: F401

        return Path("/proc/self/status").read_text()

    status = ray.get(ray.remote(num_cpus=1)(loaded).remote())
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measure(directory: str, documents: int, queries: int, rounds: int, idle: int) -> dict[str, float | bool]:
    query_ND, document_MD = unit_vectors(queries, 1), unit_vectors(documents, 2)
    stored = write(f"{directory}/queries", query_ND), write(f"{directory}/documents-{documents}", document_MD)
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(document_MD)
    ours, peer, peak = [], [], 0
    for number in range(rounds):
        found = Shards(Folder(f"{directory}/found-{documents}-{number}"), queries, ROWS_PER_SHARD)
        with Watch() as watch:
            began = time.perf_counter()
            search_shards(*stored, DEPTH, found, Silent(), workers=WORKERS)
            ours.append(time.perf_counter() - began)
        peak = max(peak, watch.peak - idle)
        began = time.perf_counter()
        peer_NK = index.search(query_ND, DEPTH)[1]
        peer.append(time.perf_counter() - began)
    ours_NK = unpack(found.take(np.arange(queries)))[1]
    ranks, gap = differences(query_ND, document_MD, ours_NK, peer_NK)
    bound = worker_bytes(DIMENSIONS, DEPTH, min(queries, ROWS_PER_SHARD), ROWS_PER_SHARD)
    return {
        "documents": documents,
        "ours_s": round(statistics.median(ours), 2),
        "faiss_s": round(statistics.median(peer), 2),
        "ratio": round(statistics.median(ours) / statistics.median(peer), 3),
        "ranks": queries * DEPTH,
        "ranks_that_differ": ranks,
        "largest_score_gap_there": gap,
        "worker_peak_mib": round(peak / 2**20, 1),
        "worker_bound_mib": round(bound / 2**20, 1),
        "holds": gap <= SAME_SCORE and peak <= bound,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    faiss.omp_set_num_threads(WORKERS)
    with tempfile.TemporaryDirectory(prefix="mining-", dir="/tmp") as directory:
        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=f"{directory}/ray",
        )
        idle = idle_worker()
        measure(f"{directory}/warm-up", 2 * ROWS_PER_SHARD, 64, 1, idle)  # starts the workers
        table = [
            measure(directory, documents, options.queries, options.rounds, idle)
            for documents in options.documents
        ]
        ray.shutdown()
    for row in table:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    largest = table[-1]
    holds = largest["ratio"] <= BAR and all(row["holds"] for row in table)
    line = {
        "benchmark": "mining",
        "ours": largest["ours_s"],
        "peer": largest["faiss_s"],
        "ratio": largest["ratio"],
        "bar": BAR,
        "holds": holds,
        "detail": {
            "unit": "s",
            "queries": options.queries,
            "dimensions": DIMENSIONS,
            "depth": DEPTH,
            "workers": WORKERS,
            "rounds": options.rounds,
            "same_score": SAME_SCORE,
            "sizes": table,
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
