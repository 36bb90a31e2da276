"""The prompts of the two synthesis calls: read from a file that users edit, and turned into chat messages.

Import-light: the plan reads `prompt_version` and `personas_version` from here.
"""

import hashlib
import json
from importlib.resources import files
from string import Formatter
from typing import Any

import fsspec
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

CONFIGURATION_FIELDS = {"passage", "characters"}
QUERY_FIELDS = {
    "passage",
    "character",
    "role",
    "question_type",
    "question_type_description",
    "difficulty",
    "difficulty_description",
    "length",
    "language",
}
CANDIDATES = 5  # personas offered to the configuration call, as in the paper

Message = dict[str, str]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Configuration(_Strict):
    """What the first call chooses."""

    character: str
    question_type: str
    difficulty: str


class ConfigurationExample(_Strict):
    passage: str
    characters: list[str]
    answer: Configuration


class QueryExample(_Strict):
    passage: str
    character: str
    question_type: str
    difficulty: str
    length: int
    language: str
    query: str


class ConfigurationPrompt(_Strict):
    system: str
    user: str
    examples: list[ConfigurationExample]


class QueryPrompt(_Strict):
    system: str
    user: str
    examples: list[QueryExample]


class Prompts(_Strict):
    """A prompt file.

    Attributes:
        languages: ISO code -> the name by which the prompts call the language.
        question_types, difficulties: the choices the model is given -> their descriptions.
    """

    languages: dict[str, str]
    question_types: dict[str, str]
    difficulties: dict[str, str]
    configuration: ConfigurationPrompt
    query: QueryPrompt

    @model_validator(mode="after")
    def _consistent(self) -> "Prompts":
        _check_fields("configuration.user", self.configuration.user, CONFIGURATION_FIELDS)
        _check_fields("query.user", self.query.user, QUERY_FIELDS)
        for example in self.configuration.examples:
            if example.answer.character not in example.characters:
                raise ValueError(
                    f"an example answers with character {example.answer.character!r}, "
                    "which is not among its characters"
                )
        choices: list[Configuration | QueryExample] = [e.answer for e in self.configuration.examples]
        for choice in [*choices, *self.query.examples]:
            if choice.question_type not in self.question_types:
                raise ValueError(
                    f"an example has question_type {choice.question_type!r}, which is not defined"
                )
            if choice.difficulty not in self.difficulties:
                raise ValueError(f"an example has difficulty {choice.difficulty!r}, which is not defined")
        return self

    def configuration_messages(self, passage: str, characters: list[str]) -> list[Message]:
        """The chat of the first call: who would search for the passage, and for what."""
        messages = [_turn("system", self.configuration.system)]
        # A small model leans to the last answer it saw, so which one that is depends on the passage.
        turn = int(hashlib.sha256(passage.encode()).hexdigest(), 16) % max(
            len(self.configuration.examples), 1
        )
        for example in self.configuration.examples[turn:] + self.configuration.examples[:turn]:
            messages.append(_turn("user", self._configuration_turn(example.passage, example.characters)))
            messages.append(_turn("assistant", _compact(example.answer.model_dump())))
        messages.append(_turn("user", self._configuration_turn(passage, characters)))
        return messages

    def query_messages(
        self, passage: str, configuration: Configuration, length: int, language: str
    ) -> list[Message]:
        """The chat of the second call: the query, of about `length` words in `language`."""
        messages = [_turn("system", self.query.system)]
        # Examples of the wanted type stand last, where they count most.
        ordered = sorted(self.query.examples, key=lambda e: e.question_type == configuration.question_type)
        for example in ordered:
            choice = Configuration(**example.model_dump(include=set(Configuration.model_fields)))
            turn = self._query_turn(example.passage, choice, example.length, example.language)
            messages.append(_turn("user", turn))
            messages.append(_turn("assistant", _compact({"query": example.query})))
        messages.append(_turn("user", self._query_turn(passage, configuration, length, language)))
        return messages

    def language_name(self, code: str) -> str:
        """The name of a language. Raises ValueError if the prompt file has none for the code."""
        try:
            return self.languages[code]
        except KeyError:
            known = ", ".join(self.languages)
            raise ValueError(
                f"the prompt file names no language {code!r} in `languages`; it has {known}"
            ) from None

    def configuration_schema(self, characters: list[str]) -> str:
        """The JSON schema, as a JSON string, that the first answer must follow: only offered choices."""
        choices = {
            "character": characters,
            "question_type": list(self.question_types),
            "difficulty": list(self.difficulties),
        }
        return _object_schema({name: {"enum": values} for name, values in choices.items()})

    def query_schema(self) -> str:
        """The JSON schema, as a JSON string, that the second answer must follow."""
        return _object_schema({"query": {"type": "string"}})

    def _configuration_turn(self, passage: str, characters: list[str]) -> str:
        listed = "\n".join(f"- {character}" for character in characters)
        return self.configuration.user.format(passage=passage, characters=listed)

    def _query_turn(self, passage: str, choice: Configuration, length: int, language: str) -> str:
        return self.query.user.format(
            passage=passage,
            character=choice.character,
            role=choice.character.partition(" who ")[0],
            question_type=choice.question_type,
            question_type_description=self.question_types[choice.question_type],
            difficulty=choice.difficulty,
            difficulty_description=self.difficulties[choice.difficulty],
            length=length,
            language=language,
        )


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
    if "passage" not in used:
        raise ValueError(f"{name} must contain {{passage}}")


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _object_schema(properties: dict[str, Any]) -> str:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return json.dumps(schema, ensure_ascii=False)
