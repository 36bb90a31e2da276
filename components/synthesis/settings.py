"""What a synthesis is told, whoever writes."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Engine = TypeVar("Engine")


@dataclass(frozen=True)
class Sampling:
    """How the writer draws its words, in each call: what every engine understands.

    Attributes:
        frequency_penalty: on a token for each time that it stands in the answer; above 0 it works against a small
            writer's repetitions.
        max_tokens: of one answer.
        seed: of the step; a row has its own, drawn from it.
    """

    temperature: float
    top_p: float
    frequency_penalty: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the pairs beside documents and writer, and the last four, which say how it is done.

    Attributes:
        draws: the fields of `Draws`: families, types, lengths, languages and their shares.
        instructions: by family, in place of those of the prompt file.
        prompt_version, persona_version: of the files `prompts` and `personas` (see
            `components.synthesis.prompts`); a file that has changed since is refused.
        passage_characters: so much of a document's title and text is shown to the writer.
        temperature, top_p, frequency_penalty, max_tokens, seed: see `Sampling`.
        prompts, personas: files (path or URI) in place of the project's own.
        num_retrievers: processes that choose personas.
        max_error_share: share of the rows for which the engine may fail or answer unreadably.
    """

    draws: Mapping[str, Any] = field(default_factory=dict)
    instructions: Mapping[str, str] = field(default_factory=dict)
    prompt_version: str
    persona_version: str
    passage_characters: int
    temperature: float
    top_p: float
    frequency_penalty: float
    max_tokens: int
    seed: int
    prompts: str | None = None
    personas: str | None = None
    num_retrievers: int = 1
    max_error_share: float = 0.2

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.frequency_penalty, self.max_tokens, self.seed)


def read_options(
    options: Mapping[str, Any], engine: Callable[..., Engine], **own: Any
) -> tuple[Settings, Engine]:
    """What the keyword arguments of a step say, of the pairs and of the engine.

    Args:
        engine: the dataclass of those options that are no field of `Settings`.
        own: fields of the engine that are no options.

    Raises:
        TypeError: an option that neither has.
    """
    names = {field.name for field in dataclasses.fields(Settings)}
    of_engine = {name: value for name, value in options.items() if name not in names}
    return (
        Settings(**{name: value for name, value in options.items() if name in names}),
        engine(**own, **of_engine),
    )
