"""Linear layers in int8 against the arithmetic that they stand for, and a model of them against float32."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_texts import parity_texts
from tiny_model import write_tiny_model
from torch import nn

from components.model import int8
from components.model.embedder import Embedder
from components.model.int8 import Int8Linear, use_int8
from components.monitor import Silent
from components.processor import multiplies_int8
from components.search.encoding import encode_shards
from components.search.shards import write_tables
from components.storage import Folder

pytestmark = pytest.mark.skipif(not multiplies_int8(), reason="this processor has no products in int8")


def _quantised(values: torch.Tensor) -> torch.Tensor:
    """Rows on their own steps of a 127th of the largest, float64."""
    values = values.double()
    step = values.abs().amax(-1, keepdim=True).clamp_min(1e-300) / 127
    return (values / step).round() * step


def _linear(outputs: int, inputs: int, bias: bool, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def _in_int8(layer: nn.Linear) -> Int8Linear:
    return Int8Linear(layer, int8._Rows())


@settings(max_examples=40)
@given(
    st.integers(1, 40), st.integers(1, 80), st.integers(1, 60), st.booleans(), st.integers(0, 9),
    st.floats(1e-6, 1e6),
)  # fmt: skip
def test_the_product_is_that_of_the_quantised_rows(rows, inputs, outputs, bias, seed, size):
    layer = _linear(outputs, inputs, bias, seed)
    values = torch.randn(rows, inputs) * size
    values[0] = 0
    found = _in_int8(layer)(values).double()
    expected = _quantised(values) @ _quantised(layer.weight.detach()).T
    largest = values.abs().amax() * layer.weight.abs().amax() * inputs
    if bias:
        expected = expected + layer.bias.detach().double()
        largest = largest + layer.bias.abs().amax()
    # A number that lies between two steps to the last bit may go either way: one step of one product.
    assert (found - expected).abs().max() <= 1.01 * largest / 127 / inputs + 1e-6 * largest
    assert (found - expected).abs().median() <= 2e-6 * largest
    assert torch.equal(found[0], expected[0].float().double())


def test_a_row_is_the_same_in_any_company():
    layer = _in_int8(_linear(48, 64, True, 0))
    values = torch.randn(3, 11, 64) * torch.logspace(-3, 3, 11)[:, None]
    together = layer(values)
    alone = torch.stack([torch.stack([layer(row[None].clone())[0] for row in text]) for text in values])
    assert torch.equal(together, alone)


def test_threads_that_compute_at_once_do_not_meet(tmp_path):
    embedder = Embedder.load(write_tiny_model(tmp_path / "tiny"))
    use_int8(embedder.blocks())
    batches = [[f"w{at} " * (1 + at % 7) for at in range(row, row + 5)] for row in range(40)]
    expected = [embedder.encode(texts, "document") for texts in batches]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            found = list(threads.map(lambda texts: embedder.encode(texts, "document"), batches))
            np.testing.assert_array_equal(found, expected)


def test_what_layers_read_alike_is_quantised_once_and_then_forgotten(tmp_path, monkeypatch):
    embedder = Embedder.load(write_tiny_model(tmp_path / "tiny"))
    use_int8(embedder.blocks())
    assert not [layer for layer in embedder.blocks().modules() if isinstance(layer, nn.Linear)]
    widths = []
    scale = int8._scale
    monkeypatch.setattr(int8, "_scale", lambda values: widths.append(values.shape[-1]) or scale(values))
    embedder.encode(["w1 w2 w3"], "document")
    # of each block: query, key and value together, the attention's output, the two of the feed-forward part
    assert widths == [32, 32, 32, 64] * 2
    assert all(layer._rows._values is None for layer in embedder.modules() if isinstance(layer, Int8Linear))


def test_vectors_stay_near_those_of_float32(minilm_directory):
    float32, embedder = Embedder.load(minilm_directory), Embedder.load(minilm_directory)
    use_int8(embedder.blocks())
    texts = [*parity_texts()[::4], ""]
    expected, found = (each.encode(texts, "document") for each in (float32, embedder))
    cosine = (found * expected).sum(1)
    assert cosine[:-1].min() > 0.98
    assert cosine.mean() > 0.99
    assert cosine[-1] > 0.95  # the empty text: two special tokens
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert embedder.encode([], "query").shape == (0, 384)


def test_a_table_of_texts_is_encoded_in_it(tmp_path):
    model = write_tiny_model(tmp_path / "tiny")
    expected = Embedder.load(model)
    use_int8(expected.blocks())
    texts = [f"w{n} w{n + 1}" for n in range(50)]
    table = write_tables(iter([pa.table({"text": texts})]), Folder(str(tmp_path / "texts")), 64)
    vectors = Folder(str(tmp_path / "vectors"))
    found = encode_shards(table, "document", Folder(str(model)), vectors, Silent(), precision="int8").read(0)
    np.testing.assert_allclose(found, expected.encode(texts, "document"), atol=1e-6)
    assert np.abs(found - Embedder.load(model).encode(texts, "document")).max() > 1e-4


def test_where_there_is_no_int8_it_says_what_to_take(tmp_path, monkeypatch):
    embedder = Embedder.load(write_tiny_model(tmp_path / "tiny"), torch.bfloat16)
    with pytest.raises(ValueError, match="loaded in float32 on a CPU"):
        use_int8(embedder.blocks())
    monkeypatch.setattr(int8, "multiplies_int8", lambda: False)
    with pytest.raises(ValueError, match=r"needs a CPU with VNNI .* take float32"):
        use_int8(embedder.blocks())
