"""The PostgreSQL store when a standby takes over: nothing that was acknowledged is missing in between."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from sessile.rows import SessionRef
from sessile.stores.postgres.store import PostgresStore
from sessile.testing.clock import FakeClock
from sessile.testing.postgres import PostgresServer, postgres_server, standby_of
from sessile.testing.store_world import (
    AGENT,
    DONE,
    NOTHING,
    SESSION,
    accept,
    answered,
    append,
    new_tenant,
    read_all,
    sequences,
    thought,
)
from sessile.wire.errors import StorageUnavailable


@pytest.fixture
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary and its standby."""
    with postgres_server() as primary, standby_of(primary) as standby:
        yield primary, standby


@pytest.mark.parametrize("first", ["primary", "standby"])
async def test_a_standby_is_not_asked_before_it_has_taken_over(
    servers: tuple[PostgresServer, PostgresServer], first: str
) -> None:
    """It may be behind: what it has not heard of would be missing, and its followers told that it was deleted."""
    primary, standby = servers
    hosts = [f"127.0.0.1:{server.port}" for server in servers]
    if first == "standby":
        hosts.reverse()
    url = f"postgresql://postgres@{','.join(hosts)}/postgres"
    store = await PostgresStore.open(url, FakeClock(), patience=0.2)
    tenant = await new_tenant(store)
    watcher = await asyncpg.connect(standby.url())
    await watcher.execute("SELECT pg_wal_replay_pause()")
    ref = SessionRef(tenant, AGENT, SESSION)
    claim = await accept(store, ref)
    await append(store, claim.fence, [thought()], NOTHING)
    await _until_received(primary, watcher)
    await asyncio.to_thread(primary.kill)
    for verb in (store.get_session(ref), store.heads([claim.session.id]), store.standing([claim.fence])):
        with pytest.raises(StorageUnavailable):
            await verb
    assert await watcher.fetchval("SELECT pg_promote()")
    await watcher.close()
    assert (await store.get_session(ref)).last_sequence == 3
    assert sequences(await append(store, claim.fence, [answered()], NOTHING, DONE)) == [4, 5]
    assert sequences(await read_all(store, claim.session.id)) == [1, 2, 3, 4, 5]
    await store.close()


async def _until_received(primary: PostgresServer, watcher: asyncpg.Connection) -> None:
    """Wait until a standby has all that the primary has written, if it has not replayed it."""
    connection = await asyncpg.connect(primary.url())
    written = await connection.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    await connection.close()
    while not await watcher.fetchval("SELECT pg_last_wal_receive_lsn() >= $1::text::pg_lsn", written):
        await watcher.execute("SELECT pg_sleep(0.01)")
