"""The safetensors of a model directory, read and overwritten one tensor at a time."""

import json
import struct
from pathlib import Path

import torch
from safetensors import safe_open

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


class Weights:
    """The tensors of a model directory by name, read one at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, tuple[str, int, dict]] = {}
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(size))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.entries[name] = (path.name, 8 + size + entry["data_offsets"][0], entry)
        if not self.entries:
            raise ValueError(f"{directory} holds no safetensors weights")

    @property
    def names(self) -> list[str]:
        return sorted(self.entries)

    def dtype(self, name: str) -> torch.dtype:
        return _DTYPES[self.entries[name][2]["dtype"]]

    def shape(self, name: str) -> list[int]:
        return self.entries[name][2]["shape"]

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self.directory / self.entries[name][0], "pt") as file:
            return file.get_tensor(name)

    def write(self, name: str, tensor: torch.Tensor, copy: Path) -> None:
        """Overwrite the tensor where it stands in the same file of a copy of this directory."""
        file_name, offset, _ = self.entries[name]
        with (copy / file_name).open("r+b") as file:
            file.seek(offset)
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def check_same(one: Weights, other: Weights, dtypes: bool) -> None:
    """Refuse weights whose tensors differ in name or shape, or in dtype if `dtypes`.

    Raises:
        ValueError: naming the first that differs.
    """
    for name in sorted(one.entries.keys() ^ other.entries.keys()):
        has, lacks = (one, other) if name in one.entries else (other, one)
        raise ValueError(f"the tensor {name} of {has.directory} is missing in {lacks.directory}")
    for name in one.names:
        if one.shape(name) != other.shape(name):
            raise ValueError(
                f"the tensor {name} has shape {one.shape(name)} in {one.directory} and "
                f"{other.shape(name)} in {other.directory}; they must be the same"
            )
        if dtypes and one.dtype(name) != other.dtype(name):
            raise ValueError(
                f"the tensor {name} is {one.dtype(name)} in {one.directory} and {other.dtype(name)} in "
                f"{other.directory}; they must be the same"
            )
