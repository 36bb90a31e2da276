"""FAISS: OUTPUT/index.faiss, exact; its row i is row i of OUTPUT/ids/*.parquet."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from components.monitor import Monitor
from components.search.coded import Coded, Form
from components.search.indexes.parquet import write_parts
from components.search.indexes.place import Place
from components.search.quantise import Precision, Ranges, cut, to_bits
from components.storage import Folder

INDEX_FILE = "index.faiss"


def check(form: Form, place: Place, output: Folder) -> None:
    place.refuse("faiss")
    _faiss()


def write(coded: Coded, facts: dict[str, Any], place: Place, output: Folder, monitor: Monitor) -> None:
    vectors = (cut(coded.vectors.read(number), coded.dimensions) for number in range(len(coded.texts)))
    output.write(INDEX_FILE, build(vectors, coded.precision, coded.ranges).tobytes())
    write_parts(coded, facts, output / "ids", with_vectors=False)


def build(vectors: Iterable[np.ndarray], precision: Precision, ranges: Ranges | None = None) -> np.ndarray:
    """An exact index of FAISS, in bytes: inner product over float32 or int8, Hamming distance over bits.

    Args:
        vectors: float32 [N, D] at a time.
        ranges: of int8.

    Raises:
        ValueError: FAISS is not installed.
    """
    faiss = _faiss()
    index = None
    for vector_ND in vectors:
        if index is None:
            index = _empty_index(faiss, vector_ND.shape[1], precision, ranges)
        index.add(to_bits(vector_ND) if precision == "binary" else np.ascontiguousarray(vector_ND))
    return faiss.serialize_index_binary(index) if precision == "binary" else faiss.serialize_index(index)


def _empty_index(faiss: Any, dimensions: int, precision: Precision, ranges: Ranges | None) -> Any:
    if precision == "binary":
        return faiss.IndexBinaryFlat(dimensions)
    if ranges is None:
        return faiss.IndexFlatIP(dimensions)
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexScalarQuantizer(dimensions, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(np.stack([ranges.low_D, ranges.high_D]))  # it takes the least and the greatest
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ValueError("--to faiss needs FAISS: pip install faiss-cpu") from error
    return faiss
