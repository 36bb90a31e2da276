"""What makes two texts of a table a pair: one function a kind.

A function takes rows, as dicts of what its kind reads (`roles`), and yields pairs: `query`, `positive`, and what
else it knows of `query_id`, `positive_id`, `negatives`, `negative_ids`, `score`, `language`. A pair that its kind
rules out carries a `reason`. Who writes the pairs (`write.py`) fills in the rest and looks for what is wrong with
any pair, whatever its kind.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from components.corpus.chunks import BOUNDARIES
from components.corpus.schema import content_id

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of pairs.

    Attributes:
        rows: the function; its keyword arguments are the kind's `options`.
        roles: what it needs of a row, with the names of the columns that are looked for, the first that is there.
        more_roles: what it also reads, if it is there.
        task: under which a trainer batches these pairs, where the recipe names none.
        options: what the recipe may set beside, with defaults.
        equal_sides: whether query and positive may be the same text.
        sorted_by: roles whose equal values have to stand together, the first before the second.
    """

    rows: Callable[..., Iterator[Row]]
    roles: Mapping[str, Sequence[str]]
    more_roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    task: str = "retrieval"
    options: Mapping[str, Any] = field(default_factory=dict)
    equal_sides: bool = False
    sorted_by: tuple[str, ...] = ()


def labelled(
    rows: Iterable[Row], *, min_score: Annotated[float, Field(allow_inf_nan=False)] | None
) -> Iterator[Row]:
    """Pairs and triples that somebody labelled; with `min_score` those that are scored at least so high.

    Of several positives each is a pair, with the same negatives.
    """
    for row in two_sides(rows):
        score = row.get("score")
        reason = row.get("reason")
        if score is None:
            reason = reason or ("no_score" if min_score is not None else None)
        else:
            try:
                row["score"] = score = float(score)
            except (TypeError, ValueError):
                row["score"], reason = None, reason or "score_is_no_number"
            else:
                if math.isnan(score):
                    reason = reason or "score_is_nan"
                elif min_score is not None and score < min_score:
                    reason = reason or "below_min_score"
        yield row | {"reason": reason}


def title_body(rows: Iterable[Row]) -> Iterator[Row]:
    """The title asks for the text, which is shown without it."""
    for row in rows:
        yield {
            "query": row["title"],
            "positive": row["text"],
            "positive_id": row.get("document_id"),
            "language": row.get("language"),
        }


def same_text(rows: Iterable[Row]) -> Iterator[Row]:
    """A text and itself, which dropout tells apart (SimCSE, arXiv 2104.08821, 3)."""
    for row in rows:
        yield {
            "query": row["text"],
            "positive": row["text"],
            "positive_id": row.get("document_id"),
            "language": row.get("language"),
        }


def neighbours(rows: Iterable[Row], *, passage_characters: Annotated[int, Field(ge=1)]) -> Iterator[Row]:
    """Each passage of a text with the next one (cpt-text, arXiv 2201.10005, 3).

    The passages do not overlap. They hold at most so many characters and end where a paragraph, sentence,
    line or word does. A text of one passage has no neighbours.
    """
    for row in rows:
        passages = _passages(row["text"] or "", passage_characters)
        if len(passages) < 2:
            yield {
                "query": row["text"],
                "positive": None,
                "reason": "one_passage",
                "language": row.get("language"),
            }
        for query, positive in itertools.pairwise(passages):
            yield {"query": query, "positive": positive, "language": row.get("language")}


