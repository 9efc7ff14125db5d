"""The tool `web_get`: a page of the web for a model, as text, from addresses that the server's configuration allows."""

import asyncio
import codecs
import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from sessile.ports import ToolContext, ToolFault
from sessile.tools.fetch import Fetched, Request, fetch
from sessile.tools.guard import Guard
from sessile.tools.markup import to_text
from sessile.tools.oauth import AccessTokens
from sessile.wire import codec
from sessile.wire.limits import (
    MAX_TOOL_ARGUMENT_BYTES,
    MAX_WEB_GET_BYTES,
    MAX_WEB_GET_HEADERS,
    MAX_WEB_GET_SECONDS,
)
from sessile.wire.tool_configurations import (
    WebGetAuth,
    WebGetBearerAuth,
    WebGetHeaderAuth,
    WebGetNoAuth,
)

DEFAULT_BYTES = 128 * 1024
DEFAULT_SECONDS = 30
USER_AGENT = "Sessile-web_get/1"
_MAX_HEADER_CHARS = 4_096
_MAX_RESULT_BYTES = 900 * 1024
_ONLY_FIXED = frozenset({"auth", "ssl_verify"})
"""Arguments that an agent may fix and a model may not choose."""
_NOT_OURS = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
"""Headers that belong to the connection, not to whoever asks for a page."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_HEADER_VALUE = re.compile(r"[\t -~\u0080-\u00ff]*")
_TEXTS = re.compile(r"text/.*|application/(.*\+)?(json|xml|yaml|x-yaml|toml|javascript|x-www-form-urlencoded|x-ndjson)")
_PAGES = ("text/html", "application/xhtml+xml")
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape"})
"""Text codecs of Python that are no charsets of pages. What some of them do with a long text takes minutes."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "description": "The address, starting with http:// or https://"},
        "method": {
            "type": "string",
            "enum": ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"],
            "description": "The HTTP method; GET by default",
        },
        "headers": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Headers to send besides the usual ones",
        },
        "body": {"type": "string", "description": "The body of a POST, PUT or PATCH"},
        "follow_redirects": {"type": "boolean", "description": "Whether to follow redirects; true by default"},
        "timeout_seconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_WEB_GET_SECONDS,
            "description": f"How long to wait; {DEFAULT_SECONDS} by default",
        },
        "head_lines": {"type": "integer", "minimum": 0, "description": "Only so many lines from the start"},
        "tail_lines": {"type": "integer", "minimum": 0, "description": "Only so many lines from the end"},
        "max_content_bytes": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_WEB_GET_BYTES,
            "description": f"How many bytes to read at most; {DEFAULT_BYTES} by default",
        },
    },
    "required": ["url"],
    "additionalProperties": False,
}


class _Arguments(Struct, forbid_unknown_fields=True):
    url: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] = "GET"
    headers: dict[str, str] = {}
    body: str | None = None
    follow_redirects: bool = True
    timeout_seconds: int = DEFAULT_SECONDS
    head_lines: int | None = None
    tail_lines: int | None = None
    ssl_verify: bool = True
    max_content_bytes: int = DEFAULT_BYTES
    auth: WebGetAuth | UnsetType = UNSET


class WebGetTool:
    """A Tool that sends one HTTP request and gives the answer as text."""

    name = "web_get"
    description = "Fetch an address of the web and read the answer as text. HTML is reduced to its text."
    parameters = _SCHEMA
    idempotent = False

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._tokens = AccessTokens(guard)

    async def run(self, arguments: dict[str, Any], context: ToolContext | None = None) -> dict[str, Any]:
        """Fetch. An answer with any HTTP status is a result.

        Raises ToolFault: `tool_arguments_invalid`, `tool_address_refused`, `tool_unreachable`, `tool_timeout`.
        """
        wanted = _read(arguments, context.fixed if context else frozenset())
        fixed = context is not None and "headers" in context.fixed
        secret = {name.lower(): value for name, value in wanted.headers.items() if fixed or _is_private(name)}
        private = secret | await self._authorization(wanted)
        request = Request(
            url=wanted.url,
            method=wanted.method,
            headers={"user-agent": USER_AGENT, "accept": "text/html, application/json, text/*, */*;q=0.5"}
            | {name.lower(): value for name, value in wanted.headers.items() if not (fixed or _is_private(name))},
            private=private,
            body=wanted.body.encode() if wanted.body is not None else None,
            follow_redirects=wanted.follow_redirects,
            verify=wanted.ssl_verify,
            max_bytes=wanted.max_content_bytes,
            seconds=wanted.timeout_seconds,
        )
        fetched = await fetch(self._guard, request)
        if fetched.url == str(self._guard.url(wanted.url)):  # as it was given: a secret is masked as it was given
            fetched = replace(fetched, url=wanted.url)
        return await asyncio.to_thread(_result, fetched, wanted.head_lines, wanted.tail_lines)

    async def _authorization(self, wanted: _Arguments) -> dict[str, str]:
        match wanted.auth:
            case WebGetBearerAuth(token=token):
                headers = {"authorization": f"Bearer {token}"}
            case WebGetHeaderAuth(header=header, value=value):
                headers = {header.lower(): str(value)}
            case _ if wanted.auth is UNSET or isinstance(wanted.auth, WebGetNoAuth):
                return {}
            case grant:
                token = await self._tokens.token(grant, wanted.timeout_seconds)
                headers = {"authorization": f"Bearer {token}"}
        _check_headers(headers)
        return headers


