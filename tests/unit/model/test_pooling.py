"""Every pooling against the plainest way to compute it: one text at a time, nothing padded, Python loops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as PeerPooling
from tiny_backbones import write_backbone
from torch import nn

from components.model.embedder import POOLING_FILE, Embedder
from components.model.export import check_golden
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

TEXTS = ["w5 w6 w7", "w9", "w8 w8 w10 w11 w12 w13", "w1 " * 20, "", "w20 w21 w22 w23"]
TEMPLATE = "w30 {instruction} w31 {text} w32 [MASK] w33"
PLAIN = ["mean", "cls", "last", "max", "weighted_mean"]
TRAINABLE = ["last_layer_trainable", "multi_layer_trainable"]
FAMILIES = ["llama", "bert", "t5"]


def imported(directory: Path, family: str, **spec: object) -> Embedder:
    source = write_backbone(directory / family, family)
    values = {"query_length": 24, "document_length": 24} | spec
    import_model(model=str(source), spec=values, output=Folder(str(directory / "model")), monitor=Silent())
    embedder = Embedder.load(directory / "model")
    for parameter in embedder.pooling.parameters():  # so that no weight of it is too small to be seen
        nn.init.normal_(parameter, std=0.3)
    return embedder


def layer_states(embedder: Embedder, ids: list[int]) -> list[np.ndarray]:
    """Of every layer [T, D], float64; the text alone, no padding and no mask."""
    with torch.no_grad():
        output = embedder.backbone(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [layer[0].double().numpy() for layer in output.hidden_states[1:]]


def plainly(embedder: Embedder, state_TD: np.ndarray, own: list[int]) -> np.ndarray:
    """Pooling of one text over the positions `own`."""
    match embedder.spec.pooling:
        case "mean":
            return np.mean([state_TD[t] for t in own], axis=0)
        case "max":
            return np.max([state_TD[t] for t in own], axis=0)
        case "weighted_mean":
            return np.sum([(t + 1) * state_TD[t] for t in own], axis=0) / sum(t + 1 for t in own)
        case "cls":
            return state_TD[0]
        case _:
            return state_TD[-1]


def attended(embedder: Embedder, state_SD: np.ndarray) -> np.ndarray:
    """Cross-attention of the learned queries, query by query and head by head, in float64."""
    weights = {name: p.detach().double().numpy() for name, p in embedder.pooling.attention.named_parameters()}
    heads = embedder.pooling.attention.heads

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return centred * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    if "layer_LD" in weights:
        state_SD = state_SD + weights["layer_LD"]
    states = [norm(state, "state_norm") for state in state_SD]
    keys = [weights["to_key.weight"] @ state for state in states]
    values = [weights["to_value.weight"] @ state for state in states]
    found = []
    for query in weights["query_QD"]:
        asks = weights["to_query.weight"] @ norm(query, "query_norm")
        size = len(asks) // heads
        parts = []
        for head in range(heads):
            at = slice(head * size, (head + 1) * size)
            scores = np.array([asks[at] @ key[at] for key in keys]) / np.sqrt(size)
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            parts.append(sum(share * value[at] for share, value in zip(shares, values, strict=True)))
        residual = weights["to_output.weight"] @ np.concatenate(parts) + query
        inner = weights["widen.weight"] @ norm(residual, "inner_norm") + weights["widen.bias"]
        up, gate = np.split(inner, 2)
        gelu = gate * 0.5 * (1 + torch.erf(torch.from_numpy(gate / np.sqrt(2))).numpy())
        found.append(weights["narrow.weight"] @ (up * gelu) + weights["narrow.bias"] + residual)
    return np.mean(found, axis=0)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def assert_same_in_any_company(embedder: Embedder, expected: list[np.ndarray], side: str) -> None:
    """Against padding on either side, all texts together, few together, each alone."""
    assert np.abs(np.stack(expected)).max() > 0.1
    for padding_side in ("left", "right"):
        if padding_side == "left" and "bert" in embedder.backbone.config.model_type:
            assert embedder.spec.padding_side == "right"
        embedder.spec = replace(embedder.spec, padding_side=padding_side)
        for tokens_per_batch in (10_000, 40, 1):
            found = embedder.encode(TEXTS, side, tokens_per_batch=tokens_per_batch)
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", PLAIN)
def test_plain_poolings(tmp_path, family, pooling):
    embedder = imported(tmp_path, family, pooling=pooling)
    expected = []
    for ids in embedder.tokenize(TEXTS, "document"):
        expected.append(unit(plainly(embedder, layer_states(embedder, ids)[-1], list(range(len(ids))))))
    assert_same_in_any_company(embedder, expected, "document")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", TRAINABLE)
def test_trainable_poolings(tmp_path, family, pooling):
    embedder = imported(tmp_path, family, pooling=pooling, pooling_queries=5)
    expected = []
    for ids in embedder.tokenize(TEXTS, "document"):
        layers = layer_states(embedder, ids)
        states = layers[-1]
        if pooling == "multi_layer_trainable":
            states = np.stack([each[-1] if family == "llama" else each.mean(0) for each in layers])
        expected.append(unit(attended(embedder, states)))
    assert_same_in_any_company(embedder, expected, "document")


def test_layers_are_one_vector_each_by_the_attention_s_own_way(tmp_path):
    """The mean where every position sees all, the last token where attention is causal."""
    embedder = imported(tmp_path, "llama", pooling="multi_layer_trainable", attention="bidirectional")
    expected = []
    for ids in embedder.tokenize(TEXTS, "document"):
        ids_BT, mask_BT = embedder.pad(
            [ids, [9] * 40]
        )  # without a mask this attention is a flag of the modules
        with torch.no_grad():
            layers = embedder.backbone(
                input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True
            ).hidden_states[1:]
        states = np.stack([each[0, : len(ids)].double().mean(0).numpy() for each in layers])
        expected.append(unit(attended(embedder, states)))
    assert_same_in_any_company(embedder, expected, "document")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "max", "weighted_mean", "last_layer_trainable"])
def test_template_and_instruction_left_out(tmp_path, family, pooling):
    embedder = imported(
        tmp_path, family, pooling=pooling, pool_template=False, instruction="w40 w41",
        query_template="w30 {instruction} w31 {text}",
    )  # fmt: skip
    assert embedder.spec.prefix("query") == "w30 w40 w41 w31 "
    expected = []
    for tokens in embedder.tokenize(TEXTS, "query"):
        ids = [~token if token < 0 else token for token in tokens]
        assert ids[:4] == [34, 44, 45, 35]
        own = list(range(4, len(ids)))
        state_TD = layer_states(embedder, ids)[-1]
        vector = (
            attended(embedder, state_TD[own])
            if embedder.pooling.attention is not None
            else plainly(embedder, state_TD, own)
        )
        expected.append(unit(vector))
    assert_same_in_any_company(embedder, expected, "query")
    # a side without a template is pooled whole
    whole = replace(embedder.spec, pool_template=True)
    peer = Embedder(embedder.backbone, whole, embedder.tokenizer)
    peer.pooling = embedder.pooling
    np.testing.assert_allclose(peer.encode(TEXTS, "document"), embedder.encode(TEXTS, "document"), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("template", "place"), [(TEMPLATE, -3), ("w30 {text} w32 w33", -2)])
def test_prompt_position(tmp_path, family, template, place):
    """The state at the mask token of the template, else at its last token; the end token stands behind."""
    embedder = imported(
        tmp_path, family, pooling="prompt", query_template=template, document_template=template,
        instruction="w40", end_token="</s>",
    )  # fmt: skip
    texts = [*TEXTS[:-1], "w20 [MASK] w22 w23"]  # a text's own mask is none
    expected = []
    for tokens in embedder.tokenize(texts, "query"):
        ids = [~token if token < 0 else token for token in tokens]
        assert len(ids) <= 24
        assert ids[place] == (3 if "[MASK]" in template else 37)
        expected.append(unit(layer_states(embedder, ids)[-1][place]))
    for padding_side in ("left", "right"):
        embedder.spec = replace(embedder.spec, padding_side=padding_side)
        for tokens_per_batch in (10_000, 1):
            found = embedder.encode(texts, "query", tokens_per_batch=tokens_per_batch)
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "wide"), [("linear", 7), ("mlp", 32), ("mlp", 50)])
def test_projection(tmp_path, kind, wide):
    embedder = imported(tmp_path, "bert", pooling="mean", projection=kind, projection_dimensions=wide)
    assert embedder.spec.dimensions == wide
    weights = {
        name: p.detach().double().numpy() for name, p in embedder.pooling.projection.named_parameters()
    }
    expected = []
    for ids in embedder.tokenize(TEXTS, "document"):
        pooled = layer_states(embedder, ids)[-1].mean(0)
        if kind == "linear":
            expected.append(unit(weights["weight"] @ pooled))
        else:
            expected.append(unit(np.tanh(weights["0.weight"] @ pooled + weights["0.bias"])))
    assert_same_in_any_company(embedder, expected, "document")


def test_weights_of_pooling_are_saved_and_start_the_same(tmp_path):
    spec = {"pooling": "multi_layer_trainable", "projection": "mlp", "pooling_queries": 3}
    embedder = imported(tmp_path / "one", "llama", **spec)
    embedder.save(tmp_path / "saved")
    again = Embedder.load(tmp_path / "saved")
    np.testing.assert_allclose(again.encode(TEXTS, "query"), embedder.encode(TEXTS, "query"), atol=1e-6)
    assert check_golden(again, tmp_path / "saved") < 1e-6
    assert all(name.startswith("pooling.") for name in load_file(tmp_path / "saved" / POOLING_FILE))
    assert not (tmp_path / "saved" / "modules.json").exists()  # sentence-transformers could not compute it
    # imported again they stay, unless pooling is said anew
    import_model(
        model=str(tmp_path / "saved"), spec={}, output=Folder(str(tmp_path / "kept")), monitor=Silent()
    )
    assert (tmp_path / "kept" / POOLING_FILE).read_bytes() == (tmp_path / "saved" / POOLING_FILE).read_bytes()
    imported(tmp_path / "two", "llama", **spec)
    one, two = (load_file(tmp_path / name / "model" / POOLING_FILE) for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    (tmp_path / "saved" / POOLING_FILE).unlink()
    with pytest.raises(ValueError, match="does not hold the weights of pooling 'multi_layer_trainable'"):
        Embedder.load(tmp_path / "saved")


@pytest.mark.parametrize(
    "spec",
    [
        {"pooling": "max"},
        {"pooling": "weighted_mean"},
        {"pooling": "mean", "projection": "linear", "projection_dimensions": 20},
        {"pooling": "cls", "projection": "mlp"},
        {"pooling": "mean", "pool_template": False},
        {"pooling": "weighted_mean", "pool_template": False},
    ],
)
def test_sentence_transformers_computes_what_its_modules_can_say(tmp_path, spec):
    imported(tmp_path, "bert", query_template="w30 {instruction} w31 {text}", instruction="w40", **spec).save(
        tmp_path / "saved"
    )
    ours = Embedder.load(tmp_path / "saved")
    peer = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert isinstance(peer[1], PeerPooling)
    texts = [text for text in TEXTS if text and len(text) < 40]  # it knows one length for both sides
    for side in ("query", "document"):
        theirs = peer.encode(texts, prompt_name=side)
        np.testing.assert_allclose(ours.encode(texts, side), theirs, atol=1e-5)
