"""A proxy before a PostgreSQL server that loses connections: when a COMMIT is on its way, or all of them at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The message in which a client asks for a commit."""

Loss = Literal["commit", "answer", "late"]
"""What gets lost: the COMMIT; the answer to it; or the client, while the COMMIT arrives later."""

Cut = Literal["silence", "reset"]
"""How a way is cut: nothing arrives any more, and nobody is told; or every connection is reset."""

_LATE_SECONDS = 0.3


class PostgresProxy:
    """Passes everything on, until it is told to lose something."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._losses: list[Loss] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: Cut | None = None
        self._mended = asyncio.Event()
        self._ways: set[_Way] = set()
        self.lost = 0
        """How many connections were lost on purpose."""

    def url(self, database: str) -> str:
        """The URL of a database through the proxy, given the one without."""
        return database.replace(f":{self._port}/", f":{self._own_port}/")

    def lose(self, *losses: Loss) -> None:
        """What happens to the next commits, one after the other."""
        self._losses += losses

    def cut(self, how: Cut) -> None:
        """Cut off everybody, until `mend`.

        In a silence the connections that there are get deaf for ever, as behind a firewall that has forgotten them: the
        client hears nothing again; the server hears nothing, and of their end when the way is mended.
        """
        self._cut = how
        self._mended.clear()
        for way in set(self._ways):
            if how == "silence":
                way.deaf = True
            else:
                way.task.cancel()

    def mend(self) -> None:
        """Let new connections through again."""
        self._cut = None
        self._mended.set()
        for way in self._ways:
            if way.deaf and way.below is not None:
                way.below.transport.abort()

    @property
    def deaf(self) -> int:
        """Connections that hear nothing any more and that the client has not given up."""
        return sum(way.deaf for way in self._ways)

    @contextlib.asynccontextmanager
    async def running(self) -> "AsyncIterator[PostgresProxy]":
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    @property
    def _own_port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        way = _Way(task)
        self._ways.add(way)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if self._cut is None:
                    await self._connect(reader, writer, way)
                elif self._cut == "silence":
                    while await reader.read(65536):
                        pass
        finally:
            self._ways.discard(way)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: "_Way") -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self._port)
        way.below = below
        answers = asyncio.create_task(_pass_on(above, writer, way))
        try:
            while data := await reader.read(65536):
                if way.deaf:
                    continue
                if data.endswith(COMMIT) and self._losses:
                    self.lost += 1
                    await self._lose(self._losses.pop(0), data, below, writer, answers)
                    return
                below.write(data)
                await below.drain()
            if way.deaf:
                await self._mended.wait()
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            below.transport.abort()

    async def _lose(
        self,
        loss: Loss,
        data: bytes,
        below: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        answers: "asyncio.Task[None]",
    ) -> None:
        if loss == "commit":
            return
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        if loss == "late":
            writer.transport.abort()
        await asyncio.sleep(_LATE_SECONDS if loss == "late" else 0)
        below.write(data)
        await below.drain()
        await asyncio.sleep(_LATE_SECONDS)  # the server has committed; nobody reads that it says so


class _Way:
    """One connection through the proxy."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.below: asyncio.StreamWriter | None = None
        self.deaf = False


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if not way.deaf:
                writer.write(data)
                await writer.drain()
    if not way.deaf:
        writer.transport.abort()
