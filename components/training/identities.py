"""Which queries are one and which documents are, and which documents answer a query; by hashes, not texts.

Two queries are one if their wordings or their ids are equal, two documents likewise (a mined negative may
carry a document's id and another rendering of its text).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from components.training.batch import Ragged

NO_ID = 0


def digest(text: str) -> int:
    """64 bits of BLAKE2b, signed; the empty text has NO_ID.

    Among 10 million distinct texts two share a digest with a probability of 3e-6.
    """
    if not text:
        return NO_ID
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def number_identities(texts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """One number for all that share a text or an id, directly or through others.

    Args:
        texts, ids: int64 [N] digests of each one's text and id; NO_ID links to nobody.

    Returns:
        int64 [N].
    """
    distinct_texts, text_number = np.unique(texts, return_inverse=True)
    linked = np.flatnonzero(ids != NO_ID)
    distinct_ids, id_number = np.unique(ids[linked], return_inverse=True)
    edges = np.unique(text_number[linked] * len(distinct_ids) + id_number)
    text_of_edge, id_of_edge = np.divmod(edges, max(1, len(distinct_ids)))
    nodes = len(distinct_texts) + len(distinct_ids)
    graph = coo_array(
        (np.ones(len(edges), dtype=np.int8), (text_of_edge, len(distinct_texts) + id_of_edge)),
        shape=(nodes, nodes),
    )
    return connected_components(graph, directed=False)[1][text_number].astype(np.int64)


@dataclass(frozen=True)
class Answers:
    """The queries that have several positives in the training pairs, with all of them.

    Attributes:
        queries, positives: int64 identities, distinct pairs, sorted by query.
    """

    queries: np.ndarray
    positives: np.ndarray

    @classmethod
    def of(cls, queries: np.ndarray, positives: np.ndarray) -> "Answers":
        """From the identities of each pair's query and positive."""
        order = np.lexsort((positives, queries))
        queries, positives = queries[order], positives[order]
        new = np.ones(len(queries), dtype=bool)
        new[1:] = (queries[1:] != queries[:-1]) | (positives[1:] != positives[:-1])
        queries, positives = queries[new], positives[new]
        _, number, counts = np.unique(queries, return_inverse=True, return_counts=True)
        several = counts[number] > 1
        return cls(queries[several], positives[several])

    def known_positives(self, queries: np.ndarray, positives: np.ndarray, among: np.ndarray) -> Ragged:
        """For each row those of the documents `among` that answer its query, its own positive left out.

        Args:
            queries, positives: int64 [B], identities of the rows.
            among: int64, identities of the documents that the rows meet.
        """
        starts = np.searchsorted(self.queries, queries, side="left")
        counts = np.searchsorted(self.queries, queries, side="right") - starts
        found = Ragged.ranges(self.positives, starts, counts)
        row = np.repeat(np.arange(len(queries)), counts)
        kept = (found.values != positives[row]) & np.isin(found.values, among)
        counts = np.bincount(row[kept], minlength=len(queries))
        return Ragged(found.values[kept], np.concatenate([[0], np.cumsum(counts)]))
