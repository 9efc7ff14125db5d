"""One guarded HTTP request with its redirects, within limits of size and time. What goes wrong is a ToolFault."""

import asyncio
import contextlib
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping

import aiohttp
from msgspec import Struct
from yarl import URL

from sessile.domain import overrides
from sessile.ports import ToolFault
from sessile.tools.guard import Guard, Refused, refusal

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 64 * 1024
_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Request(Struct, frozen=True, kw_only=True):
    """What to send. `private` headers and the body go to the first origin only.

    A redirect elsewhere loses these headers; one that asks for the body there is not followed.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = {}
    private: Mapping[str, str] = {}
    body: bytes | None = None
    follow_redirects: bool = True
    verify: bool = True
    max_bytes: int
    seconds: float


class Fetched(Struct, frozen=True, kw_only=True):
    """What came back. `truncated`: there was more than `max_bytes`, counted after decompression."""

    url: str
    status: int
    media_type: str
    charset: str | None
    location: str | None
    body: bytes
    truncated: bool


async def fetch(guard: Guard, request: Request) -> Fetched:
    """Send a request. Raises ToolFault: `tool_address_refused`, `tool_unreachable`, `tool_timeout`."""
    try:
        async with asyncio.timeout(request.seconds), guard.session() as session:
            return await _follow(guard, session, request)
    except TimeoutError:
        raise ToolFault("tool_timeout", f"There was no answer within {request.seconds:g} seconds.") from None
    except Refused as error:
        raise ToolFault("tool_address_refused", str(error)) from None
    except (aiohttp.ClientError, OSError, ValueError, ssl.SSLError) as error:
        if (refused := refusal(error)) is not None:
            raise ToolFault("tool_address_refused", str(refused)) from None
        raise ToolFault("tool_unreachable", _described(error)) from None


async def _follow(guard: Guard, session: aiohttp.ClientSession, request: Request) -> Fetched:
    url, method, body = guard.url(request.url), request.method, request.body
    headers = {**request.headers, **request.private}
    for _ in range(MAX_REDIRECTS + 1):
        async with _sent(session, method, url, headers, body, request.verify) as response:
            location = response.headers.get("location") if response.status in _REDIRECTS else None
            if location is None or not request.follow_redirects:
                return await _read(response, url, location, request.max_bytes)
            target = guard.url(str(url.join(URL(location))))
            if response.status == 303 or (response.status in (301, 302) and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), None
                headers.pop("content-type", None)
            if target.origin() != url.origin():
                if body is not None:
                    return await _read(response, url, location, request.max_bytes)
                headers = {name: request.headers[name] for name in headers if name in request.headers}
        url = target
    raise ToolFault("tool_unreachable", f"There were more than {MAX_REDIRECTS} redirects.")


@contextlib.asynccontextmanager
async def _sent(
    session: aiohttp.ClientSession, method: str, url: URL, headers: dict[str, str], body: bytes | None, verify: bool
) -> AsyncIterator[aiohttp.ClientResponse]:
    sent = {"accept-encoding": "gzip, deflate", **headers}
    async with session.request(
        method, url, headers=sent, data=body, allow_redirects=False, ssl=verify, max_line_size=16384
    ) as response:
        yield response


async def _read(response: aiohttp.ClientResponse, url: URL, location: str | None, max_bytes: int) -> Fetched:
    body, truncated = bytearray(), False
    if response.method != "HEAD":
        async for piece in _decompressed(response, max_bytes + 1):
            body += piece
            if len(body) > max_bytes:
                truncated = True
                break
    return Fetched(
        url=str(url),
        status=response.status,
        media_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        charset=response.charset,
        location=location,
        body=bytes(body[:max_bytes]),
        truncated=truncated,
    )


async def _decompressed(response: aiohttp.ClientResponse, limit: int) -> AsyncIterator[bytes]:
    """The body piece by piece, none larger than `limit` bytes, however much it was compressed."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        async for chunk in response.content.iter_chunked(_CHUNK):
            yield chunk
        return
    if encoding not in _WBITS:
        raise ToolFault("tool_unreachable", f"The answer is encoded as {encoding[:50]!r}, which was not asked for.")
    inflater = zlib.decompressobj(_WBITS[encoding])
    async for chunk in response.content.iter_chunked(_CHUNK):
        try:
            yield inflater.decompress(chunk, limit)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, limit)
        except zlib.error as error:
            raise ToolFault("tool_unreachable", f"The answer cannot be decompressed: {error}.") from None


def _described(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return f"The request failed: {overrides.masked_now(text)[:300]}"
