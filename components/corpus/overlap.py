"""Word n-grams that texts share with those of evaluation sets."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from components.corpus.digests import digests, find
from components.corpus.words import normalise, words

FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that two n-grams that differ in one word never have one hash."""


@dataclass(frozen=True)
class Overlap:
    """That a text shares too much with one of an evaluation set.

    Attributes:
        evaluation_set: its name.
        words: the first n-gram that they share, or the whole text where they are equal.
        share: of the n-grams of the shorter text.
    """

    evaluation_set: str
    words: str
    share: float


@dataclass(frozen=True)
class OverlapIndex:
    """The n-grams of all texts of the evaluation sets. G n-grams, T texts of at least n words, S shorter ones.

    Attributes:
        ngram: words.
        names: of the evaluation sets.
        hash_G: uint64, ascending; one for each text that an n-gram stands in.
        text_G: int32, number of the text.
        ngrams_T: int32, distinct n-grams of a text.
        set_T: int32, number of its evaluation set.
        digest_S: int64, ascending, of normalised texts.
        set_S: int32.
    """

    ngram: int
    names: tuple[str, ...]
    hash_G: np.ndarray
    text_G: np.ndarray
    ngrams_T: np.ndarray
    set_T: np.ndarray
    digest_S: np.ndarray
    set_S: np.ndarray

    def overlaps(self, texts: Iterable[str], share: float) -> list[Overlap]:
        """With which evaluation sets a text, in one or more renderings, overlaps; at most one overlap a set.

        A text of at least n words does if it has the share of n-grams in common with one text of the set: of its own
        n-grams, or of the other's if those are fewer (the overlap coefficient of Szymkiewicz and Simpson). A shorter
        text does if its words are those of a text of the set, whatever stands between them.
        """
        found: dict[int, Overlap] = {}
        for text in texts:
            spoken = words(text)
            if len(spoken) < self.ngram:
                place, is_there = find(self.digest_S, digests([_short_form(text, spoken)]))
                if is_there[0]:
                    for at in range(
                        place[0], np.searchsorted(self.digest_S, self.digest_S[place[0]], "right")
                    ):
                        number = int(self.set_S[at])
                        found.setdefault(number, Overlap(self.names[number], normalise(text), 1.0))
                continue
            for overlap in self._shared(spoken, share):
                found.setdefault(self.names.index(overlap.evaluation_set), overlap)
        return [found[number] for number in sorted(found)]

    def _shared(self, spoken: list[str], share: float) -> list[Overlap]:
        hash_W = ngram_hashes(spoken, self.ngram)
        hash_U, first_U = np.unique(hash_W, return_index=True)
        start_U = np.searchsorted(self.hash_G, hash_U, side="left")
        count_U = np.searchsorted(self.hash_G, hash_U, side="right") - start_U
        if not count_U.any():
            return []
        # every (n-gram of ours, text of theirs) that meet
        ours = np.repeat(np.arange(len(hash_U)), count_U)
        within = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
        theirs = self.text_G[start_U[ours] + within]
        text, number, common = np.unique(theirs, return_inverse=True, return_counts=True)
        share_of_text = common / np.minimum(self.ngrams_T[text], len(hash_U))
        overlaps = []
        for name in np.unique(self.set_T[text[share_of_text >= share]]):
            of_set = np.flatnonzero(self.set_T[text] == name)
            best = of_set[np.argmax(share_of_text[of_set])]
            at = int(first_U[ours[number == best]].min())
            shared = " ".join(spoken[at : at + self.ngram])
            overlaps.append(Overlap(self.names[name], shared, float(share_of_text[best])))
        return overlaps


@dataclass
class OverlapIndexBuilder:
    """Takes the texts of evaluation sets, one set after the other."""

    ngram: int
    names: list[str] = field(default_factory=list)
    _hashes: list[np.ndarray] = field(default_factory=list)
    _set_T: list[int] = field(default_factory=list)
    _short: dict[tuple[int, int], None] = field(default_factory=dict)

    def add(self, name: str, texts: Iterable[str]) -> int:
        """Take a set's texts. Returns how many there were."""
        number = len(self.names)
        self.names.append(name)
        count = 0
        for text in texts:
            count += 1
            spoken = words(text)
            if not normalise(text):
                continue
            if len(spoken) < self.ngram:
                self._short[int(digests([_short_form(text, spoken)])[0]), number] = None
            else:
                self._hashes.append(np.unique(ngram_hashes(spoken, self.ngram)))
                self._set_T.append(number)
        return count

    def index(self) -> OverlapIndex:
        ngrams_T = np.array([len(each) for each in self._hashes], dtype=np.int32)
        hash_G = np.concatenate([np.empty(0, dtype=np.uint64), *self._hashes])
        order = np.argsort(hash_G, kind="stable")
        short = np.array(sorted(self._short), dtype=np.int64).reshape(-1, 2)
        return OverlapIndex(
            ngram=self.ngram,
            names=tuple(self.names),
            hash_G=hash_G[order],
            text_G=np.repeat(np.arange(len(ngrams_T), dtype=np.int32), ngrams_T)[order],
            ngrams_T=ngrams_T,
            set_T=np.array(self._set_T, dtype=np.int32),
            digest_S=short[:, 0].copy(),
            set_S=short[:, 1].astype(np.int32),
        )


def ngram_hashes(spoken: list[str], ngram: int) -> np.ndarray:
    """A number for each n-gram of a text's words, uint64 [words - n + 1]; the same in every process."""
    word_W = np.fromiter(map(_word_hash, spoken), dtype=np.uint64, count=len(spoken))
    count = len(spoken) - ngram + 1
    hash_W = np.zeros(count, dtype=np.uint64)
    for offset in range(ngram):
        hash_W = hash_W * FACTOR + word_W[offset : offset + count]
    return hash_W


@lru_cache(maxsize=2**18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())


def _short_form(text: str, spoken: list[str]) -> str:
    """By what a text of few words is known: its words; of a text without any, itself."""
    return " ".join(spoken) or normalise(text)
