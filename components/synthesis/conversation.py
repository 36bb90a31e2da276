"""The calls of one row, whoever answers them: the seam between the families and the engines."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from components.synthesis.answers import answer
from components.synthesis.prompts import Message, Prompts
from components.synthesis.written import UnreadableError, parse_configuration, read_texts


@dataclass(frozen=True)
class Call:
    """One request to a writer: a chat, the JSON schema (a string) of the answer, and the row's seed."""

    messages: list[Message]
    schema: str
    seed: int


@dataclass(frozen=True)
class Reply:
    """What came back. `fault`: a reason why there is no answer, with `error`, its words; else both are ""."""

    text: str
    input_tokens: int
    output_tokens: int
    fault: str = ""
    error: str = ""


Ask = Callable[[Call], Awaitable[Reply]]
"""An engine: answers one call, raises only what must end the step."""


async def converse(request: dict[str, Any], prompts: Prompts, ask: Ask) -> dict[str, Any]:
    """All calls for one row of REQUESTS; gives a row of ANSWERS.

    Retrieval asks twice, first for a configuration, then, given that, for the query (Qwen3 Embedding,
    arXiv 2506.05176); the others ask once. A row that has a fault already is not asked for.
    """
    written = answer(request)
    if not request["fault"]:
        try:
            if request["family"] == "retrieval":
                await _ask_twice(request, prompts, ask, written)
            else:
                await _ask(written, "answer", _single_call(request, prompts), ask)
            if not written["fault"]:
                read_texts(written)
        except UnreadableError as error:
            call = (
                "configuration" if request["family"] == "retrieval" and not written["character"] else "answer"
            )
            written.update(fault=f"{call}_unreadable", error=str(error))
    return written


async def _ask_twice(request: dict[str, Any], prompts: Prompts, ask: Ask, written: dict[str, Any]) -> None:
    family = prompts.retrieval
    offers = (
        list(request["characters"]),
        [request["question_type"]] if request["question_type"] else list(family.question_types),
        [request["difficulty"]] if request["difficulty"] else list(family.difficulties),
    )
    first = Call(
        family.configuration_messages(request["passage"], *offers),
        family.configuration_schema(*offers),
        int(request["request_seed"]),  # Ray Data may hand in numpy's
    )
    await _ask(written, "configuration", first, ask)
    if written["fault"]:
        return
    choice = parse_configuration(written["configuration"], *offers)
    written.update(choice.model_dump())
    messages = family.query_messages(
        request["passage"], choice, request["length"], request["asked_language"], prompts.languages
    )
    await _ask(written, "answer", Call(messages, family.query_schema(), first.seed), ask)


def _single_call(request: dict[str, Any], prompts: Prompts) -> Call:
    passage, language, names = request["passage"], request["language"], prompts.languages
    match request["family"]:
        case "bitext_mining":
            messages = prompts.bitext_mining.messages(passage, language, request["asked_language"], names)
            schema = prompts.bitext_mining.answer_schema()
        case "sts":
            messages = prompts.sts.messages(passage, language, request["question_type"], names)
            schema = prompts.sts.answer_schema()
        case "classification":
            messages = prompts.classification.messages(passage, language, request["question_type"], names)
            schema = prompts.classification.answer_schema()
        case family:
            raise AssertionError(family)
    return Call(messages, schema, int(request["request_seed"]))


async def _ask(written: dict[str, Any], field: str, call: Call, ask: Ask) -> None:
    reply = await ask(call)
    written[field] = reply.text
    written["input_tokens"] += reply.input_tokens
    written["output_tokens"] += reply.output_tokens
    written.update(fault=reply.fault, error=reply.error)
