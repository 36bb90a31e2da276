"""Vectors that were computed once, by model, encoding and text, so that nothing is encoded twice."""

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from components.model.agreement import ENCODING_FILE
from components.model.embedder import Embedder
from components.model.inference import inference_embedder
from components.model.spec import Side
from components.monitor import Monitor, Silent
from components.storage import Folder

TEXTS_PER_FILE = 4096
_KEY_BYTES = 16
_OF_A_SIDE = (
    "query_template", "document_template", "instruction", "document_instruction", "query_length", "document_length",
    "padding_side",
)  # fmt: skip
"""Fields of a spec that come in by the side that is encoded, and one that changes no vector."""


class Encoder(Protocol):
    """What turns texts into vectors: `Embedder`, or one with a cache."""

    def encode(
        self,
        texts: list[str],
        side: Side,
        instruction: str | None = None,
        tokens_per_batch: int = 8192,
        monitor: Monitor | None = None,
    ) -> np.ndarray:
        """Vectors float32 [N, dimensions], in the order of the texts."""
        ...


class _Part(Silent):
    """Shows the progress of some texts as that of all."""

    def __init__(self, whole: Monitor, before: int, total: int) -> None:
        self._whole, self._before, self._total = whole, before, total

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        self._whole.progress(self._before + done, self._total, unit, **facts)


class CachedEncoder:
    """An embedder that looks a text up before it encodes it.

    A vector is used again only where weights, encoding, precision, length, template and instruction are the same.
    Several processes may use one folder: each adds files of its own.

    Args:
        embedder: the model.
        weights_digest: of its weights, from its `encoding.json`.
        folder: what is kept there may be deleted at any time.
    """

    def __init__(self, embedder: Embedder, weights_digest: str, folder: Folder) -> None:
        self._embedder = embedder
        self._digest = weights_digest
        self._folder = folder

    def encode(
        self,
        texts: list[str],
        side: Side,
        instruction: str | None = None,
        tokens_per_batch: int = 8192,
        monitor: Monitor | None = None,
    ) -> np.ndarray:
        """As `Embedder.encode`. What is new is kept after every 4,096 texts, so a crash costs no more."""
        monitor = monitor or Silent()
        keys = [
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
            for text in texts
        ]
        wanted: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            wanted.setdefault(key, position)
        vector_UD = np.empty((len(wanted), self._embedder.spec.dimensions), dtype=np.float32)
        row_of = {key: row for row, key in enumerate(wanted)}
        missing = dict(wanted)
        folder = self._folder / self._space(side, instruction)
        for found, vectors in self._read(folder, missing):
            vector_UD[[row_of[key] for key in found]] = vectors
            for key in found:
                del missing[key]
        new = list(missing.items())
        monitor.progress(len(wanted) - len(new), len(wanted), "texts")
        for start in range(0, len(new), TEXTS_PER_FILE):
            some = new[start : start + TEXTS_PER_FILE]
            part = _Part(monitor, len(wanted) - len(new) + start, len(wanted))
            vector_ND = self._embedder.encode(
                [texts[at] for _, at in some], side, instruction, tokens_per_batch, part
            )
            vector_UD[[row_of[key] for key, _ in some]] = vector_ND
            self._write(folder, [key for key, _ in some], vector_ND)
        return vector_UD[[row_of[key] for key in keys]]

    def _space(self, side: Side, instruction: str | None) -> str:
        """The folder of vectors that differ by their text alone."""
        spec = self._embedder.spec
        identity = {
            "weights": self._digest,
            "spec": {name: value for name, value in spec.to_json().items() if name not in _OF_A_SIDE},
            "template": [spec.prefix(side, instruction), spec.suffix(side)],
            "length": spec.length(side),
            "dtype": str(self._embedder.backbone.dtype),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    @staticmethod
    def _read(folder: Folder, wanted: dict[bytes, int]) -> Iterator[tuple[list[bytes], np.ndarray]]:
        """Those of the keys that are kept, with their vectors, file by file."""
        for name in folder.names("*.keys.npy"):
            try:
                written = np.load(io.BytesIO(folder.read(name)), allow_pickle=False)
                here = {key.tobytes(): row for row, key in enumerate(written) if key.tobytes() in wanted}
                vectors = folder.read(name.replace(".keys.", ".vectors.")) if here else b""
            except FileNotFoundError:  # deleted since it was listed
                continue
            if here:
                yield list(here), np.load(io.BytesIO(vectors), allow_pickle=False)[list(here.values())]

    @staticmethod
    def _write(folder: Folder, keys: list[bytes], vectors_ND: np.ndarray) -> None:
        name = uuid.uuid4().hex
        # The keys last: vectors without keys are never read.
        for kind, array in (
            ("vectors", vectors_ND),
            ("keys", np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, _KEY_BYTES)),
        ):
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            folder.write(f"{name}.{kind}.npy", data.getvalue())


def load_encoder(directory: Folder, cache: Folder | None) -> Encoder:
    """The model of a directory, in float32; with a cache, one that looks texts up first."""
    with directory.local() as local:
        embedder = inference_embedder(local)
        digest = json.loads((local / ENCODING_FILE).read_text("utf-8"))["weights_digest"]
    return embedder if cache is None else CachedEncoder(embedder, digest, cache)
