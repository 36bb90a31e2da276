"""The client, against an endpoint that misbehaves: what is tried again, what is given up, and with which reason."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_endpoint import RETRY_AFTER, Running

from components.synthesis.conversation import Call, Reply
from components.synthesis.endpoint import Client, Endpoint, EndpointRefusedError
from components.synthesis.settings import Sampling

SCHEMA = '{"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}'
SAMPLING = Sampling(temperature=0.5, top_p=0.9, frequency_penalty=0.1, max_tokens=33, seed=0)
ROW = "row0001"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def endpoint(running: Running) -> Endpoint:
    return Endpoint(
        base_url=running.base_url,
        model="fake-writer",
        key_variable=None,
        response_format="json_schema",
        seed_rows=True,
        extra_body={},
        requests_per_minute=None,
        concurrency=8,
        timeout_seconds=1.0,
        retries=1,
    )


def ask(endpoint: Endpoint, *rows: str) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        client = Client(endpoint, SAMPLING)
        calls = [Call([{"role": "user", "content": f"about {row}"}], SCHEMA, seed=7) for row in rows]
        return await asyncio.gather(*map(client.ask, calls))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        ("error_500", "server_error", 2),
        ("no_json", "server_error", 2),
        ("page", "server_error", 2),
        ("reset", "connection_error", 2),
        ("limit_429", "rate_limited", 2),
        ("limit_429_hours", "rate_limited", 1),
        ("hang", "timeout", 2),
        ("drip", "timeout", 2),
        ("refused_400", "request_refused", 1),
        ("refusal", "refusal", 1),
    ],
)
def test_a_request_that_fails_for_good_gives_its_reason(
    running: Running, endpoint: Endpoint, fault: str, reason: str, requests: int
):
    running.behave({ROW: fault})
    began = time.monotonic()
    bad, good = ask(endpoint, ROW, "row0002")
    assert time.monotonic() - began < 20
    assert (bad.fault, bad.text) == (reason, "")
    assert bad.error
    assert good == Reply('{"query": "where is the lamp called row0002 repaired"}', 100, 10)
    assert running.times()[ROW] == requests


@pytest.mark.parametrize("fault", ["error_500", "no_json", "hang", "limit_429", "limit_429_date"])
def test_a_request_that_fails_once_is_tried_again(running: Running, endpoint: Endpoint, fault: str):
    running.behave({ROW: f"{fault}_once"})
    [reply] = ask(endpoint, ROW)
    assert (reply.fault, reply.error) == ("", "")
    first, second = (request["at"] for request in running.asked())
    if fault.startswith("limit"):
        assert second - first >= RETRY_AFTER - 0.05


def test_who_is_told_to_wait_makes_the_others_wait(running: Running, endpoint: Endpoint):
    running.behave({ROW: "limit_429_once"}, seconds=0.2)
    rows = [ROW, *(f"row{number:04d}" for number in range(2, 40))]
    ask(replace(endpoint, concurrency=4), *rows)
    times = [request["at"] for request in running.asked()]
    assert max(after - before for before, after in itertools.pairwise(times)) >= RETRY_AFTER - 0.25


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("denied_401", "refuses the key"),
        ("no_quota", "no quota left"),
        ("no_credit_402", "no quota left"),
    ],
)
def test_what_every_row_would_be_refused_for_is_an_error(
    running: Running, endpoint: Endpoint, fault: str, said: str
):
    running.behave({ROW: fault})
    with pytest.raises(EndpointRefusedError, match=said):
        ask(endpoint, ROW)
    assert running.times()[ROW] == 1


def test_an_input_that_is_not_allowed_costs_a_row_and_a_key_that_is_not_ends_the_step(
    running: Running, endpoint: Endpoint
):
    running.behave({ROW: "forbidden_403"})
    bad, good = ask(endpoint, ROW, "row0002")
    assert (bad.fault, good.fault) == ("request_refused", "")
    assert running.times()[ROW] <= 2
    with pytest.raises(EndpointRefusedError, match="refuses the key"):
        ask(endpoint, ROW)


def test_a_wrong_address_is_an_error_and_a_dead_one_a_fault(running: Running, endpoint: Endpoint):
    with pytest.raises(EndpointRefusedError, match="check base_url"):
        ask(replace(endpoint, base_url=running.base_url + "/nowhere"), ROW)
    [reply] = ask(replace(endpoint, base_url="http://127.0.0.1:9/v1"), ROW)
    assert reply.fault == "connection_error"


def test_what_is_sent_is_what_was_set(running: Running, endpoint: Endpoint):
    running.behave({})
    ask(endpoint, ROW)
    ask(replace(endpoint, response_format="json_object", seed_rows=False), ROW)
    ask(
        replace(
            endpoint, response_format="text", extra_body={"chat_template_kwargs": {"enable_thinking": False}}
        ),
        ROW,
    )
    ask(replace(endpoint, extra_body={"max_tokens": None, "max_completion_tokens": 64}), ROW)
    schema, thing, text, renamed = (request["body"] for request in running.asked())
    assert schema["seed"] == 7
    assert schema["response_format"]["json_schema"]["schema"]["required"] == ["query"]
    assert {name: schema[name] for name in ("temperature", "top_p", "frequency_penalty", "max_tokens")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "max_tokens": 33,
    }
    assert "seed" not in thing
    assert thing["response_format"] == {"type": "json_object"}
    assert "response_format" not in text
    assert text["chat_template_kwargs"] == {"enable_thinking": False}
    assert "max_tokens" not in renamed
    assert renamed["max_completion_tokens"] == 64


@pytest.mark.parametrize(("per_minute", "rows", "seconds"), [(120, 4, 1.0), (30, 2, 1.6)])
def test_no_more_is_asked_than_the_rate_allows(
    running: Running, endpoint: Endpoint, per_minute: float, rows: int, seconds: float
):
    running.behave({})
    ask(replace(endpoint, requests_per_minute=per_minute), *(f"row{number:04d}" for number in range(rows)))
    times = [request["at"] for request in running.asked()]
    assert times[-1] - times[0] >= seconds - 0.1


def test_no_more_is_asked_at_once_than_is_allowed(running: Running, endpoint: Endpoint):
    running.behave({}, seconds=0.3)
    began = time.monotonic()
    ask(replace(endpoint, concurrency=2, timeout_seconds=10.0), *(f"row{number:04d}" for number in range(8)))
    assert time.monotonic() - began >= 4 * 0.3


def test_a_key_that_is_not_set_is_named(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match=r"NO_SUCH_KEY.*is not set"):
        Client(replace(endpoint, key_variable="NO_SUCH_KEY"), SAMPLING)
