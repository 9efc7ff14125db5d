"""One call: from a method, a path and a document to an answer or an error, repeated where that is safe."""

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct, field, structs

from sessile.client.errors import ConnectionLost, RequestTimedOut, ServerUnreachable, UnexpectedAnswer, fault
from sessile.client.transport import Request, Response, Transport
from sessile.client.uploads import Upload
from sessile.wire import ids
from sessile.wire.errors import (
    Draining,
    InvalidParameter,
    Overloaded,
    SessileError,
    StorageUnavailable,
    Unavailable,
)
from sessile.wire.limits import MAX_IDEMPOTENCY_KEY_CHARS

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.25
MAX_WAIT_SECONDS = 30.0
"""A server that asks for a longer pause gets none: the call fails at once."""
STREAM_SILENCE_SECONDS = 60.0
"""A server sends something every ten seconds; after this silence it is taken for gone."""
SLOWEST_BYTES = 100_000
"""Bytes a second that a connection takes at least: so much longer may it take to send files."""
_SEGMENT = re.compile(r"[0-9A-Za-z_-]+")
_ROUND_TRIP_SECONDS = 30.0
_REDIRECTS = range(300, 400)
_KEY_HEADER = "idempotency-key"
_KEY = re.compile(ids.IDEMPOTENCY_KEY_PATTERN)


