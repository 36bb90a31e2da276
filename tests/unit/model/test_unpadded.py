"""An embedder that computes no padding: the same vectors as one that does, in every family and pooling."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tiny_backbones import make_backbone, tiny_tokenizer
from tiny_model import write_tiny_model

from components.model.backbone import PLAIN_ATTENTION
from components.model.embedder import Embedder
from components.model.inference import inference_embedder
from components.model.spec import EncodingSpec
from components.model.unpadded import UnpaddedEmbedder, leave_out_padding

UNPADDED = sorted(PLAIN_ATTENTION)
PADDED = ["gemma", "gemma2", "gemma3"]
TEXTS = ["w1 w2 w3", "w4", "w5 " * 30, "w6 w7 w8", "", "w9 w10"]


def make(family: str, spec: dict, **config) -> Embedder:
    values = {"query_length": 32, "document_length": 32, "dimensions": 32, "pooling": "mean"} | spec
    return Embedder(make_backbone(family, **config), EncodingSpec(**values), tiny_tokenizer()).eval()


def unpadded(family: str, spec: dict, **config) -> Embedder:
    embedder = make(family, spec, **config)
    leave_out_padding(embedder)
    return embedder


def assert_same(family: str, spec: dict) -> None:
    padding, found = make(family, spec), unpadded(family, spec)
    assert isinstance(found, UnpaddedEmbedder)
    for padding_side in ("right", "left"):
        padding.spec = found.spec = replace(padding.spec, padding_side=padding_side)
        for texts, tokens in ((TEXTS, 10_000), (TEXTS * 9, 60), (TEXTS[:1], 1)):
            np.testing.assert_allclose(
                found.encode(texts, "document", tokens_per_batch=tokens),
                padding.encode(texts, "document", tokens_per_batch=tokens),
                atol=2e-6,
            )


@pytest.mark.parametrize("family", UNPADDED)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "multi_layer_trainable"])
def test_the_same_vectors(family, pooling):
    assert_same(family, {"pooling": pooling})


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_decoder_that_attends_both_ways(family):
    assert_same(family, {"attention": "bidirectional"})
    both_ways, causal = unpadded(family, {"attention": "bidirectional"}), unpadded(family, {})
    difference = both_ways.encode(TEXTS[:1], "document") - causal.encode(TEXTS[:1], "document")
    assert np.abs(difference).max() > 1e-3


def test_a_template_of_which_nothing_is_pooled():
    assert_same("bert", {"document_template": "w30 w31 {text} w32", "pool_template": False})


@pytest.mark.parametrize("family", PADDED)
def test_other_attention_is_padded(family):
    assert type(unpadded(family, {})) is Embedder


def test_a_sliding_window_is_padded():
    assert type(unpadded("mistral", {}, sliding_window=4)) is Embedder


def test_roberta_has_fewer_places_than_positions():
    assert make("roberta", {"document_length": 97}).encode(["w1 " * 200], "document").shape == (1, 32)
    with pytest.raises(ValueError, match="backbone's 97 positions"):
        make("roberta", {"document_length": 98})


def test_models_for_inference_compute_no_padding(tmp_path):
    assert isinstance(inference_embedder(write_tiny_model(tmp_path / "tiny")), UnpaddedEmbedder)


@pytest.mark.parametrize("budget", [1, 7, 30, 1000])
def test_batches_hold_every_text_once_and_no_more_tokens_than_they_may(budget):
    embedder = unpadded("bert", {})
    lengths = np.random.default_rng(0).integers(1, 20, 50).tolist()
    batches = list(embedder.batches(lengths, budget))
    assert sorted(row for rows in batches for row in rows) == list(range(50))
    tokens = [[lengths[row] for row in rows] for rows in batches]
    assert all(len(each) == 1 or sum(each) <= budget for each in tokens)
    assert all(sum(each) + later[0] > budget for each, later in pairwise(tokens))
    assert list(embedder.batches([], budget)) == []
