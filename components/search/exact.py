"""Exact nearest neighbours by inner product, in tiles: memory is bounded by the tile, not the corpus."""

import numpy as np
import torch


def top_k(
    query_ND: np.ndarray, document_MD: np.ndarray, k: int, tile: int = 8192, query_tile: int = 1024
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
        ValueError: k is below 1, or the vectors differ in length.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; it is {k}")
    if query_ND.ndim != 2 or document_MD.ndim != 2 or query_ND.shape[1] != document_MD.shape[1]:
        raise ValueError(
            f"queries {query_ND.shape} and documents {document_MD.shape} must be matrices of one width"
        )
    k = min(k, len(document_MD))
    scores_NK = np.empty((len(query_ND), k), dtype=np.float32)
    indices_NK = np.empty((len(query_ND), k), dtype=np.int64)
    for start in range(0, len(query_ND), query_tile):
        rows = slice(start, start + query_tile)
        scores_NK[rows], indices_NK[rows] = _search(query_ND[rows], document_MD, k, tile)
    return scores_NK, indices_NK


def _search(
    query_QD: np.ndarray, document_MD: np.ndarray, k: int, tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of all tiles, merged tile by tile."""
    queries = _tensor(query_QD)
    best_scores = torch.empty((len(queries), 0))
    best_indices = torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(document_MD), tile):
        scores_QT = queries @ _tensor(document_MD[start : start + tile]).T
        tile_scores, tile_indices = _best(scores_QT, k)
        # What was found before stands in front: its indices are lower, so a stable sort keeps ties in order.
        scores = torch.cat([best_scores, tile_scores], dim=1)
        indices = torch.cat([best_indices, tile_indices + start], dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        best_scores, best_indices = scores.gather(1, order), indices.gather(1, order)
    return best_scores.numpy(), best_indices.numpy()


def _best(scores_QT: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k columns of each row, by score and then by column."""
    width = scores_QT.shape[1]
    if k >= width:
        scores, columns = scores_QT.sort(dim=1, descending=True, stable=True)
        return scores, columns
    scores, columns = scores_QT.topk(k, dim=1)
    # topk takes any of the columns that tie at its edge. Rows where more tie than fit are sorted in full.
    edge = scores[:, -1:]
    tied_rows = ((scores_QT >= edge).sum(1) > k).nonzero().squeeze(1)
    if len(tied_rows):
        columns[tied_rows] = scores_QT[tied_rows].sort(dim=1, descending=True, stable=True).indices[:, :k]
    columns = columns.sort(dim=1).values
    order = scores_QT.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    return scores_QT.gather(1, columns), columns


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
