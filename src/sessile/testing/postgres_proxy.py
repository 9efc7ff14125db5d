"""A proxy before a PostgreSQL server that loses connections at the worst moment: when a COMMIT is on its way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The message in which a client asks for a commit."""

Loss = Literal["commit", "answer", "late"]
"""What gets lost: the COMMIT; the answer to it; or the client, while the COMMIT arrives later."""

_LATE_SECONDS = 0.3


class PostgresProxy:
    """Passes everything on, until it is told to lose something."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._losses: list[Loss] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0
        """How many connections were lost on purpose."""

    def url(self, database: str) -> str:
        """The URL of a database through the proxy, given the one without."""
        return database.replace(f":{self._port}/", f":{self._own_port}/")

    def lose(self, *losses: Loss) -> None:
        """What happens to the next commits, one after the other."""
        self._losses += losses

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
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.create_task(_pass_on(above, writer))
        try:
            while data := await reader.read(65536):
                if data.endswith(COMMIT) and self._losses:
                    self.lost += 1
                    await self._lose(self._losses.pop(0), data, below, writer, answers)
                    return
                below.write(data)
                await below.drain()
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


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
