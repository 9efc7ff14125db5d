"""The embedded store: the `Store` port on SQLite. Verbs are in a file for each noun; commits and threads in `lanes`."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from sessile.domain.copies import renamed, renamed_within
from sessile.ports import Clock
from sessile.rows import LEASE_SECONDS, Heard
from sessile.stores import rules
from sessile.stores.sqlite import functions
from sessile.stores.sqlite.accounts import Accounts
from sessile.stores.sqlite.agents import Agents
from sessile.stores.sqlite.artifacts import Artifacts
from sessile.stores.sqlite.client_tools import ClientTools
from sessile.stores.sqlite.compactions import Compactions
from sessile.stores.sqlite.copies import Copies, give_up_stale
from sessile.stores.sqlite.imports import Imports
from sessile.stores.sqlite.input_verbs import Inputs
from sessile.stores.sqlite.log_verbs import Logs
from sessile.stores.sqlite.migrate import migrate
from sessile.stores.sqlite.secrets import Secrets
from sessile.stores.sqlite.session_search import SessionSearch
from sessile.stores.sqlite.sessions import Sessions
from sessile.stores.sqlite.sub_turns import SubTurns
from sessile.stores.sqlite.tool_servers import ToolServers
from sessile.stores.sqlite.upkeep import Upkeep
from sessile.stores.sqlite.verbs import QUERIES
from sessile.stores.sqlite.visibility import Visibilities
from sessile.wire.errors import StorageUnavailable

_READERS = 2
_OPEN_SECONDS = 10.0
_PURGE_SLICE = 100


class SqliteStore(
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

    async def listen(self, heard: Callable[[Heard | None], None]) -> None:  # there is nobody to relay anything to
        """Nobody else writes: the database file has one owner."""

    async def ping(self) -> None:
        await self._writer.run(lambda db: db.execute(QUERIES["touch"]) and None)

    async def purge(self) -> bool:
        now = self._clock.now()
        return await self._writer.run(lambda db: _purge_slice(db, now))


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
        writer.create_function("renamed", 2, renamed, deterministic=True)
        writer.create_function("renamed_within", 2, renamed_within, deterministic=True)
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
    functions.register(connection)
    return connection


def _purge_slice(db: sqlite3.Connection, now: int) -> bool:
    row = db.execute(QUERIES["next_purge"]).fetchone()
    if row is None:
        give_up_stale(db, now)
        values = {"expired": rules.expired(now), "slice": _PURGE_SLICE}
        return db.execute(QUERIES["purge_idempotent"], values).rowcount == _PURGE_SLICE
    purge_id, agent_id, session_id = row
    slice = {"agent_id": agent_id, "session_id": session_id, "slice": _PURGE_SLICE}
    if agent_id is not None:
        db.execute(QUERIES["purge_sessions_later"], slice)
        removed = db.execute(QUERIES["purge_sessions"], slice).rowcount
    else:
        of_session = {**slice, "scope": rules.inputs_of(session_id)}
        removed = max(
            db.execute(QUERIES[query], of_session).rowcount
            for query in ("purge_events", "purge_turns", "purge_inputs", "purge_keys_of_inputs", "expire_artifacts")
        )
        db.execute(QUERIES["delete_terms"], slice)
        db.execute(QUERIES["delete_session_secrets"], slice)
    if removed < _PURGE_SLICE:
        db.execute(QUERIES["end_purge"], {"id": purge_id})
    return True