def _passages(text: str, longest: int) -> list[str]:
    passages = []
    text = text.strip()
    start = 0  # of what is left: a copy of that for each passage takes a minute for ten megabytes
    while len(text) - start > longest:
        window = text[start : start + longest + 1]
        ends = (
            [
                found.end()
                for found in boundary.finditer(window)
                if max(1, longest // 2) <= found.start() <= longest
            ]
            for boundary in BOUNDARIES
        )
        end = next((places[-1] for places in ends if places), longest)
        passages.append(window[:end].strip())
        start += end
        while text[start : start + 1].isspace():
            start += 1
    return [*passages, text[start:]] if start < len(text) else passages


def nli(rows: Iterable[Row], *, labels: Sequence[str]) -> Iterator[Row]:
    """A premise with each hypothesis that it entails; those that contradict it are the hard negatives.

    As in supervised SimCSE (arXiv 2104.08821, 4). Rows come premise by premise.

    Args:
        labels: what the numbers 0, 1 and 2 stand for.
    """
    names = {str(number): name for number, name in enumerate(labels)}
    names |= {name: name for name in ("entailment", "neutral", "contradiction")}
    for premise, group in itertools.groupby(rows, key=lambda row: row["premise"]):
        by_label: dict[str | None, list[Row]] = {}
        for row in group:
            by_label.setdefault(names.get(str(row["label"]).strip().lower()), []).append(row)
        entailed = by_label.pop("entailment", [])
        contradicted = by_label.pop("contradiction", [])
        negatives = list(dict.fromkeys(row["hypothesis"] for row in contradicted if row["hypothesis"]))
        for row in entailed:
            pair = {"query": premise, "positive": row["hypothesis"], "language": row.get("language")}
            yield pair | {"negatives": negatives}
        if entailed:
            contradicted = []
        for reason, turned_away in (
            ("neutral", by_label.get("neutral", [])),
            ("no_entailment", contradicted),
            ("no_label", by_label.get(None, [])),
        ):
            for row in turned_away:
                yield {"query": premise, "positive": row["hypothesis"], "reason": reason}


def two_sides(rows: Iterable[Row]) -> Iterator[Row]:
    """A text and what was written in answer to it, or its translation; of several answers each is a pair."""
    for row in rows:
        answers = row["positive"] if isinstance(row["positive"], list) else [row["positive"]]
        shared = {"positive_id": None} if len(answers) > 1 else {}  # an id would be that of all
        for answer in answers or [None]:
            yield row | {"positive": answer} | shared


def class_label(
    rows: Iterable[Row],
    *,
    negatives: Annotated[int, Field(ge=0)],
    label_texts: Mapping[str, str] | None,
    seed: int,
) -> Iterator[Row]:
    """A text with the words of its label; other labels are the negatives, drawn by the text and the seed.

    All texts of a class have one query id, so that no trainer holds one of them against another.

    Args:
        rows: read twice.
        negatives: how many labels at most.
        label_texts: words for each label; None: its name, with spaces for underscores.
    """
    words = {label: label.replace("_", " ") for label in sorted({row["label"] or "" for row in rows})}
    if label_texts is not None:
        missing = sorted(label for label in words if label and label not in label_texts)
        if missing:
            raise ValueError(f"`label_texts` lacks {len(missing)} labels, the first is {missing[0]!r}")
        words |= {label: label_texts[label] for label in words if label}
    labels = [label for label in words if label]
    place_of = {label: place for place, label in enumerate(labels)}
    for row in rows:
        label = row["label"] or ""
        own = place_of.get(label, len(labels))
        others = len(labels) - (label in place_of)
        generator = np.random.default_rng([seed, *content_id(row["text"] or "", label).encode()])
        drawn = generator.choice(others, min(negatives, others), replace=False)
        yield {
            "query": row["text"],
            "positive": words[label],
            "query_id": _class_id(label),
            "negatives": [words[labels[place + (place >= own)]] for place in drawn],
            "language": row.get("language"),
            "reason": None if label else "no_label",
        }


def same_class(rows: Iterable[Row]) -> Iterator[Row]:
    """A text with another of its class: the next in the order of the rows, the last with the first.

    All texts of a class have one id on either side, so that no trainer holds one of them against another. Rows
    come class by class, equal texts together.
    """
    for label, group in itertools.groupby(rows, key=lambda row: row["label"]):
        first = previous = None
        for row in group:
            if previous is None:
                first = row
            elif row["text"] == previous["text"]:
                yield _classmates(label, previous, row, "repeated")
                continue
            else:
                yield _classmates(label, previous, row)
            previous = row
        assert first is not None
        assert previous is not None
        yield _classmates(label, previous, first, "alone_in_class" if previous is first else None)


def _classmates(label: str | None, row: Row, other: Row, reason: str | None = None) -> Row:
    return {
        "query": row["text"],
        "positive": other["text"],
        "query_id": _class_id(label),
        "positive_id": _class_id(label),
        "language": row.get("language"),
        "reason": reason if label else "no_label",
    }


def _class_id(label: str | None) -> str:
    return content_id("class", label or "")


_LANGUAGE = {"language": ("language", "lang")}
_TEXT = ("text", "body", "content", "passage", "sentence")
_ROW_OF_A_CORPUS = {"document_id": ("document_id", "_id", "id"), **_LANGUAGE}

KINDS: dict[str, Kind] = {
    "labelled": Kind(
        labelled,
        roles={
            "query": ("query", "anchor", "question", "sentence1", "text1"),
            "positive": ("positive", "pos", "document", "passage", "answer", "sentence2", "text2"),
        },
        more_roles={
            "negatives": ("negatives", "negative", "neg", "hard_negatives"),
            "query_id": ("query_id",),
            "positive_id": ("positive_id",),
            "negative_ids": ("negative_ids",),
            "score": ("score",),
            **_LANGUAGE,
        },
        options={"min_score": None},
    ),
    "title_body": Kind(title_body, {"title": ("title",), "text": _TEXT}, _ROW_OF_A_CORPUS),
    "neighbours": Kind(neighbours, {"text": _TEXT}, _LANGUAGE, options={"passage_characters": 512}),
    "same_text": Kind(same_text, {"text": _TEXT}, _ROW_OF_A_CORPUS, task="similarity", equal_sides=True),
    "nli": Kind(
        nli,
        {
            "premise": ("premise", "sentence1"),
            "hypothesis": ("hypothesis", "sentence2"),
            "label": ("label", "gold_label"),
        },
        _LANGUAGE,
        task="similarity",
        options={"labels": ("entailment", "neutral", "contradiction")},
        sorted_by=("premise", "hypothesis", "label"),
    ),
    "body_comment": Kind(
        two_sides,
        {
            "query": ("body", "post", "selftext", "title", "text"),
            "positive": ("comment", "comments", "reply"),
        },
        _LANGUAGE,
    ),
    "question_answer": Kind(
        two_sides,
        {
            "query": ("question", "query", "title"),
            "positive": ("answer", "answers", "response", "best_answer"),
        },
        _LANGUAGE,
    ),
    "translation": Kind(
        two_sides,
        {
            "query": ("source", "sentence1", "src", "text1"),
            "positive": ("target", "sentence2", "tgt", "text2"),
        },
        _LANGUAGE,
        task="bitext",
    ),
    "class_label": Kind(
        class_label,
        {"text": _TEXT, "label": ("label_text", "label", "intent", "class")},
        _LANGUAGE,
        task="classification",
        options={"negatives": 7, "label_texts": None},
    ),
    "same_class": Kind(
        same_class,
        {"text": _TEXT, "label": ("label_text", "label", "intent", "class")},
        _LANGUAGE,
        task="classification",
        sorted_by=("label", "text"),
    ),
}


def find_kind(name: str) -> Kind:
    """A kind by its name.

    Raises:
        ValueError: there is none.
    """
    if name not in KINDS:
        raise ValueError(f"kind {name!r} is no kind of pairs; the kinds are {', '.join(KINDS)}")
    return KINDS[name]


def fill_options(name: str, kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a kind, those that are not given at their default.

    Raises:
        ValueError: it has no such option, or the option is something else.
    """
    unknown = sorted(set(given) - set(kind.options))
    if unknown:
        there = ", ".join(kind.options) or "none"
        raise ValueError(f"kind {name} has no option {unknown[0]!r}; its options are: {there}")
    types = get_type_hints(kind.rows, include_extras=True)
    for option, value in given.items():
        try:
            TypeAdapter(types[option]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(
                f"option `{option}` of kind {name} is {value!r}: {error.errors()[0]['msg']}"
            ) from error
    return {**kind.options, **given}
