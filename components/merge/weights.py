"""The safetensors of a model directory, read and written a piece of one tensor at a time.

Pieces are read into memory of their own, not mapped: what was read and dropped takes no memory.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import torch

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_INDEX = "model.safetensors.index.json"
_INPUT_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "shared.weight")
_OUTPUT_EMBEDDING = "lm_head.weight"


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands.

    Attributes:
        file: relative to the model directory.
        key: name within the file; the tensor's own name has the file's folder before it.
        offset: of its first byte in the file.
    """

    file: str
    key: str
    dtype: torch.dtype
    code: str
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return int(torch.Size(self.shape).numel())


class Weights:
    """The tensors of a model directory and of the modules in its folders, by name.

    Raises:
        ValueError: there are none, or one has a type that cannot be read here.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self._open: dict[str, IO[bytes]] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)
        for path in sorted(directory.rglob("*.safetensors")):
            file = path.relative_to(directory).as_posix()
            with path.open("rb") as opened:
                (size,) = struct.unpack("<Q", opened.read(8))
                header = json.loads(opened.read(size))
            self.metadata[file] = header.pop("__metadata__", {})
            folder = file.rpartition("/")[0]
            for key, entry in header.items():
                name = f"{folder}/{key}" if folder else key
                if entry["dtype"] not in _DTYPES:
                    raise ValueError(
                        f"the tensor {name} of {directory} is {entry['dtype']}, which cannot be merged"
                    )
                self.entries[name] = Entry(
                    file,
                    key,
                    _DTYPES[entry["dtype"]],
                    entry["dtype"],
                    tuple(entry["shape"]),
                    8 + size + entry["data_offsets"][0],
                )
        if not self.entries:
            raise ValueError(f"{directory} holds no safetensors weights")

    def __enter__(self) -> "Weights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    @property
    def names(self) -> list[str]:
        """In the order in which they stand, file by file."""
        return sorted(self.entries, key=lambda name: (self.entries[name].file, self.entries[name].offset))

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements `start` to `stop` of a tensor laid out in one line, good until the next call."""
        entry = self.entries[name]
        if entry.file not in self._open:
            self._open[entry.file] = (self.directory / entry.file).open("rb", buffering=0)
        file = self._open[entry.file]
        size = (stop - start) * entry.dtype.itemsize
        if len(self._buffer) < size:
            self._buffer = torch.empty(size, dtype=torch.uint8)
        data = self._buffer[:size]
        file.seek(entry.offset + start * entry.dtype.itemsize)
        left = memoryview(data.numpy().data)
        while left:
            count = file.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise ValueError(f"{self.directory / entry.file} ends within the tensor {name}")
            left = left[count:]
        return data.view(entry.dtype)

    def tied_heads(self) -> dict[str, str]:
        """Output embeddings that the configuration ties to an input embedding, with that one's name."""
        path = self.directory / "config.json"
        if not (path.is_file() and json.loads(path.read_text("utf-8")).get("tie_word_embeddings")):
            return {}
        return {
            head: name
            for head in self.entries
            if head.rpartition("/")[2].endswith(_OUTPUT_EMBEDDING)
            for name in self.entries
            if name.endswith(_INPUT_EMBEDDINGS) and self.entries[name].shape == self.entries[head].shape
        }


def write_weights(
    like: Weights,
    left_out: frozenset[str],
    target: Path,
    fill: Callable[[str, Callable[[torch.Tensor], None]], None],
) -> None:
    """Write files of the names, order and metadata of `like`'s, tensor by tensor.

    Args:
        left_out: tensors that are not written.
        target: directory.
        fill: called with each tensor's name and a function that takes its elements, piece by piece, in order.
    """
    for file, metadata in like.metadata.items():
        names = [name for name in like.names if like.entries[name].file == file and name not in left_out]
        path = target / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as opened:
            opened.write(_header([like.entries[name] for name in names], metadata))
            for name in names:

                def write(piece: torch.Tensor) -> None:
                    opened.write(piece.contiguous().view(torch.uint8).numpy().data)

                fill(name, write)
    if (index := like.directory / _INDEX).is_file():
        content = json.loads(index.read_text("utf-8"))
        content["weight_map"] = {k: v for k, v in content["weight_map"].items() if k not in left_out}
        (target / _INDEX).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file whose tensors stand one after the other."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for entry in entries:
        end = offset + entry.elements * entry.dtype.itemsize
        header[entry.key] = {"dtype": entry.code, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data)) + data


def check_same(one: Weights, other: Weights, dtypes: bool, tied: frozenset[str] = frozenset()) -> None:
    """Refuse weights whose tensors differ in name or shape, or in dtype if `dtypes`.

    Args:
        tied: tensors that either may lack, because another tensor stands for them.

    Raises:
        ValueError: naming the first that differs.
    """
    for name in sorted((one.entries.keys() ^ other.entries.keys()) - tied):
        has, lacks = (one, other) if name in one.entries else (other, one)
        raise ValueError(f"the tensor {name} of {has.directory} is missing in {lacks.directory}")
    for name in sorted(one.entries.keys() & other.entries.keys()):
        first, second = one.entries[name], other.entries[name]
        if first.shape != second.shape:
            raise ValueError(
                f"the tensor {name} has shape {list(first.shape)} in {one.directory} and "
                f"{list(second.shape)} in {other.directory}; they must be the same"
            )
        if dtypes and first.dtype != second.dtype:
            raise ValueError(
                f"the tensor {name} is {first.dtype} in {one.directory} and {second.dtype} in "
                f"{other.directory}; they must be the same"
            )
