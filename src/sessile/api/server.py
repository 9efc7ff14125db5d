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

from sessile.api.gathered import GatheredWrites
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


_TOO_MANY_BODY = b'{"code":"overloaded","messages":["As many connections are open as may be."],"request_id":""}'
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
) % (len(_TOO_MANY_BODY), _TOO_MANY_BODY)
_SLOWEST_BYTES = 1000
"""Bytes a second that a client sends at least while it sends a body."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself reads a head of any size and waits for clients that send or read nothing."""

    max_connections = 0
    """Most connections; 0: any."""
    patience_seconds = 30.0
    """How long a client may take for a head, and how often it is looked at whether a body gets on."""

    _head_bytes = 0
    _in_head = True
    _advanced = False
    _since = 0.0
    """Since when the rest of a head or of a body is waited for; 0 when nothing is."""
    _received = 0
    """Bytes since then."""
    _unread = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Turn the connection away when there are too many."""
        super().connection_made(transport)
        self.transport = self._gathered = GatheredWrites(transport, self.loop)  # type: ignore[assignment]
        if 0 < self.max_connections < len(self.connections):
            self.transport.write(_TOO_MANY)
            self.transport.close()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Send the end of an answer at once."""
        self._gathered.flush()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close what is idle; an answer that nobody reads would be kept for ever."""
        left = self.transport.get_write_buffer_size()
        if left and left == self._unread:
            self.transport.abort()
        elif left and not self.transport.is_closing():
            self._unread = left
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """Give up on a head that does not end; smaller ones that are too large get their answer from the gate."""
        self._advanced = False
        self._received += len(data)
        super().data_received(data)
        if self._advanced:
            self._head_bytes = 0
        elif self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()
        if self._in_head and not self._head_bytes:
            self._since = 0.0
        elif not self._since:
            self._wait()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers of a chunked body are let go: uvicorn would collect them without end."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head, self._advanced, self._since = False, True, 0.0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next byte belongs to another request."""
        self._in_head = self._advanced = True
        super().on_message_complete()

    def _wait(self) -> None:
        self._since, self._received = self.loop.time(), 0
        if self._timer is None:
            self._timer = self.loop.call_later(self.patience_seconds, self._look)

    def _look(self) -> None:
        """Close a connection on which no head came in time, or too little of a body."""
        self._timer = None
        if not self._since or self.transport.is_closing():
            return
        left = self._since + self.patience_seconds - self.loop.time()
        if left > 0.001:
            self._timer = self.loop.call_later(left, self._look)
        elif not self._in_head and self._gets_on():
            self._wait()
        else:
            self.transport.close()

    def _gets_on(self) -> bool:
        """Whether the body comes; it also does when it is we who do not read."""
        return self.flow.read_paused or self._received >= _SLOWEST_BYTES * self.patience_seconds


def bounded(max_connections: int, patience_seconds: float) -> type[BoundedProtocol]:
    """The protocol with limits of its own; uvicorn makes one for each connection."""
    limits = {"max_connections": max_connections, "patience_seconds": patience_seconds}
    return type("BoundedProtocol", (BoundedProtocol,), limits)


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
        protocol: type[BoundedProtocol] = BoundedProtocol,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=protocol,
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
