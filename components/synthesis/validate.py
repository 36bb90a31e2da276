"""What a language model wrote, judged: a query that trains nothing is turned away with its reason."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from components.synthesis.prompts import Configuration

FEWEST_WORDS = 2
LONGEST = 2.0  # a query may be so many times as long as the longest length that can be asked for
COPIED_RUN = 8  # words in a row that stand in the passage too: copied, whatever else the query holds
COPIED_SHARE = 0.75  # share of the query that one run from the passage may make up...
COPIED_FEWEST = 4  # ...once the run is so long; below, it is a term, not a copy
LOOP_RUN = 4  # one word, or one pair of words, so many times in a row
ECHO = 0.75  # Jaccard similarity of the word sets of a query and a query of the prompt's examples

# A word; in scripts without spaces every character counts as one.
_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|"
    r"[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff_]+"
)
_REFUSAL = re.compile(
    r"\b(as an ai|as a language model|i('m| am) (sorry|unable|not able)|"
    r"i can(no|')t (help|assist|answer|provide)|i do(n't| not) have (access|enough)|"
    r"no (passage|text) (was|is) (given|provided))\b",
    re.IGNORECASE,
)


class UnreadableError(ValueError):
    """An answer that is not the JSON that was asked for."""


@dataclass(frozen=True)
class Candidate:
    """A query before judgement.

    Attributes:
        passage: what the model saw.
        character: the persona it was given.
    """

    query: str
    passage: str
    character: str


def parse_configuration(answer: str, characters: list[str]) -> Configuration:
    """The choices of the first call. UnreadableError: no JSON, a key missing, a character not offered."""
    try:
        configuration = Configuration.model_validate_json(answer)
    except ValidationError as error:
        raise UnreadableError(f"the configuration is unreadable: {answer[:200]!r}") from error
    if configuration.character not in characters:
        raise UnreadableError(f"character {configuration.character!r} was not offered")
    return configuration


def parse_query(answer: str) -> str:
    """The query of the second call, white space collapsed. UnreadableError: no object with a `query`."""
    try:
        query = json.loads(answer)["query"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UnreadableError(f"the query is unreadable: {answer[:200]!r}") from error
    if not isinstance(query, str):
        raise UnreadableError(f"`query` is not a string: {answer[:200]!r}")
    return " ".join(query.split())


def judge(candidates: Iterable[Candidate], examples: list[str], longest_asked: int) -> Iterator[str | None]:
    """The reason why each query is turned away, or None if it is kept. Of equal queries the first is kept.

    Args:
        examples: the queries that the prompt shows.
        longest_asked: the greatest length in words that a query may be asked to have.
    """
    example_words = [words(example) for example in examples]
    seen: set[tuple[str, ...]] = set()
    for candidate in candidates:
        reason = _fault(candidate, example_words, longest_asked)
        key = tuple(words(candidate.query))
        if reason is None and key in seen:
            reason = "duplicate"
        if reason is None:
            seen.add(key)
        yield reason


def words(text: str) -> list[str]:
    """The words of a text in lower case; a dotted or underscored name counts as its parts."""
    return _WORD.findall(text.lower())


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


def _fault(candidate: Candidate, examples: list[list[str]], longest_asked: int) -> str | None:
    query = words(candidate.query)
    if not query:
        return "empty"
    if _REFUSAL.search(candidate.query):
        return "refusal"
    if len(query) < FEWEST_WORDS:
        return "too_short"
    if _loops(query):
        return "loop"
    if len(query) > LONGEST * longest_asked:
        return "too_long"
    if any(_similar(query, example) for example in [*examples, words(candidate.character)]):
        return "echo"
    run = longest_common_run(query, words(candidate.passage))
    if run >= COPIED_RUN or (run >= COPIED_FEWEST and run >= COPIED_SHARE * len(query)):
        return "copy"
    return None


def _loops(query: list[str]) -> bool:
    for period in (1, 2):
        run = 0
        for position in range(period, len(query)):
            run = run + 1 if query[position] == query[position - period] else 0
            if run >= period * (LOOP_RUN - 1):
                return True
    return False


def _similar(query: list[str], other: list[str]) -> bool:
    ours, theirs = Counter(query), Counter(other)
    union = sum((ours | theirs).values())
    return sum((ours & theirs).values()) >= ECHO * union
