"""What all tests share: one PostgreSQL server a run, and no property depends on how fast a machine is."""

import asyncio
import signal
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import mcp  # noqa: F401 - pytest rewrites a part of it as it is imported, which Python 3.11 cannot do on two threads
import pytest
from hypothesis import settings

from sessile.stores.postgres.store import PostgresStore
from sessile.testing.clock import FakeClock
from sessile.testing.postgres import PostgresServer, postgres_server

settings.register_profile("sessile", deadline=None)
settings.load_profile("sessile")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a script runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or programs whose Ctrl-C is tested would ignore it too


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server; tests that end it, or fill it, start one of their own."""
    with postgres_server() as server:
        yield server


async def _new_database(server: PostgresServer) -> str:
    name = f"test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return server.url(name)


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer) -> str:
    """The URL of a database with the current schema, for tests that leave no connection behind."""

    async def prepare() -> str:
        url = await _new_database(postgres)
        await (await PostgresStore.open(url, FakeClock())).close()
        return url

    return asyncio.run(prepare())


@pytest.fixture
async def emptied_database(shared_database: str) -> str:
    """The same without rows, which takes less time than a new one; internal ids go on from test to test."""
    connection = await asyncpg.connect(shared_database)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (table,) in tables:
            if table != "schema_migrations":
                await connection.execute(f"DELETE FROM {table}")
    finally:
        await connection.close()
    return shared_database


@pytest.fixture(scope="module")
def module_database(postgres: PostgresServer) -> str:
    """The URL of a new database for the tests of a module, without any schema."""
    return asyncio.run(_new_database(postgres))


@pytest.fixture
async def new_database(postgres: PostgresServer) -> str:
    """The same for one test."""
    return await _new_database(postgres)
