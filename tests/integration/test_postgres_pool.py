"""The connections of the PostgreSQL store when callers go away, and when all of them are in use."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from sessile.stores.postgres import pool
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.pool import Connections
from sessile.wire.errors import StorageUnavailable

LIMIT = 2
_RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sessile' AND state = 'active'"


@pytest.fixture
async def watching(emptied_database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(emptied_database)
    yield connection
    await connection.close()


@pytest.fixture
async def connections(emptied_database: str) -> AsyncIterator[Connections]:
    made = Connections(emptied_database, LIMIT, patience=0)
    yield made
    await made.close()


def sleeping(started: asyncio.Event, seconds: float = 60) -> Callable[[Db], Awaitable[None]]:
    async def verb(db: Db) -> None:
        started.set()
        await db._connection.fetch("SELECT pg_sleep($1)", seconds)

    return verb


async def until(watching: Any, holds: Callable[[int], bool]) -> None:
    """Wait until this holds of the number of statements that run."""
    async with asyncio.timeout(30):
        while not holds(await watching.fetchval(_RUNNING)):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


async def test_what_nobody_waits_for_any_more_does_not_go_on_in_the_server(
    connections: Connections, watching: Any
) -> None:
    """Callers that come and go would else have as many statements run as they like, whatever the limit."""
    for _ in range(5 * LIMIT):
        started = asyncio.Event()
        read = asyncio.create_task(connections.read(sleeping(started)))
        await started.wait()
        await until(watching, lambda running: running > 0)
        read.cancel()
        await asyncio.wait([read])
        assert await watching.fetchval(_RUNNING) <= LIMIT
    await until(watching, lambda running: running == 0)
    started = asyncio.Event()
    async with asyncio.timeout(30):
        await asyncio.gather(*(connections.read(sleeping(started, 0)) for _ in range(3 * LIMIT)))


async def test_a_statement_that_takes_too_long_is_ended_in_the_server(
    emptied_database: str, watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_COMMAND_SECONDS", 0.5)
    connections = Connections(emptied_database, LIMIT, patience=0)
    with pytest.raises(StorageUnavailable):
        await connections.read(sleeping(asyncio.Event()))
    await connections.close()
    assert await watching.fetchval(_RUNNING) == 0


async def test_nobody_waits_for_ever_for_a_connection(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_WAIT_SECONDS", 0.2)
    reads = []
    for _ in range(LIMIT):
        started = asyncio.Event()
        reads.append(asyncio.create_task(connections.read(sleeping(started))))
        await started.wait()
    with pytest.raises(StorageUnavailable):
        await connections.read(sleeping(asyncio.Event(), 0))
    for read in reads:
        read.cancel()
    await asyncio.wait(reads)
    monkeypatch.setattr(pool, "_WAIT_SECONDS", 30)
    await connections.read(sleeping(asyncio.Event(), 0))


async def test_when_the_server_takes_no_more_connections_those_that_are_there_are_shared(emptied_database: str) -> None:
    """Only what needs a first connection is refused."""
    connections = Connections(emptied_database, 8 * LIMIT, patience=0)
    others = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            others.append(await asyncpg.connect(emptied_database))
    try:
        with pytest.raises(StorageUnavailable):
            await connections.read(sleeping(asyncio.Event(), 0))
        await others.pop().close()
        await _served(connections)
        await asyncio.gather(*(connections.read(sleeping(asyncio.Event(), 0.05)) for _ in range(40)))
    finally:
        for other in others:
            await other.close()
        await connections.close()


async def _served(connections: Connections) -> None:
    """Wait until the server has noticed that somebody has left."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StorageUnavailable):
                return await connections.read(sleeping(asyncio.Event(), 0))
            await asyncio.sleep(0.05)
