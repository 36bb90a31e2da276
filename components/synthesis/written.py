"""What the writer answered, read: JSON into the texts of a pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.synthesis.prompts import Configuration

Model = TypeVar("Model", bound=BaseModel)


class UnreadableError(ValueError):
    """An answer that is not the JSON that was asked for."""


class Query(BaseModel):
    query: str


class Translation(BaseModel):
    translation: str


class Sentences(BaseModel):
    similar: str
    different: str


class Labels(BaseModel):
    label: str
    other_labels: list[str]


ANSWER_OF: dict[str, type[BaseModel]] = {
    "retrieval": Query,
    "bitext_mining": Translation,
    "sts": Sentences,
    "classification": Labels,
}
"""What the last call of each family answers with."""


@dataclass(frozen=True)
class Texts:
    """The texts of a pair, white space collapsed in what was written."""

    query: str
    positive: str
    negatives: list[str]


def parse(answer: str, model: type[Model]) -> Model:
    """The JSON of an answer. A fence or a train of thought around it, as some endpoints add, is taken off.

    Raises:
        UnreadableError: no JSON, or not with the keys and types that were asked for.
    """
    try:
        return model.model_validate_json(_without_wrapping(answer))
    except ValidationError as error:
        raise UnreadableError(f"not the JSON that was asked for: {answer[:200]!r}") from error


def parse_configuration(
    answer: str, characters: list[str], question_types: list[str], difficulties: list[str]
) -> Configuration:
    """The choices of retrieval's first call. UnreadableError: unreadable, or a choice that was not offered."""
    choice = parse(answer, Configuration)
    offers = {"character": characters, "question_type": question_types, "difficulty": difficulties}
    for field, offered in offers.items():
        if getattr(choice, field) not in offered:
            raise UnreadableError(f"{field} {getattr(choice, field)!r} was not offered")
    return choice


def read_texts(row: Mapping[str, Any]) -> Texts:
    """The texts of a pair, out of a row of ANSWERS whose `answer` can be read.

    retrieval: query written, the document its positive. bitext_mining: a sentence, its translation. sts: a
    sentence, the similar one, the different one. classification: the passage, its label, other labels.

    Raises:
        UnreadableError: the answer cannot be read.
    """
    written = parse(row["answer"], ANSWER_OF[row["family"]])
    match written:
        case Query():
            return Texts(_collapse(written.query), row["text"], [])
        case Translation():
            return Texts(row["text"], _collapse(written.translation), [])
        case Sentences():
            return Texts(row["text"], _collapse(written.similar), [_collapse(written.different)])
        case Labels():
            others = [_collapse(label) for label in written.other_labels]
            return Texts(row["text"], _collapse(written.label), list(dict.fromkeys(others)))
        case _:
            raise AssertionError(written)


def _without_wrapping(answer: str) -> str:
    text = answer.rpartition("</think>")[2].strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0]
    return text


def _collapse(text: str) -> str:
    return " ".join(text.split())
