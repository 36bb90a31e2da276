"""The endpoints over real models, by the clients that are to work unchanged and by those that mean harm."""

import asyncio
import base64
import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import cohere
import numpy as np
import openai
import pytest
import requests
from langchain_openai import OpenAIEmbeddings
from serving_gateway import LocalGateway, listening
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder, write_yes_no_model

from components.model.embedder import Embedder
from components.model.reranker import load_reranker
from components.serving.keys import ApiKey, digest

TEXTS = ["w1 w2 w3", "w4", "w5 " * 100, "w6 w7"]
DOCUMENTS = ["abc def", "ghi", "a b c", "zzz"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "tiny": write_tiny_model(folder / "tiny"),
        "cross": write_cross_encoder(folder / "cross"),
        "yes-no": write_yes_no_model(folder / "yes-no"),
    }


@pytest.fixture(scope="module")
def url(models: dict[str, Path]) -> Iterator[str]:
    with listening(LocalGateway([models["tiny"], models["cross"]])) as url:
        yield url


@pytest.fixture(scope="module")
def embedder(models: dict[str, Path]) -> Embedder:
    return Embedder.load(models["tiny"])


def post(url: str, path: str, body: object, **keywords: object) -> requests.Response:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {"content-type": "application/json"} | keywords.pop("headers", {})  # type: ignore[operator]
    return requests.post(f"{url}{path}", data=data, headers=headers, timeout=30, **keywords)  # type: ignore[arg-type]


def test_openai_client(url, embedder):
    expected_ND = embedder.encode(TEXTS, "document")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list().data} == {"tiny", "cross"}
        assert client.models.retrieve("cross/local").id == "cross"
        with pytest.raises(openai.NotFoundError, match="nosuch"):
            client.models.retrieve("nosuch")
        # The client asks for base64 on its own; asked for floats, it passes them on.
        for encoding in ({}, {"encoding_format": "float"}):
            answer = client.embeddings.create(model="tiny", input=TEXTS, **encoding)
            np.testing.assert_allclose([row.embedding for row in answer.data], expected_ND, atol=1e-5)
        ids = embedder.tokenize(TEXTS, "document")
        assert answer.usage.prompt_tokens == sum(map(len, ids))
        for given in (ids, ids[0]):
            answer = client.embeddings.create(model="tiny", input=given)
            np.testing.assert_allclose(answer.data[0].embedding, expected_ND[0], atol=1e-5)
        answer = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=8)
        prefix_D = expected_ND[0, :8] / np.linalg.norm(expected_ND[0, :8])
        np.testing.assert_allclose(answer.data[0].embedding, prefix_D, atol=1e-5)
        with pytest.raises(openai.NotFoundError, match="nosuch"):
            client.embeddings.create(model="nosuch", input="a")
        with pytest.raises(openai.BadRequestError, match="at most 32"):
            client.embeddings.create(model="tiny", input="a", dimensions=33)


def test_langchain_client(url, embedder):
    # Without check_embedding_ctx_length it sends texts; with it, ids of OpenAI's own tokenizer.
    client = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="none", model="tiny", check_embedding_ctx_length=False
    )
    expected_ND = embedder.encode(TEXTS, "document")
    np.testing.assert_allclose(client.embed_documents(TEXTS), expected_ND, atol=1e-5)
    np.testing.assert_allclose(client.embed_query(TEXTS[0]), expected_ND[0], atol=1e-5)


@pytest.mark.parametrize("make", [cohere.Client, cohere.ClientV2])
def test_cohere_client(url, models, make):
    client = make(api_key="none", base_url=url)
    answer = client.rerank(model="cross", query="abc", documents=DOCUMENTS, top_n=3)
    expected_N = load_reranker(models["cross"]).score(["abc"] * 4, DOCUMENTS, [None] * 4)
    order = np.argsort(-expected_N, kind="stable")[:3]
    assert [row.index for row in answer.results] == order.tolist()
    np.testing.assert_allclose([row.relevance_score for row in answer.results], expected_N[order], atol=1e-5)
    with pytest.raises(cohere.NotFoundError):
        client.rerank(model="nosuch", query="abc", documents=DOCUMENTS)


