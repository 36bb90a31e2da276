"""What is drawn for a row and not asked of the writer: its family, types, length and languages.

Every draw is seeded by the row's id and the step's seed, so it does not depend on the order or the company of the
rows, nor on the machine. Import-light: a recipe is checked by the model below.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal["retrieval", "bitext_mining", "sts", "classification"]
Share = Annotated[float, Field(gt=0)]
Shares = dict[str, Share]
Name = TypeVar("Name", bound=str)

_RANGE = re.compile(r"([1-9]\d*)-([1-9]\d*)")
_LEVELS = re.compile(r"([0-5])>([0-5])")


class Draws(BaseModel):
    """The distributions of a synthesis: shares are weights, they need not sum to one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    families: Annotated[dict[Family, Share], Field(min_length=1)] = {"retrieval": 1.0}
    """Of the rows: retrieval, bitext_mining, sts, classification."""
    question_types: Shares | None = None
    """Of retrieval; null: the writer chooses for each passage, as in the Qwen3-Embedding paper."""
    difficulties: Shares | None = None
    """Of retrieval; null: the writer chooses for each passage."""
    aspects: Shares | None = None
    """What a classification tells apart; null: those of the prompt file, each as often."""
    similarities: Annotated[Shares, Field(min_length=1)] = {
        "5>3": 1.0,
        "5>2": 1.0,
        "5>1": 1.0,
        "4>2": 1.0,
        "4>1": 1.0,
    }
    """Of sts, "positive>negative": the levels (0 unrelated, 5 the same) of the two sentences."""
    length_words: Annotated[Shares, Field(min_length=1)] = {"4-16": 1.0}
    """Of a retrieval query; a range as "4-16", both ends included and uniform in between."""
    query_languages: Shares | None = None
    """ISO codes, of retrieval queries; null: a query has the language of its document."""
    translation_languages: Shares | None = None
    """ISO codes, of bitext mining; a sentence is translated into one that is not its own."""
    corpus_languages: Shares | None = None
    """ISO codes, of the documents that are used: those of a language with too many are thinned out until the shares
    hold, others are left out. Null: all documents."""

    @model_validator(mode="after")
    def _well_formed(self) -> "Draws":
        for name, shares in self:
            if shares == {}:
                raise ValueError(f"{name} is empty; give shares, or leave it out")
        for text in self.length_words:
            match = _RANGE.fullmatch(text)
            if not match or int(match[1]) > int(match[2]):
                raise ValueError(f'length_words has {text!r}; a range is written as "4-16", the least first')
        for text in self.similarities:
            match = _LEVELS.fullmatch(text)
            if not match or match[1] <= match[2]:
                raise ValueError(
                    f'similarities has {text!r}; it is written as "5>2": the positive\'s level, 0 to 5, '
                    "above the negative's"
                )
        if "bitext_mining" in self.families and not self.translation_languages:
            raise ValueError("bitext_mining needs translation_languages: those to translate into")
        return self

    @property
    def longest_words(self) -> int:
        """The greatest length that a query may be asked to have."""
        return max(int(text.partition("-")[2]) for text in self.length_words)


def draw(what: str, row_id: str, seed: int, shares: Mapping[Name, float]) -> Name:
    """One of the names, each with its share; the order in which they are written does not count."""
    names = sorted(shares)
    return _generator(what, row_id, seed).choices(names, [shares[name] for name in names])[0]


def draw_length(row_id: str, seed: int, length_words: Mapping[str, float]) -> int:
    """The length in words that is asked for."""
    least, _, greatest = draw("length range", row_id, seed, length_words).partition("-")
    return _generator("length", row_id, seed).randint(int(least), int(greatest))


def draw_index(what: str, row_id: str, seed: int, size: int) -> int:
    """One of `size` things, each as likely."""
    return _generator(what, row_id, seed).randrange(size)


def row_seed(row_id: str, seed: int) -> int:
    """The seed of a row's requests, below 2**31."""
    return _generator("request", row_id, seed).randrange(2**31)


def is_kept(row_id: str, seed: int, rate: float) -> bool:
    """Whether a row is among the share `rate` that is used."""
    return _generator("corpus language", row_id, seed).random() < rate


def keep_rates(counts: Mapping[str, int], shares: Mapping[str, float] | None) -> dict[str, float]:
    """The share of the documents of each language that is used, so that the languages have their shares.

    Args:
        counts: documents by language. shares: by language; None: every document is used.

    Raises:
        ValueError: a language has a share but no document.
    """
    if shares is None:
        return dict.fromkeys(counts, 1.0)
    missing = sorted(set(shares) - set(counts))
    if missing:
        there = ", ".join(f"{language or '(none)'} {count}" for language, count in sorted(counts.items()))
        raise ValueError(
            f"corpus_languages gives {missing[0]!r} a share, but no document has that language; "
            f"there are {there}"
        )
    rows_a_share = min(counts[language] / share for language, share in shares.items())
    return {language: share * rows_a_share / counts[language] for language, share in shares.items()}


def _generator(what: str, row_id: str, seed: int) -> random.Random:
    # A digest of our own: how random.Random hashes a string is its affair.
    digest = hashlib.sha256(f"{what}\x1f{seed}\x1f{row_id}".encode("utf-8", "surrogatepass")).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
