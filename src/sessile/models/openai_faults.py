"""What goes wrong at an OpenAI-compatible provider, as a ModelFault. No I/O; a message never holds the API key."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from sessile.ports import ModelFault

MAX_MESSAGE_CHARS = 500
_UNAUTHORIZED = (401, 403)
_TIMED_OUT = 408
_RATE_LIMITED = 429
_NO_CREDIT = "insufficient_quota"
_TOO_LONG = (
    "context_length",
    "context length",
    "context window",
    "context size",
    "maximum context",
    "prompt is too long",
)
"""What providers say of a request that does not fit into the model's window."""
_RATE_WORDS = ("rate_limit", "ratelimit", "too_many_requests", _NO_CREDIT)
_REJECTED_WORDS = ("invalid", "not_found", "unsupported", "bad_request", "content_filter", "policy")
_UNAUTHORIZED_WORDS = ("authentication", "unauthorized", "permission", "api_key")


def protocol_fault(message: str, *, retryable: bool) -> ModelFault:
    """The provider's answer makes no sense."""
    return ModelFault("model_protocol", message, retryable=retryable)


def status_fault(status: int, body: bytes, headers: Mapping[str, str], secret: str | None = None) -> ModelFault:
    """The fault for an HTTP status that is not 200. `secret` is cut out of the provider's message."""
    message, kind = _explanation(body)
    text = shorten(message, secret) or "no reason given"
    wait = retry_after(headers)
    if status == 401:
        # Providers echo parts of the key here, and the message ends up in a log that users read.
        return ModelFault("model_unauthorized", "The provider refused the API key (HTTP 401).", retryable=False)
    if status in _UNAUTHORIZED:
        return ModelFault("model_unauthorized", f"The provider answered HTTP {status}: {text}", retryable=False)
    if status == _RATE_LIMITED:
        return ModelFault(
            "model_rate_limited",
            f"The provider limits the rate: {text}",
            retryable=kind != _NO_CREDIT,
            retry_after=wait,
        )
    if status == _TIMED_OUT or status >= 500:
        return ModelFault(
            "model_unavailable", f"The provider answered HTTP {status}: {text}", retryable=True, retry_after=wait
        )
    if 300 <= status < 400:
        text = "it redirects; check base_url"
    code = "model_context_exceeded" if _is_too_long(message, kind) else "model_rejected"
    return ModelFault(code, f"The provider answered HTTP {status}: {text}", retryable=False)


def stream_fault(error: Any, secret: str | None = None) -> ModelFault:
    """The fault for an error object inside a stream: by its numeric code, or by the words of its type and code."""
    message, kind = _error_parts(error)
    text = shorten(message, secret) or "no reason given"
    if kind.isdecimal() and 400 <= int(kind) < 600:
        return status_fault(int(kind), msgspec.json.encode({"message": text}), {}, secret)
    said = f"The provider broke off: {text}"
    if any(word in kind for word in _RATE_WORDS):
        return ModelFault("model_rate_limited", said, retryable=_NO_CREDIT not in kind)
    if any(word in kind for word in _UNAUTHORIZED_WORDS):
        return ModelFault("model_unauthorized", said, retryable=False)
    if _is_too_long(message, kind):
        return ModelFault("model_context_exceeded", said, retryable=False)
    if any(word in kind for word in _REJECTED_WORDS):
        return ModelFault("model_rejected", said, retryable=False)
    return ModelFault("model_unavailable", said, retryable=True)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `Retry-After` (seconds or an HTTP date, RFC 9110 §10.2.3), if there are any."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def shorten(text: str, secret: str | None) -> str:
    """One line of at most MAX_MESSAGE_CHARS characters, without the secret."""
    if secret:
        text = text.replace(secret, "***")
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def _is_too_long(message: str, kind: str) -> bool:
    return any(words in f"{kind} {message.lower()}" for words in _TOO_LONG)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return max(0.0, number) if number is not None and math.isfinite(number) else None


def _explanation(body: bytes) -> tuple[str, str]:
    """The message and the kind that an error body gives; a body that is not JSON is its own message."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace")
        return ("" if text.lstrip().startswith("<") else text), ""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        return _error_parts(value.get("error") or value)
    return _error_parts(value)


def _error_parts(error: Any) -> tuple[str, str]:
    """The message of an error object and what kind it is: its numeric code, or its type and code in lower case."""
    if not isinstance(error, dict):
        return str(error), ""
    message = error.get("message") or error.get("detail") or msgspec.json.encode(error).decode()
    code = error.get("code")
    if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()):
        return str(message), str(code)
    if code == _NO_CREDIT or error.get("type") == _NO_CREDIT:
        return str(message), _NO_CREDIT
    return str(message), f"{error.get('type') or ''} {code or ''}".lower()
