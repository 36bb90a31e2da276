"""The prompts of the four families: read from a file that users edit, and turned into chat messages.

Import-light: the plan reads `prompt_version` and `personas_version` from here.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Formatter
from typing import Annotated, Any, TypeVar

import fsspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.synthesis.draws import Draws

CANDIDATES = 5  # personas offered to the configuration call, as in the paper
OTHER_LABELS = 3  # wrong labels a classification has

Message = dict[str, str]
Example = TypeVar("Example", bound="InLanguage")

_ROLE_ENDS = re.compile(
    r",|;| (?:who|whose|that|with|without|from|on|in|at|for|about|after|between|near) |"
    r" \w+(?:ing|ed) (?:a|an|the|his|her|its|their|to|what|how|where|one|two|in|by) "
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InLanguage(_Strict):
    """An example; `language` is the ISO code of its text."""

    language: str


class Configuration(BaseModel):
    """What the first call of retrieval chooses."""

    character: str
    question_type: str
    difficulty: str


class ConfigurationExample(_Strict):
    passage: str
    characters: list[str]
    answer: Configuration


class QueryExample(InLanguage):
    passage: str
    character: str
    question_type: str
    difficulty: str
    length: int
    query: str


class BitextExample(InLanguage):
    """A sentence in one language; `translations` by ISO code of theirs."""

    sentence: str
    translations: dict[str, str]


class StsExample(InLanguage):
    """A sentence, and what stands at a level of similarity to it."""

    sentence: str
    levels: dict[int, str]


class ClassificationExample(InLanguage):
    passage: str
    aspect: str
    label: str
    other_labels: Annotated[list[str], Field(min_length=OTHER_LABELS, max_length=OTHER_LABELS)]


class ConfigurationPrompt(_Strict):
    system: str
    user: str
    examples: list[ConfigurationExample]


class QueryPrompt(_Strict):
    system: str
    user: str
    examples: list[QueryExample]


class Retrieval(_Strict):
    """Queries for passages. `question_types`, `difficulties`: choices -> their descriptions."""

    instruction: str
    question_types: dict[str, str]
    difficulties: dict[str, str]
    configuration: ConfigurationPrompt
    query: QueryPrompt

    @model_validator(mode="after")
    def _consistent(self) -> "Retrieval":
        _check_fields(
            "configuration.user",
            self.configuration.user,
            {"passage", "characters", "question_types", "difficulties"},
        )
        _check_fields(
            "query.user",
            self.query.user,
            {"passage", "character", "role", "question_type", "question_type_description", "difficulty"}
            | {"difficulty_description", "length", "language"},
        )
        for example in self.configuration.examples:
            if example.answer.character not in example.characters:
                raise ValueError(
                    f"an example answers with character {example.answer.character!r}, "
                    "which is not among its characters"
                )
        choices: list[Configuration | QueryExample] = [e.answer for e in self.configuration.examples]
        for choice in [*choices, *self.query.examples]:
            _check_known("question_type", choice.question_type, self.question_types)
            _check_known("difficulty", choice.difficulty, self.difficulties)
        return self

    def configuration_messages(
        self, passage: str, characters: Sequence[str], question_types: list[str], difficulties: list[str]
    ) -> list[Message]:
        """The chat of the first call: who would search for the passage, and for what.

        Args:
            characters, question_types, difficulties: what may be chosen.
        """
        prompt = self.configuration
        # A small model leans to the last answer it saw, so which one that is depends on the passage.
        turn = int(hashlib.sha256(passage.encode("utf-8", "surrogatepass")).hexdigest(), 16)
        turn %= max(len(prompt.examples), 1)

        def user(passage: str, characters: Sequence[str], types: list[str], levels: list[str]) -> str:
            return prompt.user.format(
                passage=passage,
                characters="\n".join(f"- {character}" for character in characters),
                question_types=", ".join(types),
                difficulties=", ".join(levels),
            )

        shown = [
            (
                user(e.passage, e.characters, list(self.question_types), list(self.difficulties)),
                e.answer.model_dump(),
            )
            for e in prompt.examples[turn:] + prompt.examples[:turn]
        ]
        return _chat(prompt.system, shown, user(passage, characters, question_types, difficulties))

    def configuration_schema(
        self, characters: Sequence[str], question_types: list[str], difficulties: list[str]
    ) -> str:
        """The JSON schema, as a JSON string, that the first answer must follow: only offered choices."""
        choices = {
            "character": list(characters),
            "question_type": question_types,
            "difficulty": difficulties,
        }
        return _object_schema({name: {"type": "string", "enum": values} for name, values in choices.items()})

    def query_messages(
        self, passage: str, choice: Configuration, length: int, language: str, languages: dict[str, str]
    ) -> list[Message]:
        """The chat of the second call: the query, of about `length` words in the language with that code."""

        def user(passage: str, choice: Configuration, length: int, language: str) -> str:
            return self.query.user.format(
                passage=passage,
                character=choice.character,
                role=role_of(choice.character),
                question_type=choice.question_type,
                question_type_description=self.question_types[choice.question_type],
                difficulty=choice.difficulty,
                difficulty_description=self.difficulties[choice.difficulty],
                length=length,
                language=languages[language],
            )

        # Examples of the wanted type stand last, where they count most.
        ordered = sorted(
            _in_language(self.query.examples, language),
            key=lambda example: example.question_type == choice.question_type,
        )
        shown = [
            (
                user(
                    e.passage,
                    Configuration(**e.model_dump(include=set(Configuration.model_fields))),
                    e.length,
                    e.language,
                ),
                {"query": e.query},
            )
            for e in ordered
        ]
        return _chat(self.query.system, shown, user(passage, choice, length, language))

    def query_schema(self) -> str:
        """The JSON schema, as a JSON string, that the second answer must follow."""
        return _object_schema({"query": {"type": "string"}})


class Bitext(_Strict):
    """Translations of sentences."""

    instruction: str
    system: str
    user: str
    examples: list[BitextExample]

    @model_validator(mode="after")
    def _consistent(self) -> "Bitext":
        _check_fields("user", self.user, {"sentence", "language", "target_language"})
        return self

    def messages(self, sentence: str, language: str, target: str, languages: dict[str, str]) -> list[Message]:
        """The chat that asks for a translation of the sentence; languages by their codes."""

        def user(sentence: str, language: str, target: str) -> str:
            return self.user.format(
                sentence=sentence, language=languages[language], target_language=languages[target]
            )

        of_target = [example for example in self.examples if target in example.translations]
        into = target
        if not of_target:  # no example in that language: the task can still be seen
            of_target, into = self.examples, ""
        ordered = sorted(of_target, key=lambda example: example.language == language)
        shown = []
        for example in ordered:
            shown_target = into or next(iter(example.translations))
            question = user(example.sentence, example.language, shown_target)
            shown.append((question, {"translation": example.translations[shown_target]}))
        return _chat(self.system, shown, user(sentence, language, target))

    def answer_schema(self) -> str:
        return _object_schema({"translation": {"type": "string"}})


class Sts(_Strict):
    """Two sentences for one, at two levels of similarity. `levels`: 0 to 5 -> their descriptions."""

    instruction: str
    levels: dict[int, str]
    system: str
    user: str
    examples: list[StsExample]

    @model_validator(mode="after")
    def _consistent(self) -> "Sts":
        known = {"sentence", "language", "similar_description", "different_description"}
        _check_fields("user", self.user, known | {"similar_level", "different_level"})
        if set(self.levels) != set(range(6)):
            raise ValueError("levels must describe 0, 1, 2, 3, 4 and 5")
        return self

    def messages(self, sentence: str, language: str, levels: str, languages: dict[str, str]) -> list[Message]:
        """The chat that asks for a sentence at each of the levels, written as "5>2"."""
        similar, different = (int(level) for level in levels.split(">"))

        def user(sentence: str, language: str, similar: int, different: int) -> str:
            return self.user.format(
                sentence=sentence,
                language=languages[language],
                similar_level=similar,
                similar_description=self.levels[similar],
                different_level=different,
                different_description=self.levels[different],
            )

        shown = []
        for example in _in_language(self.examples, language):
            high = min(example.levels, key=lambda level: (abs(level - similar), -level))
            low = min(
                (level for level in example.levels if level < high),
                key=lambda level: (abs(level - different), level),
            )
            answer = {"similar": example.levels[high], "different": example.levels[low]}
            fit = (high == similar) + (low == different)
            shown.append((fit, user(example.sentence, example.language, high, low), answer))
        shown.sort(key=lambda turn: turn[0])
        turns = [(question, answer) for _, question, answer in shown]
        return _chat(self.system, turns, user(sentence, language, similar, different))

    def answer_schema(self) -> str:
        return _object_schema({"similar": {"type": "string"}, "different": {"type": "string"}})


class Aspect(_Strict):
    """What a classification tells apart: `description` for the writer, `instruction` for the pair."""

    description: str
    instruction: str


class Classification(_Strict):
    """A passage, its label and labels that it does not have."""

    aspects: dict[str, Aspect]
    system: str
    user: str
    examples: list[ClassificationExample]

    @model_validator(mode="after")
    def _consistent(self) -> "Classification":
        _check_fields("user", self.user, {"passage", "aspect", "aspect_description", "language"})
        for example in self.examples:
            _check_known("aspect", example.aspect, self.aspects)
        return self

    def messages(self, passage: str, language: str, aspect: str, languages: dict[str, str]) -> list[Message]:
        """The chat that asks for the passage's label under an aspect, and for others."""

        def user(passage: str, language: str, aspect: str) -> str:
            return self.user.format(
                passage=passage,
                language=languages[language],
                aspect=aspect,
                aspect_description=self.aspects[aspect].description,
            )

        ordered = sorted(_in_language(self.examples, language), key=lambda example: example.aspect == aspect)
        shown = [
            (user(e.passage, e.language, e.aspect), {"label": e.label, "other_labels": e.other_labels})
            for e in ordered
        ]
        return _chat(self.system, shown, user(passage, language, aspect))

    def answer_schema(self) -> str:
        labels = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": OTHER_LABELS,
            "maxItems": OTHER_LABELS,
        }
        return _object_schema({"label": {"type": "string"}, "other_labels": labels})


