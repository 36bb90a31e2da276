"""MinHash signatures of texts (Broder 1997), and the keys of their bands for locality-sensitive hashing."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from datasketch import MinHash, MinHashLSH

from components.corpus.words import shingles

SHINGLES_AT_ONCE = 16384
"""A signature is a minimum, so a long text goes into it part by part."""


@dataclass(frozen=True)
class Bands:
    """Two signatures are candidates if they agree in all `rows` values of one of `count` bands."""

    count: int
    rows: int


def choose_bands(threshold: float, num_permutations: int) -> Bands:
    """Bands for a threshold of Jaccard similarity, by datasketch.

    Raises:
        ValueError: the signatures are too short for the threshold.
    """
    try:
        # Candidates are verified, so a missed near-copy counts for more than a false candidate. At thresholds
        # near 1 there would be one band, which is refused.
        index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=num_permutations, weights=(0.1, 0.9))
    except ValueError as error:
        raise ValueError(
            f"`num_permutations` is {num_permutations}, too few for a threshold of {threshold}; 128 is usual"
        ) from error
    return Bands(index.b, index.r)


def sign(texts: Iterable[str], num_permutations: int, ngram: int, seed: int) -> np.ndarray:
    """The signature of each text's set of word n-grams, uint32 [N, num_permutations]."""
    empty = MinHash(num_perm=num_permutations, seed=seed, scheme="affine32")
    signatures = []
    for text in texts:
        signature = empty.copy()
        parts = shingles(text, ngram)
        while part := set(islice(parts, SHINGLES_AT_ONCE)):
            signature.update_batch(part)
        signatures.append(signature.hashvalues)
    return np.array(signatures, dtype=np.uint32).reshape(-1, num_permutations)


def band_keys(signature_NP: np.ndarray, bands: Bands) -> np.ndarray:
    """A number for the values of each band, uint64 [bands, N]."""
    starts = range(0, bands.count * bands.rows, bands.rows)
    return np.stack([hash_rows(signature_NP[:, start : start + bands.rows]) for start in starts])


def hash_rows(value_NK: np.ndarray) -> np.ndarray:
    """64 bits of each row, uint64 [N]: column after column, mixed by the finaliser of splitmix64."""
    hash_N = np.zeros(len(value_NK), dtype=np.uint64)
    for value_N in value_NK.T:
        hash_N = (hash_N + value_N.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hash_N = (hash_N ^ (hash_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hash_N = (hash_N ^ (hash_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hash_N ^= hash_N >> np.uint64(31)
    return hash_N