def test_jinas_format(url):
    documents = [{"text": text} for text in DOCUMENTS]
    body = {"model": "cross", "query": "abc", "documents": documents, "return_documents": True}
    answer = post(url, "/v1/rerank", body).json()
    assert {row["document"]["text"] for row in answer["results"]} == set(DOCUMENTS)
    assert answer["usage"]["total_tokens"] > 0
    assert answer["version"] == "local"
    assert len(answer["scorer_id"]) == 32


def test_scores_in_their_order(url, models):
    expected_N = load_reranker(models["cross"]).score(["abc"] * 4, DOCUMENTS, [None] * 4)
    for body in (
        {"queries": "abc", "documents": DOCUMENTS},
        {"model": "cross", "text_1": ["abc"] * 4, "text_2": DOCUMENTS},
    ):
        found = post(url, "/score", body).json()
        np.testing.assert_allclose([row["score"] for row in found["data"]], expected_N, atol=1e-5)


def test_an_instruction_reaches_the_language_model(models):
    with listening(LocalGateway([models["yes-no"]])) as url:
        body = {"queries": "abc", "documents": ["def"], "instruction": "find the opposite"}
        found = post(url, "/score", body).json()["data"][0]["score"]
    expected_N = load_reranker(models["yes-no"]).score(["abc"], ["def"], ["find the opposite"])
    np.testing.assert_allclose(found, expected_N[0], atol=1e-5)


def test_curl(url, embedder):
    body = json.dumps({"model": "tiny", "input": TEXTS, "input_type": "query", "encoding_format": "base64"})
    command = [
        "curl",
        "-sS",
        "-i",
        f"{url}/v1/embeddings",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    head, answer = shown.split("\n\n", 1)
    found_ND = [
        np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in json.loads(answer)["data"]
    ]
    np.testing.assert_allclose(found_ND, embedder.encode(TEXTS, "query"), atol=1e-5)
    assert f"x-embedloom-space-id: {json.loads(answer)['space_id']}" in head.lower()


def test_a_text_alone_and_among_others_gets_the_same_vector(url):
    texts = [f"w{number} " * (1 + number % 30) for number in range(150)]
    together = post(url, "/v1/embeddings", {"model": "tiny", "input": texts}).json()["data"]
    found: dict[int, list[float]] = {}

    def ask(at: int) -> None:
        answer = post(url, "/v1/embeddings", {"model": "tiny", "input": texts[at]}).json()
        found[at] = answer["data"][0]["embedding"]

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(
        [found[at] for at in range(150)], [row["embedding"] for row in together], atol=1e-5
    )


def test_documents_in_bulk_line_by_line(url, embedder):
    texts = [f"w{number} " * (1 + number % 30) for number in range(300)]

    async def lines() -> AsyncIterator[bytes]:
        for number, text in enumerate(texts):
            yield json.dumps({"id": f"d{number}", "text": text}).encode()
            yield b"\n" if number % 2 else b"\n\n"

    async def ask() -> list[dict]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/embeddings/stream", params={"model": "tiny"}, data=lines()) as answer,
        ):
            assert answer.status == 200
            return [json.loads(line) async for line in answer.content]

    *found, last = asyncio.run(ask())
    assert [row["id"] for row in found] == [f"d{number}" for number in range(300)]
    vectors_ND = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in found]
    np.testing.assert_allclose(vectors_ND, embedder.encode(texts, "document"), atol=1e-5)
    assert last["done"]
    assert (last["documents"], last["model"], last["version"]) == (300, "tiny", "local")
    assert last["tokens"] == sum(map(len, embedder.tokenize(texts, "document")))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no line"),
        (b'{"text": "w1"}\n[1]', "line 2"),
        (b'{"text": ""}', "line 1"),
        (b'{"text": "\xff"}', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b"a" * 3_000_000, "longer than"),
    ],
)
def test_a_bad_line_ends_a_stream_with_its_number(url, body, says):
    answer = requests.post(f"{url}/v1/embeddings/stream?model=tiny", data=body, timeout=30)
    last = json.loads(answer.text.splitlines()[-1])
    assert says in last["error"]["message"]


