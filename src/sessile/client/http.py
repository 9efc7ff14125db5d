"""The transport over HTTP. It never follows a redirect: the API key must not go anywhere else."""

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import warnings
import weakref
from collections.abc import AsyncIterator, Iterator
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from sessile.client.errors import ConnectionLost, RequestTimedOut, ServerUnreachable, UnexpectedAnswer
from sessile.client.transport import Request

CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""The largest page of events that a server is expected to send is smaller."""
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A synchronous answer may take as long as its turn: after two silent minutes the kernel tells if the peer is gone."""
_VISIBLE = re.compile(r"[!-~]+")


class HttpTransport:
    """A Sessile server at a URL, over any number of kept connections.

    Proxies are taken from the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`), but never for a loopback address.
    It belongs to the event loop of its first request. Raises ValueError for a URL that cannot be one of a server.
    """

    def __init__(self, url: str) -> None:
        parts = _checked(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._proxy = _proxy(parts)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forgotten: weakref.finalize[..., HttpTransport] | None = None

    def __repr__(self) -> str:
        return f"HttpTransport({self.url!r})"

    async def send(self, request: Request) -> "HttpResponse":
        """Send a request, as the Transport port says."""
        loop = asyncio.get_running_loop()
        deadline = None if request.timeout is None else loop.time() + request.timeout
        with _translated(self.url):
            async with asyncio.timeout_at(deadline):
                response = await self._opened().request(
                    request.method,
                    URL(self.url + request.path, encoded=True),
                    data=request.body() if callable(request.body) else request.body,
                    headers={"User-Agent": "sessile-python", "Accept-Encoding": "identity", **request.headers},
                    proxy=self._proxy,
                    allow_redirects=False,
                )
        return HttpResponse(response, self.url, request.timeout, deadline)

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            if self._forgotten is not None:
                self._forgotten.detach()
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
            )
            # aiohttp sends GET, PUT and DELETE a second time by itself; here the client alone decides on that.
            self._session._retry_connection = False
            self._forgotten = weakref.finalize(self, _forget, self._session, loop)
        elif self._loop is not loop:
            raise RuntimeError("This client belongs to another event loop; make one for each loop.")
        return self._session


class HttpResponse:
    """The answer to one request."""

    def __init__(
        self, response: aiohttp.ClientResponse, url: str, silence: float | None, deadline: float | None
    ) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._url = url
        self._silence = silence
        self._deadline = deadline

    async def read(self) -> bytes:
        """The whole body, as the Response port says."""
        body = bytearray()
        with _translated(self._url):
            async with asyncio.timeout_at(self._deadline):
                async for data in self._response.content.iter_any():
                    body += data
                    if len(body) > MAX_ANSWER_BYTES:
                        raise UnexpectedAnswer(f"The answer is larger than {MAX_ANSWER_BYTES} bytes.")
        return bytes(body)

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        return _Chunks(self._response, self._url, self._silence)

    async def close(self) -> None:
        """Read no further; a connection with something left on it cannot be used again."""
        self._response.close()


class _Chunks:
    """Not a generator: that would be over when a caller who waits for the next chunk is cancelled."""

    def __init__(self, response: aiohttp.ClientResponse, url: str, silence: float | None) -> None:
        self._response = response
        self._url = url
        self._silence = silence

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> bytes:
        with _translated(self._url):
            async with asyncio.timeout(self._silence):
                data = await self._response.content.readany()
        if not data:
            raise StopAsyncIteration
        return data


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Foreign errors as ours. Which of them are raised before anything was sent is aiohttp's word."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
        raise ServerUnreachable(f"No Sessile server answers at {url}: {_reason(error)}.") from error
    except TimeoutError as error:
        raise RequestTimedOut from error
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLost from error


def _reason(error: aiohttp.ClientError | aiohttp.ConnectionTimeoutError) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} seconds"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused with status {error.status}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    cause = error.os_error
    words = os.strerror(cause.errno) if cause.errno is not None and cause.errno > 0 else cause.strerror or str(cause)
    kind = "the proxy cannot be reached: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
    return kind + words[:1].lower() + words[1:]


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not _VISIBLE.fullmatch(url):
        raise ValueError(f"{url!r} is not the URL of a server, such as http://127.0.0.1:8700.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("The URL of a server holds no user name or password; give the API key by itself.")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the URL of a server: it has a query or a fragment.")
    return parts


def _proxy(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if _is_loopback(host) or proxy_bypass(host):
        return None
    proxy = getproxies().get(parts.scheme)
    if proxy is not None and urlsplit(proxy).scheme not in ("http", "https"):
        raise ValueError("The proxy of the environment is neither an http:// nor an https:// one.")
    return proxy


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices when its peer went away without a word."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _forget(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Close what nobody closed, without the noise that aiohttp would make of it."""
    warnings.warn("A Sessile client was not closed.", ResourceWarning, stacklevel=2)
    closing = session.close()
    try:
        loop.call_soon_threadsafe(loop.create_task, closing)
    except RuntimeError:  # The loop is closed, its connections with it: nothing is left to wait for.
        with contextlib.suppress(StopIteration):
            for _ in range(100):
                closing.send(None)
