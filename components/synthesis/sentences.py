"""One sentence of a document, for the families that start from a sentence and not from a passage."""

import re

from components.corpus.words import words
from components.synthesis.draws import draw_index

READ_CHARACTERS = 20_000  # of a document, from its start
FEWEST_WORDS, MOST_WORDS = 5, 40
LETTERS = 0.75  # share of letters and spaces; below, it is code or a table

_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])|(?<=[:：;；])\s+|\n")
_WRAPPED = re.compile(r"(?<![.!?:;。！？：；\n])\n(?=[a-z])")
_CODE = re.compile(r"[{}<>|=\\@#$*_]|\(\)|--|::|://")


def draw_sentence(text: str, row_id: str, seed: int) -> str | None:
    """A sentence of the text, drawn by the row's id; None if it has none.

    Whole sentences first; where there is none, a line or clause without its full stop, as in lists.
    """
    parts = [" ".join(part.split()) for part in _END.split(_WRAPPED.sub(" ", text[:READ_CHARACTERS])) if part]
    usable = [part.rstrip(":：;；") for part in dict.fromkeys(parts) if _is_prose(part)]
    whole = [part for part in usable if part[-1] in ".!?。！？" and not part[0].islower()]
    candidates = whole or usable
    return candidates[draw_index("sentence", row_id, seed, len(candidates))] if candidates else None


def _is_prose(part: str) -> bool:
    if not FEWEST_WORDS <= len(words(part)) <= MOST_WORDS or _CODE.search(part):
        return False
    return sum(character.isalpha() or character.isspace() for character in part) >= LETTERS * len(part)