def test_readiness_models_and_metrics(url):
    assert requests.get(f"{url}/health", timeout=5).json() == {"status": "ok"}
    ready = requests.get(f"{url}/ready", timeout=5).json()
    assert ready["versions"] == {"tiny": "local", "cross": "local"}
    rows = {row["id"]: row for row in requests.get(f"{url}/v1/models", timeout=5).json()["data"]}
    assert (rows["tiny"]["kind"], rows["tiny"]["dimensions"]) == ("embedding", 32)
    assert rows["cross"]["kind"] == "reranker"
    post(url, "/v1/embeddings", {"model": "tiny/local", "input": "w1"}).raise_for_status()
    text = requests.get(f"{url}/metrics", timeout=5).text
    assert 'embedloom_requests_total{route="/v1/embeddings",status="200"}' in text
    assert 'embedloom_tokens_total{model="tiny",version="local"}' in text


BAD_EMBEDDINGS = [
    ({"input": ""}, 400, "input"),
    ({"input": []}, 400, "input"),
    ({"input": ["a"] * 100_000}, 400, "input"),
    ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
    ({"input": "a", "dimensions": 0}, 400, "dimensions"),
    ({"input": "a", "dimensions": -3}, 400, "dimensions"),
    ({"input": "a", "instruction": "find"}, 400, None),
    ({"input": "\ud800"}, 400, "input"),
    ({"input": "a", "model": "\ud800"}, 400, "model"),
    ({"input": "a", "input_type": "query", "instruction": "\udfff"}, 400, "instruction"),
    ({"input": [[1, 40_000]]}, 400, "input"),
    ({"input": [[1] * 1000]}, 400, "input"),
    ({"input": [10**30]}, 400, "input"),
    ({"input": "a", "model": "nosuch"}, 404, "model"),
    ({"input": "a", "model": "cross"}, 404, "model"),
    ('{"model": "tiny", "input": "a", "dimensions": NaN}', 400, "dimensions"),
    ('{"model": "tiny", "input": [Infinity]}', 400, "input"),
    ('{"input": ', 400, None),
    ("[" * 500_000, 400, None),
    ('{"model": "tiny", "input": ' + "9" * 5000 + "}", 400, None),
    (b'{"model": "\xff", "input": "a"}', 400, None),
    (b"\x00\x01\x02", 400, None),
    (b'"' + b"a" * 100_000_000 + b'"', 413, None),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD_EMBEDDINGS)
def test_errors_are_in_the_format_of_openai(url, body, status, param):
    if isinstance(body, dict):
        body = {"model": "tiny"} | body
    answer = post(url, "/v1/embeddings", body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert error["param"] == param
    assert post(url, "/v1/embeddings", {"model": "tiny", "input": "w1"}).ok


def test_a_body_of_no_declared_length_is_cut_off_too(url):
    def pieces() -> Iterator[bytes]:
        yield b'"'
        for _ in range(20):
            yield b"a" * 2**20

    answer = requests.post(f"{url}/v1/embeddings", data=pieces(), timeout=30)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, 400),
        ("/v1/rerank", {"query": "", "documents": ["a"]}, 400),
        ("/v1/rerank", {"query": "a", "documents": ["a", 1]}, 400),
        ("/v1/rerank", {"query": "a", "documents": ["a"] * 1001}, 400),
        ("/v2/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, 400),
        ("/v2/rerank", {"query": "a", "documents": [{"title": "a"}]}, 400),
        ("/v2/rerank", {"model": "tiny", "query": "a", "documents": ["a"]}, 404),
        ("/score", {"queries": ["a", "b"], "documents": ["a", "b", "c"]}, 400),
        ("/score", {"queries": ["a"]}, 400),
        ("/nosuch", {}, 404),
        ("/health", {}, 405),
    ],
)
def test_bad_requests_elsewhere(url, path, body, status):
    answer = post(url, path, body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_keys_are_asked_for_and_their_allowance_is_kept(models):
    keys = [
        ApiKey("plenty", digest("key-1")),
        ApiKey("two-requests", digest("key-2"), requests_per_minute=2),
        ApiKey("few-tokens", digest("key-3"), tokens_per_minute=3),
    ]
    with listening(LocalGateway([models["tiny"]], keys)) as url:

        def ask(key: str | None) -> requests.Response:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return post(url, "/v1/embeddings", {"model": "tiny", "input": "w1 w2"}, headers=headers)

        for key in (None, "key-0", digest("key-1")):
            assert ask(key).status_code == 401
            assert ask(key).json()["error"]["code"] == "invalid_api_key"
        assert [ask("key-1").status_code for _ in range(5)] == [200] * 5
        assert [ask("key-2").status_code for _ in range(3)] == [200, 200, 429]
        assert int(ask("key-2").headers["retry-after"]) <= 31
        assert [ask("key-3").status_code for _ in range(2)] == [200, 429]
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="no", max_retries=0).models.list()
        assert requests.get(f"{url}/metrics", timeout=5).status_code == 401
        assert requests.get(f"{url}/ready", timeout=5).status_code == 200


