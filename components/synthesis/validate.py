"""What a language model wrote, judged: a row that trains nothing, or the wrong thing, gets its reason."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from components.corpus.words import words
from components.synthesis.languages import is_other_language
from components.synthesis.prompts import Prompts
from components.synthesis.written import Texts, read_texts

FEWEST_WORDS = 2
LONGEST = 2.0  # a query may be so many times as long as the longest length that can be asked for
LONGEST_LABEL = 12  # words
RATIO = 4.0  # a sentence may be so many times as long, or as short, as the one that it was written for
COPIED_RUN = 8  # words in a row that stand in the passage too: copied, whatever else the query holds
COPIED_SHARE = 0.75  # share of the query that one run from the passage may make up...
COPIED_FEWEST = 4  # ...once the run is so long; below, it is a term, not a copy
LOOP_RUN = 4  # one word, or one pair of words, so many times in a row
ECHO = 0.75  # similarity (Jaccard, of words) to what the prompt's examples answer
SAME = 0.9  # similarity of a paraphrase, or a translation, to the sentence: a copy

_REFUSAL = re.compile(
    r"\b(as an ai|as a language model|i('m| am) (sorry|unable|not able)|"
    r"i can(no|')t (help|assist|answer|provide|translate)|i do(n't| not) have (access|enough)|"
    r"no (passage|text|sentence) (was|is) (given|provided))\b|"
    r"(作为|身为)(一个)?(ai|人工智能|语言模型)|(很|非常)?抱歉，?我|无法(回答|提供|翻译)|"
    r"\bals (ki|sprachmodell)\b|\bje suis désolé\b|\blo siento, (pero )?no puedo\b",
    re.IGNORECASE,
)


class Judge:
    """Gives each row of ANSWERS that was answered its reason to be turned away.

    Args:
        prompts: its examples are not to be echoed, its languages are those that may have been written in.
        longest_words: the greatest length that a query may be asked to have.
    """

    def __init__(self, prompts: Prompts, longest_words: int) -> None:
        self._longest_words = longest_words
        self._codes = list(prompts.languages)
        sts = [text for example in prompts.sts.examples for text in example.levels.values()]
        bitext = [t for example in prompts.bitext_mining.examples for t in example.translations.values()]
        self._shown = {
            "retrieval": [words(example.query) for example in prompts.retrieval.query.examples],
            "bitext_mining": [words(text) for text in bitext],
            "sts": [words(text) for text in sts],
        }
        self._shown_labels = {frozenset(example.other_labels) for example in prompts.classification.examples}

    def reason(self, row: Mapping[str, Any]) -> str | None:
        """`empty`, `refusal`, `loop`, `too_short`, `too_long`, `echo` (of the prompt), `copy` (of what was
        shown), `wrong_language`, `negative_is_positive`; None: nothing is wrong with it."""
        texts = read_texts(row)
        match row["family"]:
            case "retrieval":
                return self._query(texts.query, row)
            case "bitext_mining":
                return self._translation(texts, row)
            case "sts":
                return self._sentences(texts, row)
            case "classification":
                return self._labels(texts)
        raise AssertionError(row["family"])

    def _query(self, text: str, row: Mapping[str, Any]) -> str | None:
        query = words(text)
        if reason := _unusable(text, query):
            return reason
        if len(query) > LONGEST * self._longest_words:
            return "too_long"
        if any(
            _overlap(query, shown) >= ECHO for shown in [*self._shown["retrieval"], words(row["character"])]
        ):
            return "echo"
        run = longest_common_run(query, words(row["passage"]))
        if run >= COPIED_RUN or (run >= COPIED_FEWEST and run >= COPIED_SHARE * len(query)):
            return "copy"
        return self._language(text, row["asked_language"])

    def _translation(self, texts: Texts, row: Mapping[str, Any]) -> str | None:
        written, sentence = words(texts.positive), words(texts.query)
        if reason := _unusable(texts.positive, written) or _out_of_proportion(written, sentence):
            return reason
        if any(_overlap(written, shown) >= ECHO for shown in self._shown["bitext_mining"]):
            return "echo"
        if _overlap(written, sentence) >= SAME:
            return "copy"
        return self._language(texts.positive, row["asked_language"])

    def _sentences(self, texts: Texts, row: Mapping[str, Any]) -> str | None:
        sentence = words(texts.query)
        similar, different = words(texts.positive), words(texts.negatives[0])
        for text, written in ((texts.positive, similar), (texts.negatives[0], different)):
            if reason := _unusable(text, written) or _out_of_proportion(written, sentence):
                return reason
            if any(_overlap(written, shown) >= ECHO for shown in self._shown["sts"]):
                return "echo"
        if _overlap(similar, sentence) >= SAME or different == sentence:
            return "copy"
        if _overlap(similar, different) >= SAME:
            return "negative_is_positive"
        return self._language(f"{texts.positive} {texts.negatives[0]}", row["language"])

    def _labels(self, texts: Texts) -> str | None:
        label, others = words(texts.positive), [words(other) for other in texts.negatives]
        if not label or not others or not all(others):
            return "empty"
        if any(_REFUSAL.search(text) for text in (texts.positive, *texts.negatives)):
            return "refusal"
        if max(map(len, [label, *others])) > LONGEST_LABEL:
            return "too_long"
        if label in others:
            return "negative_is_positive"
        if frozenset(texts.negatives) in self._shown_labels:
            return "echo"
        if longest_common_run(label, words(texts.query)) >= COPIED_RUN:
            return "copy"
        return None

    def _language(self, text: str, code: str) -> str | None:
        return "wrong_language" if is_other_language(text, code, self._codes) else None


def longest_common_run(query: list[str], passage: list[str]) -> int:
    """Length of the longest sequence of words that stands in both without a gap."""
    best = 0
    previous = [0] * (len(passage) + 1)
    for word in query:
        current = [0] * (len(passage) + 1)
        for position, other in enumerate(passage, start=1):
            if word == other:
                current[position] = previous[position - 1] + 1
                best = max(best, current[position])
        previous = current
    return best


def _unusable(text: str, written: list[str]) -> str | None:
    if not written:
        return "empty"
    if _REFUSAL.search(text):
        return "refusal"
    if len(written) < FEWEST_WORDS:
        return "too_short"
    return "loop" if _loops(written) else None


def _out_of_proportion(written: list[str], sentence: list[str]) -> str | None:
    if len(written) > RATIO * len(sentence):
        return "too_long"
    return "too_short" if RATIO * len(written) < len(sentence) else None


def _loops(written: list[str]) -> bool:
    for period in (1, 2):
        run = 0
        for position in range(period, len(written)):
            run = run + 1 if written[position] == written[position - period] else 0
            if run >= period * (LOOP_RUN - 1):
                return True
    return False


def _overlap(one: list[str], other: list[str]) -> float:
    """Jaccard similarity of two bags of words."""
    ours, theirs = Counter(one), Counter(other)
    union = sum((ours | theirs).values())
    return sum((ours & theirs).values()) / union if union else 1.0
