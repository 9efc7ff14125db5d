"""The embedded store: the `Store` port on SQLite. Verbs are in a file for each noun; commits and threads in `lanes`."""

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Self

from sessile.ports import Clock
from sessile.rows import LEASE_SECONDS
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.accounts import Accounts
from sessile.stores.sqlite.agents import Agents
from sessile.stores.sqlite.artifacts import Artifacts
from sessile.stores.sqlite.client_tools import ClientTools
from sessile.stores.sqlite.input_verbs import Inputs
from sessile.stores.sqlite.log_verbs import Logs
from sessile.stores.sqlite.migrate import migrate
from sessile.stores.sqlite.sessions import Sessions
from sessile.stores.sqlite.tool_servers import ToolServers
from sessile.stores.sqlite.verbs import QUERIES
from sessile.stores.sqlite.visibility import Visibilities
from sessile.wire.errors import StorageUnavailable

_READERS = 2
_OPEN_SECONDS = 10.0
_PURGE_SLICE = 100


class SqliteStore(Accounts, Agents, Sessions, Logs, Inputs, ClientTools, Visibilities, Artifacts, ToolServers):
    """One database file. Its turns belong to the process that holds the database file's lock (`owner.py`)."""

    @classmethod
    async def open(cls, path: str | Path, clock: Clock, lease_seconds: float = LEASE_SECONDS) -> Self:
        """Open or create the database and bring it to the current schema. Raises StorageUnavailable.

        Claims of turns hold for `lease_seconds`, unless they are renewed.
        """
        return cls(await asyncio.to_thread(_connect_all, Path(path), clock), clock, lease_seconds)

    async def close(self) -> None:
        await self._readers.close()
        self._lookups.close()
        await self._writer.close()

    async def ping(self) -> None:
        await self._writer.run(lambda db: db.execute(QUERIES["touch"]) and None)

    async def purge(self) -> bool:
        expired = keys.expired(self._clock.now())
        return await self._writer.run(lambda db: _purge_slice(db, expired))


def _connect_all(path: Path, clock: Clock) -> list[sqlite3.Connection]:
    """All connections. Who else opens a new file at the same moment may hold it locked for a while."""
    deadline = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            return _connect_once(path, clock)
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise StorageUnavailable(f"The database cannot be opened: {error}.") from None
            time.sleep(0.02)


def _connect_once(path: Path, clock: Clock) -> list[sqlite3.Connection]:
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(contextlib.closing(_connect(path)))
        migrate(writer, clock)
        readers = [_connect(path, "PRAGMA query_only = ON") for _ in range(1 + _READERS)]
        opened.pop_all()
        return [writer, *readers]


def _connect(path: Path, *settings: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=2)
    for setting in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA wal_autocheckpoint = 4000",
        "PRAGMA temp_store = MEMORY",
        *settings,
    ):
        connection.execute(setting)
    return connection


def _purge_slice(db: sqlite3.Connection, expired: int) -> bool:
    row = db.execute(QUERIES["next_purge"]).fetchone()
    if row is None:
        keys = db.execute(QUERIES["purge_idempotent"], {"expired": expired, "slice": _PURGE_SLICE}).rowcount
        return keys == _PURGE_SLICE
    purge_id, agent_id, session_id = row
    values = {"agent_id": agent_id, "session_id": session_id, "slice": _PURGE_SLICE}
    if agent_id is not None:
        db.execute(QUERIES["purge_sessions_later"], values)
        removed = db.execute(QUERIES["purge_sessions"], values).rowcount
    else:
        removed = db.execute(QUERIES["purge_events"], values).rowcount
        removed = max(removed, db.execute(QUERIES["purge_turns"], values).rowcount)
        removed = max(removed, db.execute(QUERIES["purge_inputs"], values).rowcount)
        removed = max(removed, db.execute(QUERIES["expire_artifacts"], values).rowcount)
    if removed < _PURGE_SLICE:
        db.execute(QUERIES["end_purge"], {"id": purge_id})
    return True