class Prompts(_Strict):
    """A prompt file. `languages`: ISO code -> the name by which the prompts call the language."""

    languages: dict[str, str]
    retrieval: Retrieval
    bitext_mining: Bitext
    sts: Sts
    classification: Classification

    @model_validator(mode="after")
    def _named(self) -> "Prompts":
        of_language = [
            *self.retrieval.query.examples,
            *self.bitext_mining.examples,
            *self.sts.examples,
            *self.classification.examples,
        ]
        codes = {example.language for example in of_language}
        codes |= {code for example in self.bitext_mining.examples for code in example.translations}
        for code in sorted(codes):
            _check_known("language", code, self.languages)
        return self

    def check_draws(self, draws: Draws) -> None:
        """Raises ValueError if something that may be drawn has no name or description here."""
        for code in (*(draws.query_languages or ()), *(draws.translation_languages or ())):
            if code not in self.languages:
                known = ", ".join(self.languages)
                raise ValueError(f"the prompt file names no language {code!r} in `languages`; it has {known}")
        described: dict[str, Mapping[str, Any]] = {
            "question_types": self.retrieval.question_types,
            "difficulties": self.retrieval.difficulties,
            "aspects": self.classification.aspects,
        }
        for field, there in described.items():
            unknown = sorted(set(getattr(draws, field) or ()) - set(there))
            if unknown:
                raise ValueError(
                    f"draws.{field} names {unknown[0]!r}; the prompt file describes {', '.join(there)}"
                )