class Patience:
    """How many seconds a server shall wait for a turn: what is left of them, however often the request is sent."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._ends: float | None = None

    def of(self, request: Request) -> Request:
        """The request with its time limit as of now. Raises InvalidParameter."""
        seconds = self._seconds
        if seconds is None:
            return request
        if not seconds > 0 or math.isinf(seconds):
            raise InvalidParameter(
                "timeout: must be a number of seconds above 0.", field_errors={"timeout": "Must be > 0."}
            )
        now = asyncio.get_running_loop().time()
        if self._ends is None:
            self._ends = now + seconds
        else:
            seconds = self._ends - now
        headers = {**request.headers, "request-timeout-millis": str(max(1, math.ceil(seconds * 1000)))}
        return structs.replace(request, headers=headers)


class Reply(Struct, frozen=True):
    """A complete answer that is no error."""

    headers: Mapping[str, str]
    body: bytes


class _ErrorBody(Struct):
    code: str
    messages: list[str] = field(default_factory=list)
    request_id: str = ""
    field_errors: dict[str, str] | None = None
    id: str | None = None


class _Failure(Exception):
    """An attempt that failed, and what the server asked for as a pause."""

    def __init__(self, error: SessileError, pause: float = 0.0) -> None:
        self.error = error
        self.pause = pause


class Caller:
    """Makes calls over a transport.

    `timeout` bounds a call with all its repetitions, in seconds; None: nothing does. A call is repeated at most
    `retries` times, after 0.25, 0.5, 1 … seconds (somewhat less, at random) or when the server says.
    """

    def __init__(
        self,
        transport: Transport,
        api_key: str | None,
        *,
        timeout: float | None,
        retries: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._headers = {} if api_key is None else {"x-api-key": api_key}
        self._timeout = timeout
        self.retries = retries
        self._sleep = sleep
        self._chance = chance
        self._closed = False

    async def whole(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        document: object = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
    ) -> Reply:
        """Call, and read the whole answer within the time limit of the client. Raises SessileError."""
        request = self._request(method, path, query, document, headers)
        return await self._whole(request, self._timeout, retries)

    async def download(self, path: str, media: str) -> bytes:
        """Read a whole answer of another media type than JSON."""
        request = self._request("GET", path, None, None, {"accept": media})
        return (await self._whole(request, self._timeout, media=media)).body

    async def upload(
        self, path: str, body: bytes, media: str, query: Mapping[str, object], headers: Mapping[str, str]
    ) -> Reply:
        """Post a body of another media type than JSON."""
        request = self._request("POST", path, query, None, {**headers, "content-type": media})
        return await self._whole(structs.replace(request, body=body), self._timeout)

    async def turn(self, path: str, document: object, seconds: float | None, headers: Mapping[str, str]) -> Reply:
        """Post an input and wait for its turn: for as long as it takes, or for some seconds."""
        request = self._request("POST", path, None, document, headers)
        sending = document.size / SLOWEST_BYTES if isinstance(document, Upload) else 0
        bound = None if seconds is None else seconds + (self._timeout or _ROUND_TRIP_SECONDS) + sending
        return await self._whole(request, bound, None, Patience(seconds))

    async def stream(
        self, path: str, document: object, patience: Patience | None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Post an input and return the open answer, whose body is an event stream. The caller closes it."""
        headers = {**(headers or {}), "accept": "text/event-stream"}
        request = self._request("POST", path, None, document, headers)
        sending = document.size / SLOWEST_BYTES if isinstance(document, Upload) else 0
        request = structs.replace(request, timeout=STREAM_SILENCE_SECONDS + sending)

        def attempt() -> Awaitable[Response]:
            return self._attempt_stream(patience.of(request) if patience else request)

        return await self._repeat(request, attempt, math.inf, self.retries)

    async def open(self, path: str, media: str) -> Response:
        """Ask for bytes of a media type and return the open answer. The caller closes it."""
        request = self._request("GET", path, None, None, {"accept": media})
        request = structs.replace(request, timeout=STREAM_SILENCE_SECONDS)
        return await self._repeat(request, lambda: self._attempt_stream(request, media), math.inf, self.retries)

    async def pause(self, times: int) -> None:
        """Wait before something is tried again for the first, second … time."""
        await self.back_off(FIRST_WAIT_SECONDS * 2 ** (times - 1))

    async def follow(self, path: str, query: Mapping[str, object], since: str, *, first: bool) -> Response:
        """Open a stream that follows a session, and return it open. The caller closes it.

        Only the first attempt is repeated here: whoever has lost a stream decides on the pauses.
        """
        place = {} if first else {"last-event-id": since}
        request = self._request(
            "GET", path, {**query, "since": since if first else None}, None, {"accept": "text/event-stream", **place}
        )
        request = structs.replace(request, timeout=STREAM_SILENCE_SECONDS)
        retries = self.retries if first else 0
        return await self._repeat(request, lambda: self._attempt_stream(request), math.inf, retries)

    async def back_off(self, seconds: float) -> None:
        """Wait about so long: somewhat less, at random, so that not all clients of a server come back at once."""
        await self._sleep(seconds * (0.5 + self._chance() / 2))

    async def close(self) -> None:
        """Close the transport; further calls raise RuntimeError."""
        self._closed = True
        await self._transport.close()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        document: object,
        headers: Mapping[str, str] | None,
    ) -> Request:
        if self._closed:
            raise RuntimeError("The client is closed.")
        sent = {"accept": "application/json", "x-request-id": ids.request_id(), **self._headers, **(headers or {})}
        body: bytes | Callable[[], AsyncIterator[bytes]] | None = None
        if isinstance(document, Upload):
            sent["content-type"] = document.content_type
            body = document.body
        elif document is not None:
            sent["content-type"] = "application/json"
            body = msgspec.json.encode(document)
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        if given:
            path += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items())
        return Request(method=method, path=path, headers=sent, body=body)

    async def _whole(
        self,
        request: Request,
        seconds: float | None,
        retries: int | None = None,
        patience: Patience | None = None,
        media: str = "application/json",
    ) -> Reply:
        now = asyncio.get_running_loop().time
        deadline = math.inf if seconds is None else now() + seconds

        def attempt() -> Awaitable[Reply]:
            left = None if seconds is None else max(deadline - now(), 0.001)
            sent = patience.of(request) if patience else request
            return self._attempt_whole(structs.replace(sent, timeout=left), media)

        return await self._repeat(request, attempt, deadline, self.retries if retries is None else retries)

    async def _repeat(self, request: Request, attempt: Callable[[], Awaitable[T]], deadline: float, retries: int) -> T:
        keyed = _KEY_HEADER in request.headers
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                return await attempt()
            except _Failure as failure:
                error = failure.error
                pause = max(wait * (0.5 + self._chance() / 2), failure.pause)
                late = asyncio.get_running_loop().time() + pause >= deadline
                if retries <= 0 or late or pause > MAX_WAIT_SECONDS or not may_repeat(request.method, error, keyed):
                    raise error from error.__cause__
            retries -= 1
            wait *= 2
            await self._sleep(pause)

    async def _attempt_whole(self, request: Request, media: str) -> Reply:
        response = await self._send(request)
        try:
            body = await _read(response, request)
        finally:
            await response.close()
        if response.status not in range(200, 300):
            raise _failure(response, body, request)
        if body and not _is(response, media):
            raise _Failure(_unexpected(response, request))
        return Reply(response.headers, body)

    async def _attempt_stream(self, request: Request, media: str = "text/event-stream") -> Response:
        response = await self._send(request)
        opened = False
        try:
            if response.status not in range(200, 300):
                raise _failure(response, await _read(response, request), request)
            if not _is(response, media):
                raise _Failure(_unexpected(response, request))
            opened = True
        finally:
            if not opened:
                await response.close()
        return response

    async def _send(self, request: Request) -> Response:
        try:
            return await self._transport.send(request)
        except (ServerUnreachable, ConnectionLost, RequestTimedOut) as error:
            raise _Failure(_named(error, request)) from None