def _read(arguments: dict[str, Any], fixed: frozenset[str]) -> _Arguments:
    """The arguments, checked. Raises ToolFault."""
    if chosen := sorted(_ONLY_FIXED & arguments.keys() - fixed):
        raise ToolFault("tool_arguments_invalid", f"{chosen[0]}: Unknown field.")
    try:
        wanted = msgspec.convert(arguments, _Arguments)
    except msgspec.ValidationError as error:
        raise ToolFault("tool_arguments_invalid", codec.invalid_field(str(error)).message[:1000]) from None
    for name, value, most in (
        ("timeout_seconds", wanted.timeout_seconds, MAX_WEB_GET_SECONDS),
        ("max_content_bytes", wanted.max_content_bytes, MAX_WEB_GET_BYTES),
    ):
        if not 1 <= value <= most:
            raise ToolFault("tool_arguments_invalid", f"{name}: must be 1 to {most}.")
    for name, lines in (("head_lines", wanted.head_lines), ("tail_lines", wanted.tail_lines)):
        if lines is not None and lines < 0:
            raise ToolFault("tool_arguments_invalid", f"{name}: must not be negative.")
    if wanted.body is not None and len(wanted.body) > MAX_TOOL_ARGUMENT_BYTES:
        raise ToolFault("tool_arguments_invalid", f"body: longer than {MAX_TOOL_ARGUMENT_BYTES} characters.")
    _check_headers(wanted.headers)
    return wanted


def _check_headers(headers: dict[str, str]) -> None:
    if len(headers) > MAX_WEB_GET_HEADERS:
        raise ToolFault("tool_arguments_invalid", f"headers: more than {MAX_WEB_GET_HEADERS}.")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _NOT_OURS:
            raise ToolFault("tool_arguments_invalid", f"headers: {name[:100]!r} cannot be sent.")
        if len(value) > _MAX_HEADER_CHARS or not _HEADER_VALUE.fullmatch(value):
            raise ToolFault("tool_arguments_invalid", f"headers: the value of {name[:100]!r} cannot be sent.")


def _is_private(name: str) -> bool:
    """Whether a header may hold what only its first recipient shall know: all but a few harmless ones."""
    return name.lower() not in ("accept", "accept-language", "content-type", "user-agent")


def _result(fetched: Fetched, head: int | None, tail: int | None) -> dict[str, Any]:
    """The result for the model. It takes a while for a large page."""
    result: dict[str, Any] = {
        "url": fetched.url,
        "status": fetched.status,
        "content_type": _cleaned(fetched.media_type),
    }
    if fetched.location is not None:
        result["location"] = _cleaned(fetched.location[:2000])
    text = _text(fetched)
    if text is None:
        return result | {
            "bytes": len(fetched.body),
            "remark": "The content is no text.",
            "truncated": fetched.truncated,
        }
    if fetched.media_type in _PAGES:
        title, text = to_text(text)
        if title:
            result["title"] = _cleaned(title[:500])
    text, left_out = _lines(_cleaned(text), head, tail)
    if left_out:
        result["left_out_lines"] = left_out
    shown = _shortened(text)
    return result | {"content": shown, "truncated": fetched.truncated or len(shown) < len(text)}


def _text(fetched: Fetched) -> str | None:
    """The body as text, or None when it is something else."""
    if not fetched.media_type:
        try:
            return fetched.body.decode()
        except UnicodeDecodeError:
            return None
    if not _TEXTS.fullmatch(fetched.media_type):
        return None
    charset = fetched.charset or "utf-8"
    try:
        if codecs.lookup(charset).name in _NO_CHARSETS:
            charset = "utf-8"
        return fetched.body.decode(charset, "replace")
    except (LookupError, ValueError):
        return fetched.body.decode("utf-8", "replace")


def _cleaned(text: str) -> str:
    """Text without characters that no log can hold."""
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n")).encode("utf-8", "replace").decode()


def _lines(text: str, head: int | None, tail: int | None) -> tuple[str, int]:
    """The lines that are wanted, and how many were left out."""
    if head is None and tail is None:
        return text, 0
    lines = text.split("\n")
    first, last = head or 0, tail or 0
    if first + last >= len(lines):
        return text, 0
    kept = [*lines[:first], *(lines[len(lines) - last :] if last else [])]
    return "\n".join(kept), len(lines) - len(kept)


def _shortened(text: str) -> str:
    """As much of the text as a result may hold."""
    while (size := len(codec.encode(text))) > _MAX_RESULT_BYTES:
        text = text[: len(text) * _MAX_RESULT_BYTES // size]
    return text
