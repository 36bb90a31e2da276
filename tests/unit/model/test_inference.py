"""Models that are only to encode or score: the same vectors and scores as those that can be trained."""

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from torch import nn
from transformers import T5Config, T5EncoderModel

from components.model.embedder import DTYPES, Embedder
from components.model.inference import inference_embedder, inference_reranker
from components.model.int8 import use_int8
from components.model.linear import PackedLinear, outruns_mkl, pack_linear, use_onednn
from components.model.reranker import load_reranker
from components.processor import multiplies_bfloat16, multiplies_int8

needs_onednn = pytest.mark.skipif(not outruns_mkl(), reason="MKL multiplies on this processor")
TEXTS = ["w1 w2 w3", "w4", "w5 " * 30]


@needs_onednn
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packed_layers_give_the_same_vectors_in_float32_to_the_last_bit(tmp_path, precision):
    directory = write_tiny_model(tmp_path / "tiny")
    packed, plain = (Embedder.load(directory, DTYPES[precision]) for _ in range(2))
    pack_linear(packed.blocks())
    layers = [layer for layer in packed.blocks().modules() if isinstance(layer, PackedLinear)]
    assert len(layers) == (0 if precision == "bfloat16" and not multiplies_bfloat16() else 12)
    for texts in (TEXTS, TEXTS[:1], TEXTS * 40):
        found, expected = packed.encode(texts, "document"), plain.encode(texts, "document")
        if precision == "float32":
            np.testing.assert_array_equal(found, expected)
        else:  # GELU comes before the product is rounded here
            np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_embedder_gives_the_same_vectors(tmp_path, precision):
    directory = write_tiny_model(tmp_path / "tiny")
    found = inference_embedder(directory, precision).encode(TEXTS, "document")
    expected = Embedder.load(directory).encode(TEXTS, "document")
    np.testing.assert_allclose(found, expected, atol=1e-6 if precision == "float32" else 0.02)


@pytest.mark.parametrize("write", [write_cross_encoder, write_yes_no_model])
def test_a_reranker_scores_the_same(tmp_path, write):
    directory = write(tmp_path / "reranker")
    queries, documents = ["a query"] * 3, ["one document", "a second one", "third"]
    scores = [
        reranker.score(queries, documents, [None] * 3)
        for reranker in (load_reranker(directory), inference_reranker(directory))
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-6)


@pytest.mark.parametrize("prepare", [pack_linear, use_int8])
def test_a_t5_asks_its_layers_for_their_type(prepare):
    if prepare is use_int8 and not multiplies_int8():
        pytest.skip("this processor has no products in int8")
    torch.manual_seed(0)
    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    model = T5EncoderModel(config).eval()
    ids_BT = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        expected = model(input_ids=ids_BT).last_hidden_state
        if outruns_mkl():
            use_onednn(model)
        prepare(model.encoder.block)
        found = model(input_ids=ids_BT).last_hidden_state
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.99
    changed = not any(type(layer) is nn.Linear for layer in model.encoder.block.modules())
    assert changed or not outruns_mkl()