def test_an_overloaded_service_says_when_to_come_back(models):
    gateway = LocalGateway([models["tiny"]], max_waiting_tokens=2000)
    statuses: list[int] = []
    with listening(gateway) as url:

        def ask() -> None:
            answer = post(url, "/v1/embeddings", {"model": "tiny", "input": ["w1 " * 30] * 60})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["type"] == "rate_limit_error"

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429}
        assert post(url, "/v1/embeddings", {"model": "tiny", "input": "w1"}).ok


def test_more_tokens_than_a_request_may_have_are_refused(models):
    with listening(LocalGateway([models["tiny"], models["cross"]], max_request_tokens=100)) as url:
        for path, body, param in (
            ("/v1/embeddings", {"model": "tiny", "input": ["w1 w2 w3"] * 30}, "input"),
            ("/v1/rerank", {"query": "abc", "documents": ["abc"] * 30}, "documents"),
        ):
            answer = post(url, path, body)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("max_tokens_per_request", param)
            few = {key: value[:2] if isinstance(value, list) else value for key, value in body.items()}
            assert post(url, path, few).ok


def test_what_nobody_waits_for_any_more_is_not_computed(models):
    gateway = LocalGateway([models["tiny"]])
    with listening(gateway) as url:
        body = {"model": "tiny", "input": ["w1 " * 60] * 2000}
        with pytest.raises(requests.Timeout):
            requests.post(f"{url}/v1/embeddings", json=body, timeout=(5, 0.05))
        until, gone = time.monotonic() + 10, 'route="/v1/embeddings",status="499"'
        while gone not in requests.get(f"{url}/metrics", timeout=5).text:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert gateway.services["tiny"]._batcher._waiting_tokens == 0


def test_a_request_that_takes_too_long_is_given_up(models):
    with listening(LocalGateway([models["tiny"]], timeout_s=0.05)) as url:
        answer = post(url, "/v1/embeddings", {"model": "tiny", "input": ["w1 " * 30] * 2000})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "timeout"
    assert "retry-after" in answer.headers


def test_a_shadow_gets_the_requests_and_answers_none(models):
    gateway = LocalGateway([models["tiny"], models["cross"]], shadows={"tiny": "tiny"})
    with listening(gateway) as url:
        for _ in range(5):
            answer = post(url, "/v1/embeddings", {"model": "tiny", "input": TEXTS}).json()
            assert answer["version"] == "local"
        wanted = 'embedloom_shadow_requests_total{model="tiny",outcome="answered",version="next"} 5.0'
        until = time.monotonic() + 10
        while wanted not in (text := requests.get(f"{url}/metrics", timeout=5).text):
            assert time.monotonic() < until, text
            time.sleep(0.01)
    assert 'embedloom_shadow_difference_bucket{le="0.001",model="tiny",version="next"} 5.0' in text


def test_the_description_has_examples_and_is_valid(url):
    description = requests.get(f"{url}/openapi.json", timeout=5).json()
    assert {"/v1/embeddings", "/v1/rerank", "/v2/rerank", "/score", "/v1/models"} <= description[
        "paths"
    ].keys()
    for name in ("EmbeddingRequest", "RerankRequest", "ScoreRequest"):
        assert description["components"]["schemas"][name]["examples"]
