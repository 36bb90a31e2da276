"""One exported directory, three ways: our encoder, sentence-transformers, and transformers alone."""

import numpy as np
import pytest
import torch
from parity_texts import parity_texts
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

TEXTS = parity_texts()


@pytest.fixture(scope="module")
def smollm_directory(smollm_two_layers, tmp_path_factory):
    """A decoder of two layers with an instruction, as Qwen3-Embedding is: the last token, causal, left padding."""
    directory = tmp_path_factory.mktemp("smollm")
    spec = {
        "query_template": "Instruct: {instruction}\nQuery:{text}",
        "instruction": "Given a question, retrieve the page that answers it",
        "query_length": 128,
        "document_length": 128,
        "padding_side": "left",
    }
    import_model(model=str(smollm_two_layers), spec=spec, output=Folder(str(directory)), monitor=Silent())
    return directory


@pytest.fixture(params=["minilm", "smollm"])
def directory(request, minilm_directory, smollm_directory):
    return {"minilm": minilm_directory, "smollm": smollm_directory}[request.param]


def by_transformers(directory, texts: list[str], pooling: str) -> np.ndarray:
    """As a user would write it, sixteen texts at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    vectors = []
    for start in range(0, len(texts), 16):
        batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            hidden_BTD = model(**batch).last_hidden_state
        if pooling == "mean":
            mask_BT1 = batch["attention_mask"].unsqueeze(-1)
            vectors.append((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1))
        else:
            assert tokenizer.padding_side == "left"
            vectors.append(hidden_BTD[:, -1])
    return normalize(torch.cat(vectors), dim=-1).numpy()


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize(("side", "texts"), [("query", TEXTS[::5]), ("document", TEXTS)])
def test_two_hundred_texts_get_the_same_vectors(directory, side, texts):
    assert len(TEXTS) == 200
    embedder = Embedder.load(directory)
    ours = embedder.encode(texts, side, tokens_per_batch=4096)
    peer = SentenceTransformer(str(directory), device="cpu")
    assert cosines(ours, peer.encode(texts, prompt_name=side)).min() > 0.9999
    prefixed = [embedder.spec.prefix(side) + text for text in texts]
    assert cosines(ours, by_transformers(directory, prefixed, embedder.spec.pooling)).min() > 0.9999


def test_fewer_dimensions_are_the_same_in_sentence_transformers(directory):
    ours = Embedder.load(directory).encode(TEXTS[:40], "document")[:, :64]
    peer = SentenceTransformer(str(directory), device="cpu", truncate_dim=64)
    assert cosines(ours, peer.encode(TEXTS[:40], prompt_name="document")).min() > 0.9999
