"""The scale-out store: the `Store` port on PostgreSQL. Verbs are in a file for each noun; transactions in `pool`."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from sessile.ports import Clock, Relay
from sessile.rows import LEASE_SECONDS, Heard
from sessile.stores import rules
from sessile.stores.postgres.accounts import Accounts
from sessile.stores.postgres.agents import Agents
from sessile.stores.postgres.artifacts import Artifacts
from sessile.stores.postgres.client_tools import ClientTools
from sessile.stores.postgres.compactions import Compactions
from sessile.stores.postgres.copies import Copies, give_up_stale
from sessile.stores.postgres.database_clock import DatabaseClock
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.imports import Imports
from sessile.stores.postgres.input_verbs import Inputs
from sessile.stores.postgres.log_verbs import Logs
from sessile.stores.postgres.migrate import migrate
from sessile.stores.postgres.pool import CONNECTIONS, PATIENCE_SECONDS, Connections
from sessile.stores.postgres.secrets import Secrets
from sessile.stores.postgres.session_search import SessionSearch
from sessile.stores.postgres.sessions import Sessions
from sessile.stores.postgres.sub_turns import SubTurns
from sessile.stores.postgres.tool_servers import ToolServers
from sessile.stores.postgres.upkeep import Upkeep
from sessile.stores.postgres.visibility import Visibilities
from sessile.stores.postgres.wakeups import Wakeups
from sessile.wire.errors import StorageUnavailable

_PURGE_SLICE = 100
_SLICES = ("purge_events", "purge_turns", "purge_inputs", "purge_keys_of_inputs", "expire_artifacts")
_MEASURE_SECONDS = 10.0


class PostgresStore(
    Accounts,
    Agents,
    Sessions,
    SessionSearch,
    Copies,
    Imports,
    Logs,
    Inputs,
    ClientTools,
    SubTurns,
    Visibilities,
    Compactions,
    Secrets,
    Artifacts,
    ToolServers,
    Upkeep,
):
    """One database, shared by any number of processes. Their turns are told apart by leases alone."""

    _measuring: "asyncio.Task[None] | None" = None
    _wakeups: Wakeups | None = None
    _url = ""

    @classmethod
    async def open(
        cls,
        url: str,
        clock: Clock,
        lease_seconds: float = LEASE_SECONDS,
        *,
        lease_clock: Clock | None = None,
        connections: int = CONNECTIONS,
        patience: float = PATIENCE_SECONDS,
    ) -> Self:
        """Connect and bring the database to the current schema. Raises StorageUnavailable.

        Leases are measured by the database's clock, unless there is another one that all nodes share.
        """
        pool, shared = Connections(url, connections, patience), DatabaseClock()
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(pool.close)
            try:
                await pool.administer(lambda connection: migrate(connection, clock))
                await pool.read(shared.measure)
            except ValueError:  # asyncpg.ClientConfigurationError is one too
                raise StorageUnavailable("The database's URL is not one that PostgreSQL understands.") from None
            opened.pop_all()
        store = cls(pool, clock, (lease_clock or shared).now, lease_seconds)
        store._url = url
        store._measuring = asyncio.create_task(_measure_for_ever(pool, shared))
        return store

    async def close(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
        await self._connections.close()
        if self._wakeups is not None:
            await self._wakeups.close()

    async def listen(self, heard: Callable[[Heard | None], None]) -> Relay:
        self._wakeups = Wakeups(self._url, heard)
        self._connections.on_commit = self._wakeups.changed
        return self._wakeups

    async def ping(self) -> None:
        async def verb(db: Db) -> None:
            db.wrote = True  # the writer's row is a change like any other

        await self._write(verb)

    async def purge(self) -> bool:
        now = self._clock.now()
        return await self._write(lambda db: _purge_slice(db, now))


async def _measure_for_ever(pool: Connections, clock: DatabaseClock) -> None:
    while True:
        await asyncio.sleep(_MEASURE_SECONDS)
        try:
            await pool.read(clock.measure)
        except StorageUnavailable:
            continue


async def _purge_slice(db: Db, now: int) -> bool:
    row = await db.one("next_purge")
    if row is None:
        await give_up_stale(db, now)
        await db.count("forget_writers")
        return await db.count("purge_idempotent", expired=rules.expired(now), slice=_PURGE_SLICE) == _PURGE_SLICE
    purge_id, agent_id, session_id = row
    if agent_id is not None:
        removed = await db.count("purge_sessions", agent_id=agent_id, slice=_PURGE_SLICE)
    else:
        values = {"session_id": session_id, "slice": _PURGE_SLICE, "scope": rules.inputs_of(session_id)}
        removed = max([await db.count(name, **values) for name in _SLICES])
        await db.count("delete_terms", session_id=session_id)
        await db.count("delete_session_secrets", sessions=[session_id])
        await db.count("look_no_more", sessions=[session_id])
    if removed < _PURGE_SLICE:
        await db.count("end_purge", id=purge_id)
    return True
