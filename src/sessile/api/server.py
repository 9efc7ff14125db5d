"""The HTTP server: uvicorn with our limits, our start message and our way to stop."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sessile.config import ConfigError
from sessile.wire.limits import MAX_HEADER_BYTES, MAX_URL_BYTES

_GRACE_SECONDS = 1
"""What streams get after the drain, to say goodbye."""
_MAX_HEAD_BYTES = 2 * (MAX_HEADER_BYTES + MAX_URL_BYTES)
_HEAD_TOO_LARGE_BODY = b'{"code":"headers_too_large","messages":["The request head does not end."],"request_id":""}'
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
) % (len(_HEAD_TOO_LARGE_BODY), _HEAD_TOO_LARGE_BODY)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself reads a request head of any size into memory."""

    _head_bytes = 0
    _in_head = True
    _advanced = False

    def data_received(self, data: bytes) -> None:
        """Give up on a head that does not end; smaller ones that are too large get their answer from the gate."""
        self._advanced = False
        super().data_received(data)
        if self._advanced:
            self._head_bytes = 0
        elif self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers of a chunked body are let go: uvicorn would collect them without end."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head, self._advanced = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next byte belongs to another request."""
        self._in_head = self._advanced = True
        super().on_message_complete()


class HttpServer(uvicorn.Server):
    """Listens, says so, and drains at the signal itself.

    uvicorn's own shutdown first waits for open streams, and those wait for their turns: so the turns end first.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        drain: Callable[[], Coroutine[Any, Any, None]],
        drain_seconds: float,
        on_ready: Callable[[str], None],
        sockets: list[socket.socket] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                access_log=False,
                proxy_headers=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(drain_seconds) + _GRACE_SECONDS,
            )
        )
        self._drain = drain
        self._on_ready = on_ready
        self._sockets = sockets
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where. Raises ConfigError for an address that cannot be had."""
        await super().startup(self._sockets or await listen(self.config.host, self.config.port))
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals on the event loop, and let a clean stop be a clean exit."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Start the drain and the shutdown; a second time, stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of the host. Raises ConfigError; uvicorn by itself ends the process then."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [socket.create_server(address[:2], family=family) for family, _, _, _, address in dict.fromkeys(found)]
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
