"""Texts as they are compared with one another: normalised, as words, as word n-grams."""

import re
import unicodedata
from collections.abc import Iterator

# In scripts written without spaces a word is one character.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana, CJK ideographs
UNSPACED_CHARACTER = re.compile(rf"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def normalise(text: str) -> str:
    """NFKC, lower case, white space folded: two texts that a reader would call the same."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def words(text: str) -> list[str]:
    """The words of the normalised text; a dotted or underscored name counts as its parts."""
    return _WORD.findall(normalise(text))


def shingles(text: str, ngram: int) -> Iterator[bytes]:
    """The word n-grams of the normalised text, in its order.

    A text of fewer words is one shingle; one without any word is its own.
    """
    found = words(text)
    if not found:
        yield normalise(text).encode("utf-8", "surrogatepass")
    else:
        for start in range(max(1, len(found) - ngram + 1)):
            yield " ".join(found[start : start + ngram]).encode()
