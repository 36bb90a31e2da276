"""Errors in OpenAI's format, whatever goes wrong."""

import json
import math
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from components.serving.calls import Refusal
from components.serving.schema import ErrorBody, ErrorResponse

MAX_BODY_BYTES = 16 * 1024 * 1024
RETRY_AFTER_S = 1.0
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 403, 404, 408, 413, 429, 500, 503)
}
"""What every endpoint may answer, for the OpenAPI description."""


class AsciiResponse(JSONResponse):
    """JSON in ASCII: an error may quote what no UTF-8 can say."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode("ascii")


class BodyTooLargeError(HTTPException):
    def __init__(self) -> None:
        super().__init__(413, f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB; send fewer texts.")


def error_response(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> JSONResponse:
    """An error in OpenAI's format; `retry_after_s` becomes the header Retry-After."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = ErrorResponse(error=ErrorBody(message=message, type=kind, param=param, code=code))
    headers = {} if retry_after_s is None else {"retry-after": str(math.ceil(retry_after_s))}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return AsciiResponse(body.model_dump(), status, headers)


def refusal_response(refusal: Refusal) -> JSONResponse:
    return error_response(refusal.status, refusal.message, refusal.code, refusal.param, refusal.retry_after_s)


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    response = error_response(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(400, f"The body is no valid JSON: {first['ctx']['error']}.", "invalid_json")
    field = ".".join(part for part in first["loc"][1:] if isinstance(part, str)) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return error_response(400, f"{field}: {message}" if field else message, "invalid_value", field)


async def on_failure(_: Request, error: Exception) -> JSONResponse:
    """A bug, or a model that failed on this request; the trace is in the log, not in the answer."""
    message = f"The service failed on this request ({type(error).__name__}); its log says more."
    return error_response(500, message, "internal_error")
