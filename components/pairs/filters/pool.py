"""A sample of passages to search in, and which of them are known to answer which query.

In memory stand numbers alone: two a passage, and a few for each pair whose positive is in the sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests, find
from components.corpus.schema import passage
from components.corpus.tables import read_batches
from components.corpus.words import normalise
from components.pairs.lookup import Lookup
from components.pairs.piecewise import ROWS_AT_ONCE
from components.pairs.table import read_pairs
from components.search.shards import TableShards, write_tables
from components.storage import Folder

DOCUMENTS_FILE = "documents.parquet"
TEXTS_OF_A_DOCUMENT = 16
"""An id under which more texts stand is no document's but that of a class, whose texts its queries tell already."""


class Links:
    """Rows of the pool by key, of which one may have several.

    Args:
        parts: keys and rows, int64 of one length each. A link that stands in them often is held once.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        nothing = np.empty(0, dtype=np.int64)
        links = [np.concatenate([nothing, *(part[side] for part in parts)]) for side in (0, 1)]
        self._key_L, self._row_L = np.unique(np.stack(links), axis=1)
        self._keys = Lookup(self._key_L)

    def count(self, key_N: np.ndarray) -> np.ndarray:
        """How many links each key has, int64 [N]."""
        return self._keys.count(key_N)

    def find(self, key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every link of every key: the key's number and the row, int64 [links] each."""
        which, places = self._keys.find(key_N)
        return which, self._row_L[places]

    def of_few(self, most: int) -> "Links":
        """Without the keys of more than `most` links."""
        few_L = self._keys.count(self._key_L) <= most
        return Links([(self._key_L[few_L], self._row_L[few_L])])


@dataclass(frozen=True)
class Pool:
    """P distinct passages, numbered by where they first stand.

    Attributes:
        digest_P: int64 of their texts, ascending.
        row_P: int64, the number of the passage of each digest.
        texts: column `text`.
        answers: passages that are known to answer a query, by the keys of `query_keys`.
    """

    seed: int
    digest_P: np.ndarray
    row_P: np.ndarray
    texts: TableShards
    answers: Links

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """The number of each text, int64 [N]; -1: not in the pool."""
        place_N, there_N = find(self.digest_P, _digests(texts, str(self.seed)))
        return np.where(there_N, self.row_P[place_N], -1)


def build_pool(
    pairs: Folder, documents: Folder | None, size: int, seed: int, folder: Folder, rows_per_shard: int
) -> Pool:
    """Sample `size` distinct passages of the positives of all pairs and of the documents.

    Which are taken depends on their text and the seed alone: those of the smallest digests.

    Args:
        folder: takes the texts; what an earlier attempt wrote there is kept.

    Raises:
        ValueError: no pair has a positive.
    """
    digest_P, more, waiting = np.empty(0, np.int64), [], 0
    for texts, _ in _passages(pairs, documents):
        more.append(_digests(texts, str(seed)))
        waiting += len(texts)
        if waiting >= size:
            digest_P, more, waiting = np.unique(np.concatenate([digest_P, *more]))[:size], [], 0
    digest_P = np.unique(np.concatenate([digest_P, *more]))[:size]
    if not len(digest_P):
        raise ValueError("filter: no pair has a positive")
    row_P = np.full(len(digest_P), -1, dtype=np.int64)
    by_text, by_id = [], []

    def new_texts() -> Iterator[pa.Table]:
        numbered = 0
        for texts, ids in _passages(pairs, documents):
            place_N, there_N = find(digest_P, _digests(texts, str(seed)))
            hits = np.flatnonzero(there_N)
            place_H, first_H = np.unique(place_N[hits], return_index=True)
            new = np.sort(first_H[row_P[place_H] < 0])
            row_P[place_N[hits[new]]] = numbered + np.arange(len(new))
            numbered += len(new)
            row_H = row_P[place_N[hits]]
            by_text.append((_digests([normalise(texts[hit]) for hit in hits], "text"), row_H))
            by_id.append((_digests([ids[hit] for hit in hits], "id"), row_H))
            yield pa.table({"text": pa.array([texts[hit] for hit in hits[new]], pa.string())})

    pieces = new_texts()
    written = write_tables(pieces, folder, rows_per_shard)
    for _ in pieces:
        pass  # an earlier attempt wrote the texts: what is known of them is gathered all the same
    members = (Links(by_text), Links(by_id).of_few(TEXTS_OF_A_DOCUMENT))
    return Pool(seed, digest_P, row_P, written, Links(_answers(pairs, *members)))


def query_keys(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """What a query is known by: its id and its text, int64 [N] each."""
    texts = [normalise(query) for query in pairs["query"].to_pylist()]
    return _digests(pairs["query_id"].to_pylist(), "query-id"), _digests(texts, "query")


def _answers(pairs: Folder, by_text: Links, by_id: Links) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which passages answer which query: the positives of all pairs, found by id and by text."""
    links = []
    for table in read_pairs(pairs, ROWS_AT_ONCE):
        texts = [normalise(text) for text in table["positive"].to_pylist()]
        ids = _digests(table["positive_id"].to_pylist(), "id")
        for which, rows in (by_text.find(_digests(texts, "text")), by_id.find(ids)):
            links += [(query_key_N[which], rows) for query_key_N in query_keys(table)]
    return links


def _passages(pairs: Folder, documents: Folder | None) -> Iterator[tuple[list[str], list[str]]]:
    """Texts and ids, some at a time, without those that are empty."""
    for table in read_pairs(pairs, ROWS_AT_ONCE):
        yield _filled(table["positive"].to_pylist(), table["positive_id"].to_pylist())
    if documents is None:
        return
    columns = ("document_id", "title", "text")
    for batch in read_batches(documents, DOCUMENTS_FILE, columns):
        ids, titles, texts = (batch[name].to_pylist() for name in columns)
        yield _filled([passage(title, text) for title, text in zip(titles, texts, strict=True)], ids)


def _filled(texts: list[str], ids: list[str]) -> tuple[list[str], list[str]]:
    kept = [row for row, text in enumerate(texts) if text.strip()]
    return [texts[row] for row in kept], [ids[row] for row in kept]


def _digests(texts: Iterable[str], kind: str) -> np.ndarray:
    """int64 [N]; texts of different kinds have nothing to do with one another."""
    return digests([f"{kind}\x1f{text}" for text in texts])
