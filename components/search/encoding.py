"""Vectors of texts that fit no memory: a file of texts in, a file of vectors out, by a pool of workers."""

from dataclasses import dataclass

import numpy as np

from components.model.embedder import ComputePrecision
from components.model.inference import inference_embedder
from components.model.spec import Side
from components.monitor import Monitor, Silent
from components.search.shards import Shards, TableShards
from components.search.workers import Workers, over_shards
from components.storage import Folder


def encode_shards(
    texts: TableShards,
    side: Side,
    model: Folder,
    output: Folder,
    monitor: Monitor,
    *,
    precision: ComputePrecision = "float32",
    tokens_per_batch: int = 8192,
    workers: Workers | None = None,
) -> Shards:
    """Encode texts to unit vectors, file by file. Files that are there already are left as they are.

    A crash costs the files that were being encoded, one a worker.

    Args:
        texts: column `text`, and for queries `instruction`; where that is null the model's own holds.
        model: model directory.
        output: takes float32 [rows, dimensions], in the order of the texts.
        precision: the model computes in it; int8 is for a CPU.
        tokens_per_batch: padded tokens in one forward pass.

    Raises:
        ValueError: the model gives a text a vector that is not finite, or int8 is asked for where there is none.
    """
    workers = workers or Workers()
    if precision == "int8" and workers.gpus:
        raise ValueError("precision int8 is for the CPU; on a GPU take bfloat16")
    vectors = Shards(output, texts.rows, texts.rows_per_shard)
    missing = vectors.missing()
    if not missing:
        return vectors
    done = texts.rows - sum(len(vectors.span(shard)) for shard in missing)
    monitor.progress(done, texts.rows, "texts")
    alone = workers.count == 1 or len(missing) == 1
    settings = {
        "texts": texts,
        "vectors": vectors,
        "side": side,
        "model": model,
        "precision": precision,
        "tokens_per_batch": tokens_per_batch,
        "monitor": monitor if alone else Silent(),
        "done": done,
    }
    for shard in over_shards(_Encoder, settings, missing, workers):
        done += len(vectors.span(shard))
        monitor.progress(done, texts.rows, "texts")
    return vectors


@dataclass(frozen=True)
class _OfAll(Silent):
    """Tells a monitor how far all texts are, of which a file is one part."""

    monitor: Monitor
    before: int
    texts: int

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        self.monitor.progress(self.before + done, self.texts, unit, **facts)


class _Encoder:
    """One model in one process."""

    def __init__(
        self,
        texts: TableShards,
        vectors: Shards,
        side: Side,
        model: Folder,
        precision: ComputePrecision,
        tokens_per_batch: int,
        monitor: Monitor,
        done: int,
        device: str,
    ) -> None:
        self._texts, self._vectors, self._side = texts, vectors, side
        self._tokens_per_batch, self._monitor, self._done = tokens_per_batch, monitor, done
        with model.local() as directory:
            self._embedder = inference_embedder(directory, precision, device)

    def __call__(self, shard: int) -> None:
        table = self._texts.read(shard)
        texts = table["text"].to_pylist()
        instructions = table["instruction"].to_pylist() if self._side == "query" else [None] * len(texts)
        token_ids = self._embedder.tokenize_each(texts, self._side, instructions)
        told = _OfAll(self._monitor, self._done, self._texts.rows)
        vector_ND = self._embedder.encode_tokens(token_ids, self._tokens_per_batch, told)
        self._done += len(texts)
        finite_N = np.isfinite(vector_ND).all(axis=1)
        if not finite_N.all():
            worst = texts[int(np.flatnonzero(~finite_N)[0])]
            raise ValueError(
                f"the model gives {int((~finite_N).sum())} of {len(texts)} texts a vector that is not finite, "
                f"the first is {worst[:80]!r}; its weights are damaged or the precision is too low"
            )
        self._vectors.write(shard, of_unit_length(vector_ND))


def of_unit_length(vector_ND: np.ndarray) -> np.ndarray:
    """Length 1, also where the model's own vectors are not normalised."""
    norm_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return vector_ND / np.maximum(norm_N1, 1e-12)
