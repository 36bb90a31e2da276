"""A replica, without Serve around it."""

import asyncio
from dataclasses import asdict

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model

from components.serving.calls import EmbedCall, Refusal, Vectors
from components.serving.engine import EngineOptions
from components.serving.service import ModelService
from components.serving.verify import from_directory

CALLS = [
    EmbedCall(["w1 w2 w3"], [], "query", None, None),
    EmbedCall(["w4"], [], "query", None, 10_000),
    EmbedCall(["w5 w6", "w7 " * 9], [], "document", None, 8),
    EmbedCall([], [[4, 5, 6]], "document", None, None),
]


@pytest.fixture
def service(tmp_path):
    threads = torch.get_num_threads()
    release = from_directory(write_tiny_model(tmp_path / "tiny"))
    yield ModelService(asdict(release), asdict(EngineOptions(threads=2)), 512, 10_000, 20.0, 5_000)
    torch.set_num_threads(threads)


def test_calls_that_were_sent_together_get_what_each_gets_alone(service):
    together = asyncio.run(service.answer_each(CALLS))
    assert [type(reply) for reply in together] == [Vectors, Refusal, Vectors, Vectors]
    for call, reply in zip(CALLS, together, strict=True):
        alone = asyncio.run(service.answer(call))
        if isinstance(reply, Refusal):
            assert reply == alone
        else:
            assert reply.tokens == alone.tokens
            np.testing.assert_allclose(reply.vectors_ND, alone.vectors_ND, atol=1e-6)


def test_they_are_computed_together(service):
    batches = []
    compute = service._batcher._compute
    service._batcher._compute = lambda items: batches.append(len(items)) or compute(items)
    asyncio.run(service.answer_each([CALLS[0]] * 8))
    assert batches == [8]


def test_an_overloaded_replica_refuses_calls_at_once_however_they_come(service, monkeypatch):
    monkeypatch.setattr(service._batcher, "_waiting_tokens", 10_000)
    replies = [*asyncio.run(service.answer_each(CALLS)), asyncio.run(service.answer(CALLS[0]))]
    assert {(reply.status, reply.code) for reply in replies} == {(429, "rate_limit_exceeded")}
    assert all(reply.retry_after_s >= 1 for reply in replies)
