"""An embedder in int8 through ONNX Runtime: on a CPU with VNNI some times as fast as float32.

Weights are quantised by channel, activations when they are known (dynamic quantisation); what is no matrix product
stays float32. Vectors differ a little from the float32 model's: they are good for search, not for comparing models.
"""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from components.model.embedder import Embedder
from components.model.spec import Side
from components.model.tokens import batches_by_length
from components.monitor import Monitor, Silent

OPSET = 18


class OnnxEncoder:
    """Encodes as an `Embedder` does, template, cut and pooling included.

    Args:
        embedder: on the CPU, in float32; its tokenizer and spec are used, its weights copied.
        threads: of ONNX Runtime; None: as many as torch has.
    """

    def __init__(self, embedder: Embedder, threads: int | None = None) -> None:
        self._embedder = embedder
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as directory:
            path = export_int8(embedder, Path(directory))
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )

    def encode(
        self,
        texts: list[str],
        side: Side,
        instruction: str | None = None,
        tokens_per_batch: int = 8192,
        monitor: Monitor | None = None,
    ) -> np.ndarray:
        """As `Embedder.encode`."""
        return self.encode_tokens(self.tokenize(texts, side, instruction), tokens_per_batch, monitor)

    def tokenize(self, texts: list[str], side: Side, instruction: str | None = None) -> list[list[int]]:
        """As `Embedder.tokenize`."""
        return self._embedder.tokenize(texts, side, instruction)

    def encode_tokens(
        self, token_ids: list[list[int]], tokens_per_batch: int = 8192, monitor: Monitor | None = None
    ) -> np.ndarray:
        """As `Embedder.encode_tokens`."""
        monitor = monitor or Silent()
        vector_ND = np.empty((len(token_ids), self._embedder.spec.dimensions), dtype=np.float32)
        done = 0
        for rows in batches_by_length([len(ids) for ids in token_ids], tokens_per_batch):
            input_ids_BT, attention_mask_BT = self._embedder.pad([token_ids[row] for row in rows])
            given = {"input_ids": input_ids_BT.numpy(), "attention_mask": attention_mask_BT.numpy()}
            vector_ND[rows] = self._session.run(None, given)[0]
            done += len(rows)
            monitor.progress(done, len(token_ids), "texts")
        return vector_ND


def export_int8(embedder: Embedder, directory: Path) -> Path:
    """Write the embedder, from token ids to vectors, as a quantised ONNX graph."""
    example = embedder.pad(embedder.tokenize(["one text", "another text, which is longer"], "document"))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    was_training = embedder.training
    embedder.eval()
    with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            embedder,
            example,
            directory / "float32.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["vector"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )
    embedder.train(was_training)
    quantize_dynamic(
        directory / "float32.onnx",
        directory / "int8.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    return directory / "int8.onnx"
