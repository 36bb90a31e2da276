"""A sample of passages to search in, and which of them are known to answer which query.

In memory stand numbers alone: a digest a passage, and a few for each pair whose positive is in the sample. The
vectors lie in a file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests, find
from components.corpus.schema import passage
from components.corpus.tables import read_batches
from components.corpus.words import normalise
from components.model.embedder import Embedder
from components.monitor import Monitor, Silent
from components.pairs.filters.scores import ROWS_AT_ONCE, recorded
from components.pairs.table import read_pairs
from components.pairs.vectors import encode_documents
from components.storage import Folder

DOCUMENTS_FILE = "documents.parquet"
_TEXT, _ID, _QUERY, _QUERY_ID = "text", "id", "query", "query-id"


@dataclass(frozen=True)
class Links:
    """Places in the pool by key, of which one may have several.

    Attributes:
        key_L: int64, ascending.
        column_L: int64.
    """

    key_L: np.ndarray
    column_L: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> "Links":
        key_L = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in parts)])
        column_L = np.concatenate([np.empty(0, np.int64), *(columns for _, columns in parts)])
        order = np.argsort(key_L, kind="stable")
        return cls(key_L[order], column_L[order])

    def rows(self, key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every link of every key: the key's number and the column, int64 [links]."""
        first_N = np.searchsorted(self.key_L, key_N, "left")
        count_N = np.searchsorted(self.key_L, key_N, "right") - first_N
        row_M = np.repeat(np.arange(len(key_N)), count_N)
        within_M = np.arange(len(row_M)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        return row_M, self.column_L[first_N[row_M] + within_M]


@dataclass(frozen=True)
class Pool:
    """P passages.

    Attributes:
        digest_P: int64 of their texts, ascending.
        vector_PD: float32 unit vectors.
        answers: passages that are known to answer a query, by its id and by its text.
    """

    seed: int
    digest_P: np.ndarray
    vector_PD: np.ndarray
    answers: Links

    def find(self, texts: Sequence[str]) -> np.ndarray:
        """The column of each text, int64 [N]; -1: not in the pool."""
        return _find(self.digest_P, _digests(texts, str(self.seed)))

    def known_answers(self, piece: pa.Table) -> list[np.ndarray]:
        """For each pair the columns that are known to answer its query, int64."""
        found = [self.answers.rows(keys) for keys in _query_keys(piece)]
        row_M, column_M = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(row_M, kind="stable")
        cuts = np.searchsorted(row_M[order], np.arange(1, piece.num_rows))
        return np.split(column_M[order], cuts)


def build_pool(
    pairs: Folder,
    documents: Folder | None,
    size: int,
    seed: int,
    embedder: Embedder,
    tokens_per_batch: int,
    file: Path,
    state: Folder | None,
    monitor: Monitor,
) -> Pool:
    """Sample `size` distinct passages of the positives and the documents, and encode them.

    Which are taken depends on their text and the seed alone: those of the smallest digests.

    Args:
        file: takes the vectors.
        state: what survives an attempt; vectors that stand there are not computed again.
    """
    digest_P = np.empty(0, np.int64)
    for texts, _ in _passages(pairs, documents):
        digest_P = np.unique(np.concatenate([digest_P, _digests(texts, str(seed))]))[:size]
    shape = (len(digest_P), embedder.spec.dimensions)
    vector_PD = (
        np.memmap(file, np.float32, "w+", shape=shape) if len(digest_P) else np.empty(shape, np.float32)
    )
    missing_P = np.ones(len(digest_P), dtype=bool)
    members = []
    for number, (texts, ids) in enumerate(_passages(pairs, documents)):
        column_N = _find(digest_P, _digests(texts, str(seed)))
        hits = np.flatnonzero(column_N >= 0)
        members += [
            (_digests([normalise(texts[row]) for row in hits], _TEXT), column_N[hits]),
            (_digests([ids[row] for row in hits], _ID), column_N[hits]),
        ]
        column_H, first_H = np.unique(column_N[hits], return_index=True)
        new_H = missing_P[column_H]
        column_H, rows = column_H[new_H], hits[first_H[new_H]]
        if len(rows):
            new = [texts[row] for row in rows]
            vector_PD[column_H] = recorded(
                state, f"pool/{number:08d}", partial(_encode, embedder, new, tokens_per_batch)
            )
            missing_P[column_H] = False
            monitor.progress(len(digest_P) - int(missing_P.sum()), len(digest_P), "passages")
    return Pool(seed, digest_P, vector_PD, _answers(pairs, Links.join(members)))


def _encode(embedder: Embedder, texts: list[str], tokens_per_batch: int) -> np.ndarray:
    return encode_documents(embedder, texts, tokens_per_batch, Silent())[0]


def _answers(pairs: Folder, members: Links) -> Links:
    """Which passages answer which query: the positives of all pairs, found by id and by text."""
    links = []
    for piece in read_pairs(pairs, ROWS_AT_ONCE):
        texts = [normalise(text) for text in piece["positive"].to_pylist()]
        for keys in (_digests(texts, _TEXT), _digests(piece["positive_id"].to_pylist(), _ID)):
            row_M, column_M = members.rows(keys)
            links += [(query_keys[row_M], column_M) for query_keys in _query_keys(piece)]
    return Links.join(links)


def _passages(pairs: Folder, documents: Folder | None) -> Iterator[tuple[list[str], list[str]]]:
    """Texts and ids, piece by piece, without those that are empty."""
    for piece in read_pairs(pairs, ROWS_AT_ONCE):
        yield _filled(piece["positive"].to_pylist(), piece["positive_id"].to_pylist())
    if documents is None:
        return
    columns = ("document_id", "title", "text")
    for batch in read_batches(documents, DOCUMENTS_FILE, columns):
        ids, titles, texts = (batch[name].to_pylist() for name in columns)
        yield _filled([passage(title, text) for title, text in zip(titles, texts, strict=True)], ids)


def _filled(texts: list[str], ids: list[str]) -> tuple[list[str], list[str]]:
    kept = [row for row, text in enumerate(texts) if text.strip()]
    return [texts[row] for row in kept], [ids[row] for row in kept]


def _query_keys(piece: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    texts = [normalise(query) for query in piece["query"].to_pylist()]
    return _digests(piece["query_id"].to_pylist(), _QUERY_ID), _digests(texts, _QUERY)


def _digests(texts: Iterable[str], kind: str) -> np.ndarray:
    """int64 [N]; texts of different kinds have nothing to do with one another."""
    return digests([f"{kind}\x1f{text}" for text in texts])


def _find(digest_P: np.ndarray, digest_N: np.ndarray) -> np.ndarray:
    """Where each digest stands in the ascending ones, int64; -1: nowhere."""
    column_N, there_N = find(digest_P, digest_N)
    return np.where(there_N, column_N, -1)
