"""The writer behind an OpenAI-compatible endpoint: a limited rate, further tries, one bad row costs one row."""

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import openai
import pyarrow as pa
import ray
from aiolimiter import AsyncLimiter
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, Dataset

from components.storage import Folder
from components.synthesis.answers import ID, AnswerLog, Finished, read_finished
from components.synthesis.conversation import Call, Reply, converse
from components.synthesis.ledger import enter
from components.synthesis.prompts import Prompts
from components.synthesis.settings import Sampling

ROWS_PER_BATCH = 16
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries, doubled each time
LONGEST_RETRY_AFTER = 600.0  # seconds; an endpoint that wants more time than this does not answer the row

ResponseFormat = Literal["json_schema", "json_object", "text"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the writer is and how it may be asked.

    Attributes:
        base_url: of the API, up to and with its version (`https://host/v1`).
        model: as the endpoint names it.
        response_format: `json_schema` where the endpoint constrains the decoding, `json_object` where it only
            promises JSON, `text` where it knows neither: then the examples alone ask for it.
        seed_rows: send the seed of each row.
        extra_body: fields of every request that this API knows and others do not, as
            `{"chat_template_kwargs": {"enable_thinking": false}}`; None takes a field out of every request, as
            `{"max_tokens": None, "max_completion_tokens": 64}`.
        key_variable: the environment variable that holds the key, on every node; None: there is no key.
        requests_per_minute: None: no limit. concurrency: requests at once.
        timeout_seconds: of one request, all of it. retries: further tries of one.
    """

    base_url: str
    model: str
    response_format: ResponseFormat
    seed_rows: bool
    extra_body: Mapping[str, Any] | None = None
    key_variable: str | None = None
    requests_per_minute: float | None = None
    concurrency: int = 16
    timeout_seconds: float = 120.0
    retries: int = 5

    def key(self) -> str:
        """The key. Raises ValueError if the variable is not set."""
        if self.key_variable is None:
            return "none"  # the client insists on one
        key = os.environ.get(self.key_variable)
        if not key:
            raise ValueError(
                f"the environment variable {self.key_variable}, which should hold the key of {self.base_url}, "
                "is not set where the step runs"
            )
        return key


class RowWriter:
    """A stage of a Ray Data pipeline that answers rows of REQUESTS, and keeps the answers."""

    def __init__(
        self, endpoint: Endpoint, prompts: Prompts, sampling: Sampling, ledger: ActorHandle, state: Folder
    ) -> None:
        ray.get(ledger.begin_engine.remote(ray.get_runtime_context().current_actor))
        self._prompts: Prompts = prompts
        self._ledger: ActorHandle = ledger
        self._log: AnswerLog = AnswerLog(state)
        # When a writer dies Ray Data gives its batches to a new one, with the rows that were answered.
        self._finished: Finished = read_finished(state)
        try:
            self._client: Client = Client(endpoint, sampling)
        except ValueError as error:
            ray.get(ledger.stop.remote(str(error)))
            raise
        ledger.engine_ready.remote(0.0)

    async def __call__(self, requests: pa.Table) -> AsyncIterator[pa.Table]:
        """Answers a batch; gives the ids of its rows."""
        rows = requests.to_pylist()
        await asyncio.gather(*(self._answer(row) for row in rows if row[ID] not in self._finished))
        yield requests.select([ID])

    async def _answer(self, row: dict[str, Any]) -> None:
        try:
            written = await converse(row, self._prompts, self._client.ask)
        except EndpointRefusedError as error:
            await self._ledger.stop.remote(str(error))
            raise
        await enter(written, self._log, self._ledger)


class EndpointRefusedError(Exception):
    """The endpoint refuses every request, whatever the row."""


class Client:
    """Asks an endpoint, at its pace, until it answers or has failed too often."""

    def __init__(self, endpoint: Endpoint, sampling: Sampling) -> None:
        self._endpoint = endpoint
        self._sampling = sampling
        # The client's own retries know neither the rate limit nor a long Retry-After, so they are off.
        self._openai = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.key(),
            max_retries=0,
            timeout=endpoint.timeout_seconds,
        )
        self._at_once = asyncio.Semaphore(endpoint.concurrency)
        self._limiter: AsyncLimiter | None = None
        if endpoint.requests_per_minute:
            period = max(1.0, 60 / endpoint.requests_per_minute)  # seconds in which at least one is due
            self._limiter = AsyncLimiter(endpoint.requests_per_minute * period / 60, period)
        self._answered = False
        self._not_before = 0.0  # time.monotonic() until which the endpoint wants to be left alone

    async def ask(self, call: Call) -> Reply:
        """The answer to a call, or the reason why there is none: `rate_limited`, `timeout`, `server_error`,
        `connection_error`, `request_refused` or `refusal`.

        Raises:
            EndpointRefusedError: the key, the model or the address is wrong, or the account is empty.
        """
        wait, forbidden = FIRST_WAIT, False
        for tries_left in reversed(range(self._endpoint.retries + 1)):
            try:
                async with self._at_once:
                    await self._turn()
                    async with asyncio.timeout(self._endpoint.timeout_seconds):
                        reply = await self._post(call)
                    self._answered = True
                    return reply
            except (TimeoutError, openai.APIError, ValueError) as error:
                failure = _failure(error, self._endpoint)
                asked = _retry_after(error)
                too_long = asked is not None and asked > LONGEST_RETRY_AFTER
                if isinstance(error, openai.PermissionDeniedError) and not self._answered:
                    # Either the input is not allowed or the key is not; a moment later other answers tell.
                    if forbidden or not tries_left:
                        raise _key_refused(self._endpoint) from error
                    forbidden = True
                elif not tries_left or failure.fault == "request_refused" or too_long:
                    return failure
                if asked is not None and failure.fault == "rate_limited":
                    self._not_before = max(self._not_before, time.monotonic() + asked)
            await asyncio.sleep(asked if asked is not None else wait * random.uniform(0.75, 1.25))
            wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("the last try returns")

    async def _turn(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if self._limiter:
            await self._limiter.acquire()

    async def _post(self, call: Call) -> Reply:
        body: dict[str, Any] = {
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "frequency_penalty": self._sampling.frequency_penalty,
            "max_tokens": self._sampling.max_tokens,
        }
        if self._endpoint.seed_rows:
            body["seed"] = call.seed
        if self._endpoint.response_format == "json_schema":
            schema = {"name": "answer", "strict": True, "schema": json.loads(call.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._endpoint.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        body |= self._endpoint.extra_body or {}
        response = await self._openai.chat.completions.create(
            model=self._endpoint.model,
            messages=cast(list[ChatCompletionMessageParam], call.messages),
            extra_body={name: value for name, value in body.items() if value is not None},
        )
        if not isinstance(response, ChatCompletion):  # a page where an answer should be
            raise ValueError("the answer is no chat completion; does base_url end in /v1?")
        usage = response.usage
        input_tokens = usage.prompt_tokens if usage else 0
        output_tokens = usage.completion_tokens if usage else 0
        message = response.choices[0].message if response.choices else None
        if message is not None and message.refusal:
            return Reply("", input_tokens, output_tokens, "refusal", message.refusal)
        return Reply((message and message.content) or "", input_tokens, output_tokens)


def ask_endpoint(
    requests: Dataset,
    *,
    endpoint: Endpoint,
    prompts: Prompts,
    sampling: Sampling,
    ledger: ActorHandle,
    state: Folder,
) -> Dataset:
    """The lazy dataset that, run, has every row of REQUESTS answered and kept in `state`; its rows are their ids.

    One process asks, so that the rate limit is that of the step.
    """
    # Rows wait for their batch and for the disk: twice as many as are asked at once keep the endpoint busy.
    batches = max(2, -(-2 * endpoint.concurrency // ROWS_PER_BATCH))
    return requests.map_batches(
        RowWriter,
        fn_constructor_args=(endpoint, prompts, sampling, ledger, state),
        batch_size=ROWS_PER_BATCH,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2 * batches),
        max_concurrency=batches,
        num_cpus=0,
    )


def _failure(error: Exception, endpoint: Endpoint) -> Reply:
    """The fault that a failed request is; EndpointRefusedError where every other would fail likewise."""
    where = f"{endpoint.base_url} ({endpoint.model})"
    code = getattr(error, "code", None)
    match error:
        case openai.APITimeoutError() | TimeoutError():
            fault, said = "timeout", f"no answer within {endpoint.timeout_seconds:g} s"
        case openai.APIStatusError() if code == "insufficient_quota" or error.status_code == 402:
            raise EndpointRefusedError(f"{where} answers that the account has no quota left") from error
        case openai.AuthenticationError():
            raise _key_refused(endpoint) from error
        case openai.NotFoundError():
            raise EndpointRefusedError(
                f"{where} is not there: check base_url and the model's name"
            ) from error
        case openai.RateLimitError():
            fault, said = "rate_limited", str(error)
        case openai.APIConnectionError():
            fault, said = "connection_error", str(error.__cause__ or error)
        case openai.APIStatusError() if error.status_code in (408, 409) or error.status_code >= 500:
            fault, said = "server_error", str(error)
        case openai.APIStatusError():
            fault, said = "request_refused", str(error)
        case _:  # an answer that is no JSON, or not that of the API
            fault, said = "server_error", f"{type(error).__name__}: {error}"
    # A row without an error is one that was answered, and a connection that is reset says nothing.
    return Reply("", 0, 0, fault, " ".join(said.split())[:500] or fault)


def _key_refused(endpoint: Endpoint) -> EndpointRefusedError:
    key = endpoint.key_variable or "(no key_variable is given)"
    return EndpointRefusedError(f"{endpoint.base_url} ({endpoint.model}) refuses the key in {key}")


def _retry_after(error: Exception) -> float | None:
    """Seconds that the endpoint asks to wait, in either form of the header; None: it does not say."""
    if not isinstance(error, openai.APIStatusError):
        return None
    value = error.response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
