"""Exact nearest neighbours by inner product, in tiles: memory is bounded by the tile, not the corpus."""

import numpy as np

from components.search.running import RunningTopK, unpack

TILE = 2048
QUERY_TILE = 1024


def top_k(
    query_ND: np.ndarray, document_MD: np.ndarray, k: int, tile: int = TILE, query_tile: int = QUERY_TILE
) -> tuple[np.ndarray, np.ndarray]:
    """The k documents of the highest inner product with each query.

    Deterministic: of documents with one score the first in the corpus comes first, whatever the tiles.
    Scores are float32; with normalised vectors they are cosines.

    Args:
        query_ND, document_MD: float32 vectors.
        k: how many; with fewer documents, all of them.
        tile: documents scored at once.
        query_tile: queries scored at once. A tile of scores takes query_tile * tile * 4 bytes.

    Returns: scores float32 [N, min(k, M)], descending, and indices int64 [N, min(k, M)] into the documents.

    Raises:
        ValueError: k is below 1, the vectors differ in length, or one of them is not finite.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; it is {k}")
    if query_ND.ndim != 2 or document_MD.ndim != 2 or query_ND.shape[1] != document_MD.shape[1]:
        raise ValueError(
            f"queries {query_ND.shape} and documents {document_MD.shape} must be matrices of one width"
        )
    check_finite(query_ND, "query")
    k = min(k, len(document_MD))
    if not k or not len(query_ND):
        return np.empty((len(query_ND), k), np.float32), np.empty((len(query_ND), k), np.int64)
    best = RunningTopK(len(query_ND), k)
    add_documents(best, query_ND, document_MD, 0, tile=tile, query_tile=query_tile)
    return unpack(best.keys())


def add_documents(
    best: RunningTopK,
    query_ND: np.ndarray,
    document_MD: np.ndarray,
    first_row: int,
    barred: tuple[np.ndarray, np.ndarray] | None = None,
    tile: int = TILE,
    query_tile: int = QUERY_TILE,
) -> None:
    """Score the next documents against every query and keep the best.

    Args:
        query_ND, document_MD: float32 vectors.
        first_row: of the first of the documents.
        barred: query numbers and document rows, int64 [B] each, sorted by row, that may not be found.
        tile, query_tile: as of `top_k`.

    Raises:
        ValueError: a document's vector is not finite.
    """
    check_finite(document_MD, "document", first_row)
    scores_QT = np.empty((min(query_tile, len(query_ND)), min(tile, len(document_MD))), dtype=np.float32)
    for start in range(0, len(document_MD), tile):
        document_DT = document_MD[start : start + tile].T
        for first_query in range(0, len(query_ND), query_tile):
            query_QD = query_ND[first_query : first_query + query_tile]
            # BLAS writes into what lies in one piece only; of a narrower tile it makes a new matrix.
            whole = (len(query_QD), document_DT.shape[1]) == scores_QT.shape
            scores = np.matmul(query_QD, document_DT, out=scores_QT if whole else None)
            if barred is not None:
                _bar(scores, first_query, first_row + start, barred)
            best.add(scores, first_query, first_row + start)


def check_finite(vectors: np.ndarray, kind: str, first_row: int = 0) -> None:
    """Raises ValueError where a vector holds NaN or infinity, which no comparison can rank."""
    sums = vectors.sum(axis=1)  # not finite if one of its terms is not
    if not np.isfinite(sums).all():
        row = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise ValueError(
            f"the vector of {kind} {first_row + row} is not finite; the model cannot be searched with"
        )


def _bar(
    scores_QT: np.ndarray, first_query: int, first_row: int, barred: tuple[np.ndarray, np.ndarray]
) -> None:
    query_B, row_B = barred
    start, stop = np.searchsorted(row_B, [first_row, first_row + scores_QT.shape[1]])
    query = query_B[start:stop] - first_query
    inside = (query >= 0) & (query < len(scores_QT))
    scores_QT[query[inside], row_B[start:stop][inside] - first_row] = -np.inf
