"""The rows of a table with their vectors in the form in which they are to be kept, for those who write an index."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.search.quantise import Precision, Ranges, cut, to_bits, to_int8
from components.search.shards import Shards, TableShards


@dataclass(frozen=True)
class Form:
    """How vectors are kept.

    Attributes:
        dimensions: the first so many; None: all of the model's.
        precision: a number a dimension, a byte, or a bit.
    """

    dimensions: int | None = None
    precision: Precision = "float32"

    def checked(self, widest: int) -> int:
        """The dimensions of a model that gives `widest`. Raises ValueError where there are not so many."""
        dimensions = self.dimensions or widest
        if dimensions > widest:
            raise ValueError(f"--dimensions is {dimensions}, the model gives {widest}")
        if self.precision == "binary" and dimensions % 8:
            raise ValueError(f"binary keeps 8 dimensions in a byte: {dimensions} is no multiple of 8")
        return dimensions


@dataclass(frozen=True)
class Coded:
    """A table, file by file.

    Attributes:
        texts: columns `id` and `text`. vectors: their unit vectors, float32, of all dimensions.
        dimensions, precision: of what is kept.
        ranges: of int8.
    """

    texts: TableShards
    vectors: Shards
    dimensions: int
    precision: Precision
    ranges: Ranges | None

    @property
    def rows(self) -> int:
        return self.texts.rows

    def shard(self, number: int) -> tuple[pa.Table, np.ndarray]:
        """Rows of one file and their codes: float32 [N, D], int8 [N, D] or uint8 [N, D / 8]."""
        vector_ND = cut(self.vectors.read(number), self.dimensions)
        if self.precision == "binary":
            code_NB = to_bits(vector_ND)
        else:
            code_NB = vector_ND if self.ranges is None else to_int8(vector_ND, self.ranges)
        return self.texts.read(number), np.ascontiguousarray(code_NB)

    def shards(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        for number in range(len(self.texts)):
            yield self.shard(number)


def as_column(code_NB: np.ndarray) -> pa.Array:
    """Codes as lists of one length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(code_NB.reshape(-1)), code_NB.shape[1])
