"""Whether a text is in the language that was asked for (lingua)."""

import re
from collections.abc import Iterable
from functools import lru_cache

from lingua import IsoCode639_1, Language, LanguageDetector, LanguageDetectorBuilder

CERTAIN = 0.5  # confidence from which another language is believed...
IMPOSSIBLE = 0.1  # ...if the one that was asked for has less than this
FEWEST_LETTERS = 12  # of a script of letters; below, names of things decide, not the language

_LETTERS = re.compile(r"[^\W\d_]+")
_IDENTIFIER = re.compile(r"\S*[\d_./\\(){}\[\]<>`@#$=]\S*\w|\S*`\S*|\b\w*[a-z][A-Z]\w*\b|\b[A-Z]{2,}\b")
_IDEOGRAPHIC = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_ISO = {"no": "NB"}  # lingua tells Bokmal from Nynorsk


def is_other_language(text: str, code: str, among: Iterable[str]) -> bool:
    """Whether a text is surely not in a language but in another one.

    Names of functions, files and the like are left out before it is looked at. A text with fewer than 12
    letters, or one that is as likely in the language as not, counts as being in it: short search queries are
    told badly by any method.

    Args:
        code: ISO 639-1 of the language. among: the languages that the text may be in. Codes that lingua does
            not know are never told apart.
    """
    language = _language(code)
    prose = " ".join(_LETTERS.findall(_IDENTIFIER.sub(" ", text)))
    ideographic = len(_IDEOGRAPHIC.findall(prose))
    if language is None or (ideographic == 0 and len(prose.replace(" ", "")) < FEWEST_LETTERS):
        return False
    confidences = _detector(frozenset([code, *among])).compute_language_confidence_values(prose)
    best = confidences[0]
    own = next(found.value for found in confidences if found.language == language)
    return best.language != language and best.value >= CERTAIN and own < IMPOSSIBLE


@lru_cache(maxsize=4)
def _detector(codes: frozenset[str]) -> LanguageDetector:
    languages = {language for code in codes if (language := _language(code))} | {Language.ENGLISH}
    if len(languages) == 1:
        languages.add(Language.CHINESE)  # lingua compares two at least
    return LanguageDetectorBuilder.from_languages(*sorted(languages, key=lambda each: each.name)).build()


def _language(code: str) -> Language | None:
    iso = getattr(IsoCode639_1, _ISO.get(code, code.upper()), None)
    return Language.from_iso_code_639_1(iso) if iso else None
