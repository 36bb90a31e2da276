"""The int8 encoder against the float32 one."""

import numpy as np
import pyarrow as pa
import pytest
from parity_texts import parity_texts

from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.search.encoding import encode_shards
from components.search.shards import write_tables
from components.storage import Folder

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (pip install embedloom[int8])")


def test_int8_vectors_stay_near_and_batches_hardly_matter(minilm_directory, tmp_path):
    from components.model.onnx_encoder import OnnxEncoder

    model = Folder(str(tmp_path / "model"))  # of three layers: the graph is made twice below
    import_model(model=str(minilm_directory), layers=3, spec={}, output=model, monitor=Silent())
    float32 = Embedder.load(model.path())
    encoder = OnnxEncoder(float32, threads=1)
    texts = parity_texts()[::4]
    expected, found = (each.encode([*texts, ""], "document") for each in (float32, encoder))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosine = (found * expected).sum(1)
    assert cosine.min() > 0.95
    assert cosine.mean() > 0.98
    # the ranges of activations are those of a batch, so other company changes a vector a little, the empty text's most
    small = encoder.encode([*texts, ""], "document", tokens_per_batch=64)
    same = (small * found).sum(1)
    assert same[:-1].min() > 0.97
    assert same[-1] > 0.95
    written = write_tables(iter([pa.table({"text": texts})]), Folder(str(tmp_path / "texts")), 64)
    vectors = encode_shards(
        written, "document", model, Folder(str(tmp_path / "vectors")), Silent(), precision="int8"
    )
    assert (vectors.read(0) * expected[:-1]).sum(1).min() > 0.95
    assert encoder.encode([], "query").shape == (0, 384)