def role_of(character: str) -> str:
    """The first words of a persona, up to what it does: "A nurse who gives medicine" is "A nurse"."""
    return _ROLE_ENDS.split(character, maxsplit=1)[0].strip()


def prompt_version(path: str | None = None) -> str:
    """SHA-256 (16 hex digits) of the prompt file's content; None is the project's own file."""
    return _version(_content(path, "prompts.yaml", "synthesis.prompts"))


def personas_version(path: str | None = None) -> str:
    """SHA-256 (16 hex digits) of the persona file's content; None is the project's own file."""
    return _version(_content(path, "personas.txt", "synthesis.personas"))


def load_prompts(path: str | None = None) -> Prompts:
    """Read a prompt file (path or URI); None is the project's own.

    Raises:
        ValueError: the file is missing, is no YAML, or says something that the prompts do not know.
    """
    content = _content(path, "prompts.yaml", "synthesis.prompts")
    name = path or "prompts.yaml"
    try:
        return Prompts.model_validate(yaml.safe_load(content))
    except yaml.YAMLError as error:
        raise ValueError(f"prompt file {name} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"prompt file {name}: {where}: {first['msg']}") from error


def load_personas(path: str | None = None) -> list[str]:
    """Read a persona file (path or URI), one character a line; None is the project's own.

    Raises:
        ValueError: the file is missing, or holds fewer than five different personas.
    """
    lines = _content(path, "personas.txt", "synthesis.personas").decode().splitlines()
    personas = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(personas) < CANDIDATES:
        raise ValueError(
            f"persona file {path} holds {len(personas)} personas; it needs at least {CANDIDATES}, one a line"
        )
    return personas


def _content(path: str | None, default: str, field: str) -> bytes:
    if path is None:
        return files(__package__).joinpath(default).read_bytes()
    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ValueError(f"{field}: the file {path} does not exist") from error


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _check_fields(name: str, template: str, known: set[str]) -> None:
    used = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    if not used <= known:
        raise ValueError(f"{name} uses {sorted(used - known)}; it may use {sorted(known)}")
    [text] = known & {"passage", "sentence"}
    if text not in used:
        raise ValueError(f"{name} must contain {{{text}}}")


def _check_known(field: str, value: str, known: dict[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"an example has {field} {value!r}, which is not defined")


def _in_language(examples: list[Example], language: str) -> list[Example]:
    """The examples in a language, or all where it has none."""
    return [example for example in examples if example.language == language] or examples


def _chat(system: str, shown: list[tuple[str, dict[str, Any]]], question: str) -> list[Message]:
    """The examples as turns: a small model copies the passage when it is only told, and follows when shown."""
    messages = [_turn("system", system)]
    for example, answer in shown:
        messages.append(_turn("user", example))
        messages.append(_turn("assistant", json.dumps(answer, ensure_ascii=False)))
    return [*messages, _turn("user", question)]


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _object_schema(properties: dict[str, Any]) -> str:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return json.dumps(schema, ensure_ascii=False)
