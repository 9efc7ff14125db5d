"""A transport without a network: requests go straight to an ASGI application in the same process and event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, Self
from urllib.parse import unquote

from sessile.client.errors import ConnectionLost, RequestTimedOut
from sessile.client.transport import Request, Response

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_WAITING_CHUNKS = 64
"""How far an application may run ahead of whoever reads its answer."""


class InProcess:
    """The Transport to an ASGI application. Closing it ends every exchange that is still open."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._open: set[_Exchange] = set()

    async def send(self, request: Request) -> Response:
        """Hand a request over. A caller that is cancelled takes no request back: the application runs to its end."""
        exchange = _Exchange(self._application, request)
        self._open.add(exchange)
        exchange.task.add_done_callback(lambda _: self._open.discard(exchange))
        try:
            await exchange.started()
        finally:
            if not exchange.status:
                exchange.hang_up()
        return exchange

    async def close(self) -> None:
        """Hang up everywhere and wait until the application has noticed."""
        open_now = list(self._open)
        for exchange in open_now:
            exchange.hang_up()
        await asyncio.gather(*(exchange.task for exchange in open_now), return_exceptions=True)


class _Exchange:
    """One request and its response: the application's side runs as a task, the caller's side reads."""

    def __init__(self, application: Application, request: Request) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._request = request
        self._deadline = None if request.timeout is None else asyncio.get_running_loop().time() + request.timeout
        self._body = _pieces(request)
        self._started = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._chunks = asyncio.Queue[bytes | None](_WAITING_CHUNKS)
        self.task = asyncio.ensure_future(self._run(application))

    async def started(self) -> None:
        """Wait for status and headers. Raises RequestTimedOut, ConnectionLost."""
        with _timing_out():
            async with asyncio.timeout_at(self._deadline):
                await self._started.wait()
        if not self.status:
            raise ConnectionLost

    async def read(self) -> bytes:
        """The whole body. Raises RequestTimedOut."""
        parts = []
        with _timing_out():
            async with asyncio.timeout_at(self._deadline):
                while (chunk := await self._chunks.get()) is not None:
                    parts.append(chunk)
        return b"".join(parts)

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises RequestTimedOut when nothing comes for as long as the request says."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with _timing_out():
            async with asyncio.timeout(self._request.timeout):
                chunk = await self._chunks.get()
        if chunk is None:
            self._chunks.put_nowait(None)
            raise StopAsyncIteration
        return chunk

    async def close(self) -> None:
        """Read no further."""
        self.hang_up()

    def hang_up(self) -> None:
        """Tell the application that nobody listens any more; whatever it waits to send goes nowhere."""
        self._hung_up.set()
        while not self._chunks.empty():
            self._chunks.get_nowait()
        self._chunks.put_nowait(None)

    async def _run(self, application: Application) -> None:
        path, _, query = self._request.path.partition("?")
        headers = {"host": "localhost", **self._request.headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self._request.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }
        try:
            await application(scope, self._receive, self._send)
        finally:
            self._started.set()
            await self._put(None)

    async def _receive(self) -> Message:
        if (message := await anext(self._body, None)) is not None:
            return message
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            self._started.set()
        elif body := message.get("body"):
            await self._put(body)

    async def _put(self, chunk: bytes | None) -> None:
        if not self._hung_up.is_set():
            await self._chunks.put(chunk)


async def _pieces(request: Request) -> AsyncIterator[Message]:
    """The body as an application receives it."""
    if callable(request.body):
        async for piece in request.body():
            yield {"type": "http.request", "body": piece, "more_body": True}
        yield {"type": "http.request", "body": b""}
    else:
        yield {"type": "http.request", "body": request.body or b""}


@contextlib.contextmanager
def _timing_out() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise RequestTimedOut from None
