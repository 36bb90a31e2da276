"""What is kept of a text to tell its copies and near-copies: hashes, and the set of its words."""

import zlib

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from components.corpus.digests import digests
from components.corpus.words import normalise, words
from components.search.shards import TableShards
from components.search.workers import spread
from components.storage import Folder

PROFILE = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("exact", pa.int64(), nullable=False),  # of the passage as it stands
        pa.field("passage", pa.int64(), nullable=False),  # of the passage, normalised
        pa.field("body", pa.int64(), nullable=False),  # of the text without its title, normalised
        pa.field("words", pa.list_(pa.int32()), nullable=False),  # hashes of its distinct words, rising
    ]
)
HASHES = ["id", "exact", "passage", "body"]

_PAIRS_AT_ONCE = 16384


def profile_texts(texts: TableShards, output: Folder, workers: int) -> TableShards:
    """Write the PROFILE of every text; files that are there already are left as they are.

    Args:
        texts: columns document_id, title and text, a passage that begins with its title where there is one.
        workers: tasks at once.
    """
    profiles = TableShards(output, texts.rows, texts.rows_per_shard)
    missing = profiles.missing()
    for _ in spread(_profile_shard, ((texts, profiles, shard) for shard in missing), len(missing), workers):
        pass
    return profiles


def _profile_shard(texts: TableShards, profiles: TableShards, shard: int) -> None:
    table = texts.read(shard)
    passages, titles = table["text"].to_pylist(), table["title"].to_pylist()
    bodies = [text[len(title) + 1 :] if title else text for title, text in zip(titles, passages, strict=True)]
    word_sets = [np.unique([zlib.crc32(word.encode()) >> 1 for word in words(text)]) for text in passages]
    columns = [
        pa.array(digests(table["document_id"].to_pylist())),
        pa.array(digests(passages)),
        pa.array(digests([normalise(text) for text in passages])),
        pa.array(digests([normalise(text) for text in bodies])),
        pa.array(word_sets, PROFILE.field("words").type),
    ]
    profiles.write(shard, pa.table(columns, schema=PROFILE))


class WordSets:
    """The word sets of some texts, to be compared in great numbers.

    Args:
        words: column `words` of their profiles.
    """

    def __init__(self, words: pa.ChunkedArray) -> None:
        lists = words.combine_chunks()
        self.size_T = lists.value_lengths().to_numpy()
        starts = np.concatenate([[0], np.cumsum(self.size_T, dtype=np.int64)])
        columns = lists.flatten().to_numpy()
        ones = np.ones(len(columns), dtype=np.int32)
        self._membership = csr_matrix((ones, columns, starts), shape=(len(self.size_T), 2**31 - 1))

    def jaccard(self, left_J: np.ndarray, right_J: np.ndarray) -> np.ndarray:
        """Words in common by words in all, of texts by number, float32 [J]."""
        found_J = np.empty(len(left_J), dtype=np.float32)
        for start in range(0, len(left_J), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            left, right = left_J[part], right_J[part]
            common = np.asarray(self._membership[left].multiply(self._membership[right]).sum(1)).ravel()
            found_J[part] = common / np.maximum(self.size_T[left] + self.size_T[right] - common, 1)
        return found_J
