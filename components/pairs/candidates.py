"""What a block of pairs may draw its negatives from: found documents, and how near they are to what is known."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from components.pairs.known import Known
from components.pairs.profiles import WordSets
from components.pairs.vectors import cosines
from components.search.running import unpack
from components.search.shards import Shards, TableShards

_NUMBERS_AT_ONCE = 2**24  # of gathered vectors; 64 MiB
_NUMBERS_A_LINK = 8  # for each document found that is held against a known positive


@dataclass(frozen=True)
class Store:
    """The corpus and the texts outside of it; a reference (`pair_index.PairIndex`) is a row of one of them."""

    corpus_texts: TableShards
    corpus_profiles: TableShards
    corpus_vectors: Shards
    outside_profiles: TableShards
    outside_vectors: Shards

    def vectors(self, reference_J: np.ndarray) -> np.ndarray:
        """float32 [J, D]."""
        inside = reference_J >= 0
        if inside.all():
            return self.corpus_vectors.take(reference_J)
        outside_XD = self.outside_vectors.take(-1 - reference_J[~inside])
        vector_JD = np.empty((len(reference_J), outside_XD.shape[1]), dtype=np.float32)
        vector_JD[~inside] = outside_XD
        if inside.any():
            vector_JD[inside] = self.corpus_vectors.take(reference_J[inside])
        return vector_JD

    def words(self, reference_J: np.ndarray) -> pa.ChunkedArray:
        """Column `words` of the profiles."""
        inside = reference_J >= 0
        parts = [self.corpus_profiles.take(reference_J[inside], ["words"])]
        if not inside.all():
            parts.append(self.outside_profiles.take(-1 - reference_J[~inside], ["words"]))
        order = np.argsort(np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)]))
        return pa.concat_tables(parts)["words"].take(pa.array(order))


@dataclass(frozen=True)
class Candidates:
    """The documents found for B pairs, K each, best first; a pair with fewer is padded with row -1."""

    row_BK: np.ndarray
    """int64, row of the corpus."""
    score_BK: np.ndarray
    """float32, cosine with the query; minus infinity where there is no document."""
    words_BK: np.ndarray
    """float32, Jaccard similarity of the word sets with the known positive that shares most."""
    few_words_BK: np.ndarray
    """int64, distinct words of the shorter of the two."""
    cosine_BK: np.ndarray
    """float32, cosine with the nearest known positive."""
    partial_BK: np.ndarray
    """float32, partial correlation with a known positive, the query taken out of both; the highest."""
    known_BK: np.ndarray
    """bool: a known positive or a copy of one."""
    positive_score_B: np.ndarray
    """float32, cosine of query and positive."""
    passed_over_B: np.ndarray
    """int64 [B, 2], known positives and copies that were kept from being found and stand above the last."""


def gather(
    keys_BK: np.ndarray,
    query_BD: np.ndarray,
    positive_B: np.ndarray,
    query_B: np.ndarray,
    known: Known,
    store: Store,
) -> Candidates:
    """Candidates of B pairs.

    Args:
        keys_BK: what was found for each pair's query (`running.unpack`).
        query_BD: the queries' vectors.
        positive_B: references of the positives.
        query_B: number of each pair's query in `known`.
    """
    score_BK, row_BK = unpack(keys_BK)
    # What the queries' positives say of a document is the same for every pair of the query.
    first_Q = np.unique(query_B, return_index=True)[1]
    row_QK = row_BK[first_Q]
    near = _nearness(row_QK, score_BK[first_Q], query_BD[first_Q], known, store)
    known_QK = _is_known(row_QK, known)
    return Candidates(
        row_BK=row_BK,
        score_BK=score_BK,
        words_BK=near.words_QK[query_B],
        few_words_BK=near.few_words_QK[query_B],
        cosine_BK=near.cosine_QK[query_B],
        partial_BK=near.partial_QK[query_B],
        known_BK=known_QK[query_B],
        positive_score_B=cosines(query_BD, store.vectors(positive_B)),
        passed_over_B=_passed_over(row_QK, score_BK[first_Q], query_BD[first_Q], known, store)[query_B],
    )


class _Nearness(NamedTuple):
    """Of each document to its query's known positives; fields as of Candidates."""

    words_QK: np.ndarray
    few_words_QK: np.ndarray
    cosine_QK: np.ndarray
    partial_QK: np.ndarray


