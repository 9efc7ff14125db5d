"""Errors as answers: a status for each code, and the one body shape. No other module knows the status of an error."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from sessile.wire import codec
from sessile.wire.errors import BadRequest, NotFound, RangeNotSatisfiable, SessileError, Unavailable, Unprocessable

_BY_CODE = {
    "unauthenticated": 401,
    "forbidden": 403,
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "method_not_allowed": 405,
    "session_running": 409,
    "input_taken": 409,
    "input_withdrawn": 410,
    "precondition_failed": 412,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "too_many_requests": 429,
    "headers_too_large": 431,
}
_BY_KIND: tuple[tuple[type[SessileError], int], ...] = (
    (BadRequest, 400),
    (NotFound, 404),
    (Unprocessable, 422),
    (Unavailable, 503),
)


class Error(Struct, kw_only=True, omit_defaults=True):
    """The body of every error. `code` is stable; `messages` are for people."""

    code: str
    messages: list[str]
    request_id: str
    id: str | UnsetType = UNSET
    """What was not found, or the turn that is running."""


class BadRequestError(Error, kw_only=True, omit_defaults=True):
    """A 400; `field_errors` maps fields to what is wrong with them."""

    field_errors: dict[str, str] | UnsetType = UNSET


class NotFoundError(Error, kw_only=True, omit_defaults=True):
    """A 404; `id` is what was not found."""

    id: str | UnsetType = UNSET


def status_of(error: SessileError) -> int:
    """The HTTP status of an error; 500 for what a caller should never see."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return next((status for kind, status in _BY_KIND if isinstance(error, kind)), 500)


def render(error: SessileError, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """The answer to an error."""
    status = status_of(error)
    body: dict[str, Any] = {"code": error.code, "messages": [error.message], "request_id": request_id}
    if status == 500:
        body |= {"code": "internal_error", "messages": ["The server failed. The log has more under this request id."]}
    if error.field_errors is not None:
        body["field_errors"] = error.field_errors
    if error.id is not None:
        body["id"] = error.id
    extra = dict(headers or {})
    if status == 401:
        extra["www-authenticate"] = "Bearer"
    if isinstance(error, RangeNotSatisfiable):
        extra["content-range"] = f"bytes */{error.size}"
    if status in (429, 503):
        extra["retry-after"] = str(error.retry_after or 1)
    return Response(codec.encode(body), status, extra, "application/json")