def may_pass(error: SessileError) -> bool:
    """Whether the server, or what stands before it, may answer later."""
    away = isinstance(error, ServerUnreachable | ConnectionLost | RequestTimedOut | Unavailable)
    return away or error.status in (429, 502, 503, 504)


def may_repeat(method: str, error: SessileError, keyed: bool = False) -> bool:
    """Whether a call that failed like this may be made again.

    Yes, when it cannot have happened: no connection was made, the server says that it stored nothing, or it limits the
    rate. A GET, and a call with an idempotency key, also when its answer was lost or a proxy failed. Never otherwise: a
    call may not be made twice.
    """
    if isinstance(error, ServerUnreachable | StorageUnavailable | Draining | Overloaded) or error.status == 429:
        return True
    return (method == "GET" or keyed) and (isinstance(error, ConnectionLost) or error.status in (502, 503, 504))


def once(idempotency_key: str | None) -> dict[str, str]:
    """The header that makes a call safe to repeat: with a key of the caller's own, or a new one."""
    if idempotency_key is None:
        return {_KEY_HEADER: ids.idempotency_key()}
    if not _KEY.fullmatch(idempotency_key):
        reason = f"Must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters."
        raise InvalidParameter(f"idempotency_key: {reason}", field_errors={"idempotency_key": reason})
    return {_KEY_HEADER: idempotency_key}


def path(template: str, **keys: str) -> str:
    """A path with keys and ids put in. Raises InvalidParameter for what cannot be one: it might name another path."""
    for name, key in keys.items():
        if not _SEGMENT.fullmatch(key):
            raise InvalidParameter(
                f"{name}: {key[:100]!r} is not one: it may hold 0-9, a-z, A-Z, _ and - only.",
                field_errors={name: "Only 0-9, a-z, A-Z, _ and - are allowed."},
            )
    return template.format_map(keys)


async def _read(response: Response, request: Request) -> bytes:
    try:
        return await response.read()
    except (ConnectionLost, RequestTimedOut, UnexpectedAnswer) as error:
        raise _Failure(_named(error, request)) from None


def _named(error: SessileError, request: Request) -> SessileError:
    error.request_id = request.headers["x-request-id"]
    return error


def _failure(response: Response, body: bytes, request: Request) -> _Failure:
    try:
        told = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Failure(_unexpected(response, request), _pause(response))
    error = fault(
        told.code,
        " ".join(told.messages),
        status=response.status,
        request_id=told.request_id or response.headers.get("x-request-id") or request.headers["x-request-id"],
        field_errors=told.field_errors,
        id=told.id,
    )
    error.retry_after = math.ceil(_pause(response)) or None
    return _Failure(error, _pause(response))


def _unexpected(response: Response, request: Request) -> SessileError:
    kind = response.headers.get("content-type", "no content type").partition(";")[0].strip()[:100]
    text = f"The answer has status {response.status} and is {kind or 'empty'}, not what a Sessile server sends."
    if response.status in _REDIRECTS and (target := response.headers.get("location")):
        text = f"The server redirects to {target[:200]!r}; redirects are not followed, so give that URL to the client."
    error = _named(UnexpectedAnswer(text), request)
    error.status = response.status
    return error


def _is(response: Response, media: str) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == media


def _pause(response: Response) -> float:
    """Seconds of a Retry-After; a date, which only proxies send, counts as none."""
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
