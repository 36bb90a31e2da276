"""Serving in int8: what is served is near the golden vectors and scores, or nothing is served."""

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from typer.testing import CliRunner

from components.processor import multiplies_int8
from components.serving import verify
from components.serving.calls import EmbedCall, ScoreCall
from components.serving.engine import EngineOptions, load_engine
from components.serving.errors import ModelRefusedError
from components.serving.verify import from_directory
from workflows.cli import app

IN_INT8 = EngineOptions(precision="int8", threads=1)
needs_int8 = pytest.mark.skipif(not multiplies_int8(), reason="this processor has no products in int8")


@pytest.fixture
def release(tmp_path):
    return from_directory(write_tiny_model(tmp_path / "tiny"))


@pytest.fixture(autouse=True)
def own_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@needs_int8
def test_int8_is_served_near_float32_and_says_so(release, monkeypatch):
    engines = [load_engine(release, options) for options in (EngineOptions(threads=1), IN_INT8)]
    assert [engine.served.engine for engine in engines] == ["torch float32", "torch int8"]
    assert engines[0].served.space_id == engines[1].served.space_id
    call = EmbedCall(["w1 w2 w3", "w4"], [], "document", None, None)
    expected_ND, found_ND = (engine.compute(engine.read(call)) for engine in engines)
    assert (found_ND * expected_ND).sum(1).min() > 0.99
    assert not np.array_equal(found_ND, expected_ND)

    monkeypatch.setitem(verify.GOLDEN_TOLERANCE, "int8", 1e-9)
    with pytest.raises(ModelRefusedError, match=r"refused: .* does not get the vector recorded"):
        load_engine(release, IN_INT8)


@needs_int8
@pytest.mark.parametrize("write", [write_cross_encoder, write_yes_no_model])
def test_a_reranker_scores_in_int8_too(tmp_path, write):
    release = from_directory(write(tmp_path / "reranker"))
    engines = [load_engine(release, options) for options in (EngineOptions(threads=1), IN_INT8)]
    call = ScoreCall(["a query", "another"], ["one document", "a second one"], None)
    expected_N, found_N = (engine.compute(engine.read(call)) for engine in engines)
    assert engines[1].served.engine == "torch int8"
    np.testing.assert_allclose(found_N, expected_N, atol=0.05)
    assert not np.array_equal(found_N, expected_N)


@pytest.mark.parametrize("also", [["--engine", "vllm"], ["--gpus", "1"]])
def test_int8_is_torchs_on_a_cpu(release, also):
    done = CliRunner().invoke(app, ["serve", release.uri, "--precision", "int8", *also])
    assert "leave --engine vllm and --gpus out" in str(done.exception) + done.output
