"""The words of a text, as lengths, copies and duplicates are counted."""

import re

# A word; in scripts without spaces every character counts as one.
_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|"
    r"[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff_]+"
)


def words(text: str) -> list[str]:
    """The words of a text in lower case; a dotted or underscored name counts as its parts."""
    return _WORD.findall(text.lower())
