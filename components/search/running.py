"""The best k documents of each query, kept while tiles of scores come by.

A score and a row make one 64-bit key, so that one comparison decides by score and then by row. A tile is only
compared with each query's floor, the k-th best so far; few scores pass it, and those go into a buffer that is cut
back to k when it is full. Nothing is sorted before the end.
"""

import numpy as np

LARGEST_ROW = 2**32 - 1
_EMPTY = np.iinfo(np.int64).min
_WORD = 8  # comparisons, one byte each, that are looked at at once


class RunningTopK:
    """The k best of the documents seen so far, for each of Q queries.

    Args:
        num_queries: Q.
        k: documents kept a query, at least 1.
    """

    def __init__(self, num_queries: int, k: int) -> None:
        self._k = k
        self._capacity = buffer_length(k)
        self._keys_QC = np.full((num_queries, self._capacity), _EMPTY, dtype=np.int64)
        self._count_Q = np.zeros(num_queries, dtype=np.int64)
        self._floor_Q = np.full(num_queries, -np.inf, dtype=np.float32)
        self._seen_Q = np.zeros(num_queries, dtype=np.int64)

    def add(self, scores_QT: np.ndarray, first_query: int, first_row: int) -> None:
        """Take in the scores, float32, of some queries with the next documents.

        A score of minus infinity or NaN is never among the best. Tiles come in rising order of their rows: of
        documents that score alike the one that was seen first stays.

        Args:
            first_query: number of the first of the tile's queries.
            first_row: row of the first of the tile's documents.
        """
        queries, width = scores_QT.shape
        mine = slice(first_query, first_query + queries)
        start = 0
        while start < width:
            # Of documents in no order about k in a stretch as long as all before it reach the best k.
            stop = min(width, start + max(2 * self._k, int(self._seen_Q[first_query])))
            query_H, column_H = _above(scores_QT[:, start:stop], self._floor_Q[mine])
            if len(query_H):
                keys_H = pack(scores_QT[query_H, column_H + start], column_H + (first_row + start))
                self._keep(query_H + first_query, keys_H)
            self._seen_Q[mine] += stop - start
            start = stop

    def keys(self) -> np.ndarray:
        """The best so far, int64 [Q, k], best first; `unpack` says what they are. Padded where there are fewer."""
        return best_keys(self._keys_QC, self._k)

    def _keep(self, query_H: np.ndarray, keys_H: np.ndarray) -> None:
        """Put keys, sorted by query, into the buffers; cut back those that would run over."""
        count_Q = np.bincount(query_H, minlength=len(self._count_Q))
        end_Q = np.cumsum(count_Q)
        full = np.flatnonzero(self._count_Q + count_Q > self._capacity)
        if len(full):
            # Their buffers and what is new side by side in rows of one length.
            width = self._capacity + int(count_Q[full].max())
            joined_FJ = np.full((len(full), width), _EMPTY, dtype=np.int64)
            joined_FJ[:, : self._capacity] = self._keys_QC[full]
            place_Q = np.full(len(self._count_Q), -1)
            place_Q[full] = np.arange(len(full))
            mine_H = place_Q[query_H] >= 0
            query_G = query_H[mine_H]
            within_G = np.flatnonzero(mine_H) - (end_Q - count_Q)[query_G]
            joined_FJ[place_Q[query_G], self._capacity + within_G] = keys_H[mine_H]
            best_FK = _largest(joined_FJ, self._k)
            self._keys_QC[full, : self._k] = best_FK
            self._keys_QC[full, self._k :] = _EMPTY
            self._count_Q[full] = self._k
            self._floor_Q[full] = unpack(best_FK.min(1))[0]
            rest_H = ~mine_H
            within_R = np.flatnonzero(rest_H) - (end_Q - count_Q)[query_H[rest_H]]
            query_H, keys_H, count_Q[full] = query_H[rest_H], keys_H[rest_H], 0
        else:
            within_R = np.arange(len(query_H)) - (end_Q - count_Q)[query_H]
        self._keys_QC[query_H, self._count_Q[query_H] + within_R] = keys_H
        self._count_Q += count_Q


def buffer_length(k: int) -> int:
    """Keys, 8 bytes each, that are held for a query."""
    return k + max(k, 128)


def best_keys(keys_QJ: np.ndarray, k: int) -> np.ndarray:
    """The k largest keys of each row, the largest first: what several parts of a corpus found, merged."""
    return np.sort(_largest(keys_QJ, k), axis=1)[:, ::-1]


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keys, int64, that are ordered by score, float32, and among equal scores by falling row."""
    bits = (scores + np.float32(0)).view(np.int32)  # minus zero becomes zero: they are one score
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.astype(np.int64) << 32) | (LARGEST_ROW - rows)


def unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and rows int64 of keys; minus infinity and -1 of those that stand for nothing."""
    ordered = (keys >> 32).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    nothing = keys == _EMPTY
    scores = np.where(nothing, np.float32(-np.inf), bits.view(np.float32))
    return scores, np.where(nothing, -1, LARGEST_ROW - (keys & LARGEST_ROW))


def _above(scores_QT: np.ndarray, floor_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the scores above their row's floor, by row and then by column."""
    queries, width = scores_QT.shape
    padded = -(-width // _WORD) * _WORD
    passes_QT = np.empty((queries, padded), dtype=bool)
    passes_QT[:, width:] = False
    np.greater(scores_QT, floor_Q[:, None], out=passes_QT[:, :width])
    words = np.flatnonzero(passes_QT.view(np.uint64) != 0)  # few pass: most words are zero
    word, byte = np.nonzero(passes_QT.reshape(-1, _WORD)[words])
    return np.divmod(words[word] * _WORD + byte, padded)


def _largest(keys_QJ: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, in no order."""
    width = keys_QJ.shape[1]
    return np.partition(keys_QJ, width - k, axis=1)[:, width - k :]
