"""Dataclasses of arrays as .npz files: what one process leaves for another."""

import io
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from components.storage import Folder

T = TypeVar("T")


def write_arrays(folder: Folder, name: str, value: Any) -> None:
    """Write a dataclass whose fields are arrays."""
    data = io.BytesIO()
    np.savez(data, **{field.name: getattr(value, field.name) for field in fields(value)})
    folder.write(name, data.getvalue())


def read_arrays(folder: Folder, name: str, kind: type[T]) -> T:
    """The dataclass of a kind that `write_arrays` wrote."""
    with np.load(io.BytesIO(folder.read(name)), allow_pickle=False) as arrays:
        return kind(**arrays)
