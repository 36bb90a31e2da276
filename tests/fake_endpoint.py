"""An OpenAI-compatible endpoint that writes by rule, and misbehaves where it is told: python fake_endpoint.py

Every document of a test holds a word like `row0012`; by it the endpoint knows the row that a request is for. Prints
the port it listens on. POST /behave {"faults": {row: fault}, "seconds": s} begins anew; GET /asked gives every
request since, in order.

Faults for ever: `broken_json` (an answer cut off), `no_json` (a body that is none), `page` (HTML), `error_500`,
`limit_429`, `limit_429_date` (Retry-After as a date), `limit_429_hours`, `no_quota`, `no_credit_402`, `hang`, `drip`
(a byte a while, never done), `reset` (the connection is), `refused_400`, `denied_401`,
`forbidden_403`, `refusal`. Faults of a row's
first request alone: those with `_once`.
"""

import asyncio
import email.utils
import json
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import httpx
from aiohttp import web

RETRY_AFTER = 1  # seconds
ROW = re.compile(r"row\d{4}")


class Endpoint:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.faults: dict[str, str] = {}
        self.seconds = 0.0
        self.times: Counter[str] = Counter()

    async def behave(self, request: web.Request) -> web.Response:
        told = await request.json()
        self.__init__()  # type: ignore[misc]
        self.faults, self.seconds = told["faults"], told["seconds"]
        return web.json_response({})

    async def list_asked(self, request: web.Request) -> web.Response:
        return web.json_response(self.asked)

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        row = ROW.findall(body["messages"][-1]["content"])[0]
        asked_format = body.get("response_format", {})
        schema = asked_format.get("json_schema", {}).get("schema", {}).get("properties", {"query": {}})
        self.asked.append(
            {
                "row": row,
                "body": {name: value for name, value in body.items() if name != "messages"},
                "at": asyncio.get_running_loop().time(),
                "key": request.headers.get("Authorization"),
            }
        )
        self.times[row] += 1
        fault = self.faults.get(row, "")
        if fault.endswith("_once"):
            fault = fault.removesuffix("_once") if self.times[row] == 1 else ""
        await asyncio.sleep(self.seconds)
        match fault:
            case "hang":
                await asyncio.sleep(3600)
            case "error_500":
                return web.json_response({"error": {"message": "the engine is on fire"}}, status=500)
            case "limit_429":
                headers = {"Retry-After": str(RETRY_AFTER)}
                return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
            case "limit_429_date":
                headers = {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}
                return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
            case "limit_429_hours":
                return web.json_response({"error": {}}, status=429, headers={"Retry-After": "36000"})
            case "no_quota":
                error = {"message": "pay first", "code": "insufficient_quota"}
                return web.json_response({"error": error}, status=429)
            case "drip":
                response = web.StreamResponse(headers={"Content-Type": "application/json"})
                await response.prepare(request)
                while True:
                    await response.write(b" ")
                    await asyncio.sleep(0.1)
            case "refused_400":
                return web.json_response({"error": {"message": "the prompt is too long"}}, status=400)
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "page":
                return web.Response(text="<html>Welcome", content_type="text/html")
            case "no_credit_402":
                return web.json_response({"error": {"message": "top up"}}, status=402)
            case "forbidden_403":
                return web.json_response({"error": {"message": "not in this house"}}, status=403)
            case "denied_401":
                return web.json_response({"error": {"message": "no such key"}}, status=401)
            case "no_json":
                return web.Response(text="<html>Bad gateway", content_type="application/json")
        text = json.dumps(write(row, schema), ensure_ascii=False)
        if fault == "broken_json":
            text = text[: len(text) // 2]
        message = {"role": "assistant", "content": text}
        if fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "lamps are dangerous"}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )


def write(row: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An answer that passes every judgement, different for each row."""
    written: dict[str, Any] = {
        "query": f"where is the lamp called {row} repaired",
        "translation": f"Die alte Lampe {row} wird am Morgen von einem Mechaniker gereinigt.",
        "similar": f"Someone makes the aged lamp {row} clean again each morning.",
        "different": f"The street in which {row} was built is closed today.",
        "label": f"lamp {row}",
        "other_labels": ["cooking", "sailing boats", "tax law"],
    }
    return {name: rule["enum"][0] if "enum" in rule else written[name] for name, rule in schema.items()}


class Running:
    """The endpoint as a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._root = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.base_url = f"{self._root}/v1"

    def behave(self, faults: dict[str, str], seconds: float = 0.0) -> None:
        httpx.post(f"{self._root}/behave", json={"faults": faults, "seconds": seconds}).raise_for_status()

    def asked(self) -> list[dict[str, Any]]:
        return httpx.get(f"{self._root}/asked").json()

    def times(self) -> Counter[str]:
        """How often each row was asked for."""
        return Counter(request["row"] for request in self.asked())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


async def serve() -> None:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.complete)
    app.router.add_post("/behave", endpoint.behave)
    app.router.add_get("/asked", endpoint.list_asked)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
