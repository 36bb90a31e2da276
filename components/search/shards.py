"""Rows of numbers on disk, in files of one length, so that a row's file and place follow from its number."""

import io
from dataclasses import dataclass

import numpy as np

from components.storage import Folder


@dataclass(frozen=True)
class Shards:
    """A matrix of `rows` rows in .npy files of `rows_per_shard` rows each, the last one shorter."""

    folder: Folder
    rows: int
    rows_per_shard: int

    def __len__(self) -> int:
        """Number of files."""
        return -(-self.rows // self.rows_per_shard)

    def span(self, shard: int) -> range:
        """The rows of a file."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.rows))

    def missing(self) -> list[int]:
        """Files that are not there yet. A file appears whole or not at all."""
        there = set(self.folder.names("*.npy"))
        return [shard for shard in range(len(self)) if _name(shard) not in there]

    def write(self, shard: int, rows: np.ndarray) -> None:
        """Raises ValueError where it is not as many rows as the file has."""
        if len(rows) != len(self.span(shard)):
            raise ValueError(
                f"file {shard} of {self.folder.uri} holds {len(self.span(shard))} rows, not {len(rows)}"
            )
        data = io.BytesIO()
        np.save(data, rows, allow_pickle=False)
        self.folder.write(_name(shard), data.getvalue())

    def read(self, shard: int) -> np.ndarray:
        """The rows of a file; of a local one only what is touched is read."""
        if self.folder.is_local:
            return np.load(self.folder.path(_name(shard)), mmap_mode="r", allow_pickle=False)
        return np.load(io.BytesIO(self.folder.read(_name(shard))), allow_pickle=False)

    def take(self, rows_J: np.ndarray) -> np.ndarray:
        """Rows by number, in any order, [J, ...]. Each file that holds one is opened once."""
        taken: np.ndarray | None = None
        shard_J = rows_J // self.rows_per_shard
        for shard in np.unique(shard_J).tolist():
            mine = np.flatnonzero(shard_J == shard)
            found = self.read(shard)
            if taken is None:
                taken = np.empty((len(rows_J), *found.shape[1:]), dtype=found.dtype)
            taken[mine] = found[rows_J[mine] - shard * self.rows_per_shard]
        return taken if taken is not None else self.read(0)[:0]


def _name(shard: int) -> str:
    return f"{shard:06d}.npy"