def _nearness(
    row_QK: np.ndarray, score_QK: np.ndarray, query_QD: np.ndarray, known: Known, store: Store
) -> _Nearness:
    width, row_F, score_F = row_QK.shape[1], row_QK.reshape(-1), score_QK.reshape(-1)
    reference_U, number_R = np.unique(known.reference_R, return_inverse=True)
    positive_UD = store.vectors(reference_U)
    row_V = np.unique(row_F[row_F >= 0])
    sets = WordSets(pa.chunked_array([*store.words(row_V).chunks, *store.words(reference_U).chunks]))

    words, few = np.full(row_F.size, -1, dtype=np.float32), np.zeros(row_F.size, dtype=np.int64)
    cosine, partial = (np.full(row_F.size, -1, dtype=np.float32) for _ in range(2))
    for links in _parts(len(number_R), max(width * _NUMBERS_A_LINK, query_QD.shape[1])):
        query_R, number_P = known.query_R[links], number_R[links]
        positive_score_R = cosines(positive_UD[number_P], query_QD[query_R])
        place_J = (query_R[:, None] * width + np.arange(width)).reshape(-1)
        of_link_J = np.repeat(np.arange(len(number_P)), width)
        there = row_F[place_J] >= 0
        place_J, of_link_J = place_J[there], of_link_J[there]
        number_J, row_J = number_P[of_link_J], row_F[place_J]

        cosine_J = _cosines_with_rows(store.corpus_vectors, row_J, positive_UD, number_J)
        partial_J = partial_correlations(cosine_J, score_F[place_J], positive_score_R[of_link_J])
        np.maximum.at(cosine, place_J, cosine_J)
        np.maximum.at(partial, place_J, partial_J)
        row_in_V_J = np.searchsorted(row_V, row_J)
        words_J = sets.jaccard(row_in_V_J, len(row_V) + number_J)
        few_J = np.minimum(sets.size_T[row_in_V_J], sets.size_T[len(row_V) + number_J])
        order = np.argsort(words_J, kind="stable")  # of equal places the last one stays
        order = order[words_J[order] >= words[place_J[order]]]
        words[place_J[order]], few[place_J[order]] = words_J[order], few_J[order]
    found = (np.maximum(words, 0), few, cosine, partial)
    return _Nearness(*(each.reshape(row_QK.shape) for each in found))


def partial_correlations(left_right_J: np.ndarray, left_J: np.ndarray, right_J: np.ndarray) -> np.ndarray:
    """Of two unit vectors the cosine of what is left of them without their parts along a third, float32 [J].

    Args:
        left_right_J: cosines of the two. left_J, right_J: their cosines with the third.
    """
    # Of a vector along the third nothing is left; what rounding makes of it is kept small.
    left_over_J = np.maximum(1 - left_J**2, 1e-3) * np.maximum(1 - right_J**2, 1e-3)
    return np.clip((left_right_J - left_J * right_J) / np.sqrt(left_over_J), -1, 1).astype(np.float32)


def _cosines_with_rows(
    vectors: Shards, row_J: np.ndarray, left_XD: np.ndarray, left_J: np.ndarray
) -> np.ndarray:
    """Cosines of rows on disk with vectors in memory, float32 [J]; each file is read once."""
    cosine_J = np.empty(len(row_J), dtype=np.float32)
    order = np.argsort(row_J, kind="stable")
    for which in _parts(len(order), left_XD.shape[1]):
        part = order[which]
        cosine_J[part] = cosines(vectors.take(row_J[part]), left_XD[left_J[part]])
    return cosine_J


def _parts(count: int, dimensions: int) -> list[slice]:
    """Numbers below `count` in parts, of which so many vectors may be gathered at once."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, dimensions))
    return [slice(start, start + step) for start in range(0, max(count, 1), step)]


def _is_known(row_QK: np.ndarray, known: Known) -> np.ndarray:
    query_QK = np.broadcast_to(np.arange(len(row_QK))[:, None], row_QK.shape)
    return np.isin((query_QK << 32) | row_QK, (known.query_B << 32) | known.row_B) & (row_QK >= 0)


def _passed_over(
    row_QK: np.ndarray, score_QK: np.ndarray, query_QD: np.ndarray, known: Known, store: Store
) -> np.ndarray:
    """Known positives and copies above the last document found that are not among those found, [Q, 2]."""
    found = np.isin((known.query_B << 32) | known.row_B, (np.arange(len(row_QK))[:, None] << 32) | row_QK)
    query_B, row_B, copy_B = known.query_B[~found], known.row_B[~found], known.copy_B[~found]
    above = _cosines_with_rows(store.corpus_vectors, row_B, query_QD, query_B) > score_QK[query_B, -1]
    counts = np.zeros((len(row_QK), 2), dtype=np.int64)
    np.add.at(counts, (query_B[above], copy_B[above].astype(np.int64)), 1)
    return counts
