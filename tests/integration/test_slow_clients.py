"""Connections that cost without asking: a head or a body that does not come, an answer that nobody reads, too many."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from sessile.api.server import BoundedProtocol, bounded

PATIENCE = 0.1
DEADLINE = 20.0
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"


class Listening:
    """A port with the protocol of the server, and an application that reads bodies and answers with `answer`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answer = b"ok"
        self.read = asyncio.Event()
        self.read.set()
        self.bodies: list[int] = []
        self.protocols: list[BoundedProtocol] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            await self.read.wait()
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.bodies.append(size)
        await Response(self.answer)(scope, receive, send)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def listening(max_connections: int = 0, patience: float = PATIENCE) -> AsyncIterator[Listening]:
    made = Listening(0)
    kind = bounded(max_connections, patience)
    config = uvicorn.Config(
        made.app, http=kind, interface="asgi3", lifespan="off", log_config=None, timeout_keep_alive=1
    )
    config.load()
    state = ServerState()

    def protocol() -> Any:
        made.protocols.append(kind(config, state, {}))  # type: ignore[no-untyped-call]
        return made.protocols[-1]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for one in made.protocols:
            if one.transport is not None:
                one.transport.abort()
        await asyncio.sleep(0)


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE):
        return await reader.read()


async def test_a_head_that_never_comes_or_never_ends_is_given_up() -> None:
    async with listening() as port:
        for sent in (b"", b"GET / HTTP/1.1\r\nhost:"):
            reader, writer = await port.connect()
            writer.write(sent)
            assert await answer(reader) == b""
            writer.close()


async def test_a_second_head_that_never_ends_is_given_up() -> None:
    async with listening() as port:
        reader, writer = await port.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"ok")
        await asyncio.sleep(1.5 * PATIENCE)  # nothing is waited for in between
        writer.write(b"GET / HTTP/1.1\r\nhost:")
        assert await answer(reader) == b""
        writer.close()


async def test_a_body_that_stops_is_given_up_and_one_that_is_slow_is_not() -> None:
    async with listening() as port:
        reader, writer = await port.connect()
        writer.write(HEAD + b"x" * 10)
        assert await answer(reader) == b""
        writer.close()
        reader, writer = await port.connect()
        writer.write(HEAD)
        for _ in range(10):
            await asyncio.sleep(PATIENCE / 2)
            writer.write(b"x" * 10_000)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert port.bodies[-1] == 100_000
        writer.close()


async def test_a_body_that_we_do_not_read_is_waited_for() -> None:
    async with listening() as port:
        port.read.clear()
        reader, writer = await port.connect()
        writer.write(HEAD + b"x" * 100_000)
        await asyncio.sleep(5 * PATIENCE)
        assert port.protocols[0].flow.read_paused
        port.read.set()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_an_answer_that_nobody_reads_is_not_kept() -> None:
    async with listening(patience=DEADLINE) as port:
        port.answer = b"x" * 32 * 1024 * 1024
        _, writer = await port.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            while not port.bodies or port.protocols[0].connections:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert port.protocols[0].transport.get_write_buffer_size() == 0
        writer.transport.abort()


async def test_connections_beyond_the_limit_are_told_and_closed() -> None:
    async with listening(max_connections=2, patience=DEADLINE) as port:
        held = [await port.connect() for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        for reader, _ in held:
            await reader.readuntil(b"ok")
        reader, writer = await port.connect()
        told = await answer(reader)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in told
        assert b"retry-after: 1" in told
        writer.close()
        held[0][1].close()
        async with asyncio.timeout(DEADLINE):
            while len(port.protocols[0].connections) > 1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        reader, writer = await port.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"ok")
        for one in (writer, held[1][1]):
            one.close()
