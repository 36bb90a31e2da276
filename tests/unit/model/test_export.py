"""The model on disk: digests, golden vectors, and a directory that is written without a module."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from components.model.embedder import Embedder
from components.model.export import check_golden, save_model, weights_digest


def test_the_same_weights_give_the_same_bytes(decoder: Embedder, decoder_directory, tmp_path):
    shuffled = dict(reversed(decoder.state_dict().items()))
    save_model(tmp_path, decoder.backbone.config, shuffled, decoder.spec, decoder.tokenizer)
    ours = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    theirs = sorted(
        path.relative_to(decoder_directory) for path in decoder_directory.rglob("*") if path.is_file()
    )
    assert ours == theirs
    for name in ours:
        assert (tmp_path / name).read_bytes() == (decoder_directory / name).read_bytes(), name
    assert not [name for name in ours if name.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_digest_is_of_the_tensors_not_of_the_files(decoder_directory, tmp_path):
    tensors = load_file(decoder_directory / "model.safetensors")
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, tmp_path / "a.safetensors", metadata={"x": "y"})
    save_file({name: tensors[name] for name in names[1::2]}, tmp_path / "b.safetensors")
    assert weights_digest(tmp_path) == weights_digest(decoder_directory)

    first = tensors[names[0]].clone()
    first.view(-1)[0] += 1e-3
    save_file({**{name: tensors[name] for name in names[::2]}, names[0]: first}, tmp_path / "a.safetensors")
    assert weights_digest(tmp_path) != weights_digest(decoder_directory)


def test_encoding_file_says_the_digest_and_the_space(decoder: Embedder, decoder_directory):
    written = json.loads((decoder_directory / "encoding.json").read_text())
    digest = weights_digest(decoder_directory)
    assert written["weights_digest"] == digest
    assert written["space_id"] == decoder.spec.space_id(digest)
    with safe_open(decoder_directory / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_golden_vectors(decoder: Embedder, minilm: Embedder, minilm_directory, decoder_directory):
    assert check_golden(decoder, decoder_directory) < 1e-6
    assert check_golden(minilm, minilm_directory) < 1e-6
    assert check_golden(Embedder.load(minilm_directory, torch.bfloat16), minilm_directory) < 1e-3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query_template", "{text}"),
        ("document_template", "passage: {text}"),
        ("pooling", "mean"),
        ("document_length", 8),
        ("instruction", "w9"),
        ("normalize", False),
    ],
)
def test_a_changed_encoding_is_refused_with_the_field(decoder_directory, tmp_path, field, value):
    shutil.copytree(decoder_directory, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "encoding.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"spec": written["spec"] | {field: value}}))
    with pytest.raises(ValueError, match=rf"^{field} is .* in .*encoding\.json and .* in golden\.json"):
        Embedder.load(tmp_path)
    (tmp_path / "golden.json").unlink()
    if field != "instruction":
        with pytest.raises(ValueError, match=rf"^{field} is .* in .*encoding\.json and .*\.json"):
            Embedder.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "field"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_lasttoken": False, "pooling_mode_cls_token": True},
            "pooling",
        ),
        (
            "1_Pooling/config.json",
            {"pooling_mode_lasttoken": False, "pooling_mode_max_tokens": True},
            "pooling",
        ),
        ("1_Pooling/config.json", {"include_prompt": False}, "pool_template"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "q: ", "document": ""}},
            "query_template",
        ),
        ("sentence_bert_config.json", {"max_seq_length": 99}, "document_length"),
    ],
)
def test_a_change_in_what_sentence_transformers_reads_is_refused_with_the_field(
    decoder_directory, tmp_path, file, change, field
):
    shutil.copytree(decoder_directory, tmp_path, dirs_exist_ok=True)
    written = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(written | change))
    with pytest.raises(ValueError, match=rf"^{field} is .* in .*encoding\.json and .* in {file}"):
        Embedder.load(tmp_path)


def test_padding_side_may_be_changed(decoder_directory, tmp_path, decoder: Embedder):
    shutil.copytree(decoder_directory, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "encoding.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"spec": written["spec"] | {"padding_side": "left"}}))
    assert check_golden(Embedder.load(tmp_path), tmp_path) < 1e-6


def test_golden_vectors_betray_other_weights(decoder_directory, tmp_path):
    shutil.copytree(decoder_directory, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"] * torch.linspace(0.5, 2, 32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not get the vector recorded"):
        check_golden(Embedder.load(tmp_path), tmp_path)


def test_bfloat16_weights_are_written_as_such(decoder: Embedder, tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in decoder.state_dict().items()}
    save_model(tmp_path, decoder.backbone.config, half, decoder.spec, decoder.tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    found, expected = (model.encode(["w1 w2"], "document") for model in (Embedder.load(tmp_path), decoder))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_missing_tensors_are_an_error(decoder_directory, tmp_path):
    shutil.copytree(decoder_directory, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors, the first is layers\.1\.mlp\.up_proj\.weight"):
        Embedder.load(tmp_path)


def test_a_directory_without_encoding_is_refused(language_model):
    with pytest.raises(ValueError, match=r"encoding\.json is missing"):
        Embedder.load(language_model)
