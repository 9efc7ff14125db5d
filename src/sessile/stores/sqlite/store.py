"""The embedded store: the `Store` port on SQLite. Verbs only; commits and threads are in `lanes`."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

from msgspec import UNSET

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import (
    Admit,
    AgentRow,
    ApiKeyRow,
    Claim,
    Clock,
    EventQuery,
    Fence,
    Interruption,
    NewSession,
    Once,
    Page,
    Rejoined,
    SessionChanges,
    SessionRef,
    SessionRow,
    TenantRow,
    TurnEnd,
    TurnProgress,
    TurnRow,
)
from sessile.stores.queries import load_queries
from sessile.stores.sqlite import log, rows
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.lanes import LookupLane, ReadLane, WriteLane
from sessile.stores.sqlite.migrate import migrate
from sessile.wire import codec
from sessile.wire.errors import KeyTaken, NotFound, PreconditionFailed, StorageUnavailable
from sessile.wire.ids import sequence_of

_QUERIES = load_queries("sessile.stores.sqlite")
_READERS = 2
_OPEN_SECONDS = 10.0
_PURGE_SLICE = 100
_LAST = 2**62
"""A cursor behind everything."""


class SqliteStore:
    """One database file. Its turns belong to the process that holds the database file's lock (`owner.py`)."""

    def __init__(self, connections: list[sqlite3.Connection], clock: Clock) -> None:
        self._clock = clock
        self._writer = WriteLane(connections[0])
        self._lookups = LookupLane(connections[1])
        self._readers = ReadLane(connections[2:])

    @classmethod
    async def open(cls, path: str | Path, clock: Clock) -> Self:
        """Open or create the database and bring it to the current schema. Raises StorageUnavailable."""
        return cls(await asyncio.to_thread(_connect_all, Path(path), clock), clock)

    async def close(self) -> None:
        await self._readers.close()
        self._lookups.close()
        await self._writer.close()

    async def ping(self) -> None:
        await self._writer.run(lambda db: db.execute(_QUERIES["touch"]) and None)

    async def create_tenant(self, key: str, name: str) -> TenantRow:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> TenantRow:
            (row_id,) = _insert(db, "insert_tenant", "tenant", {"key": key, "name": name, "now": now})
            return TenantRow(id=row_id, key=key, name=name, created_at=now)

        return await self._writer.run(verb)

    async def list_tenants(self) -> list[TenantRow]:
        return self._lookups.run(lambda db: [rows.tenant(row) for row in db.execute(_QUERIES["list_tenants"])])

    async def create_key(self, key: ApiKeyRow, digest: bytes) -> None:
        values = {
            "tenant_id": key.tenant_id,
            "key_id": key.key_id,
            "name": key.name,
            "digest": digest,
            "roles": codec.encode(key.roles),
            "agent_roles": codec.encode(key.agent_roles),
            "now": key.created_at,
        }
        await self._writer.run(lambda db: db.execute(_QUERIES["insert_key"], values) and None)

    async def list_keys(self, tenant_id: int) -> list[ApiKeyRow]:
        return self._lookups.run(
            lambda db: [rows.api_key(row) for row in db.execute(_QUERIES["list_keys"], {"tenant_id": tenant_id})]
        )

    async def revoke_key(self, tenant_id: int, key_id: str) -> ApiKeyRow:
        values = {"tenant_id": tenant_id, "key_id": key_id, "now": self._clock.now()}

        def verb(db: sqlite3.Connection) -> ApiKeyRow:
            db.execute(_QUERIES["revoke_key"], values)
            return rows.api_key(_one(db, "get_key", values, "key", key_id))

        return await self._writer.run(verb)

    async def find_key(self, digest: bytes) -> ApiKeyRow | None:
        def verb(db: sqlite3.Connection) -> ApiKeyRow | None:
            row = db.execute(_QUERIES["find_key"], {"digest": digest}).fetchone()
            return rows.api_key(row) if row else None

        return self._lookups.run(verb)

    async def create_agent(
        self,
        tenant_id: int,
        key: str,
        document: bytes,
        enabled: bool,
        once: Once | None = None,
        admit: Callable[[], None] | None = None,
    ) -> AgentRow:
        now = self._clock.now()
        values = {"tenant_id": tenant_id, "key": key, "document": document, "enabled": enabled, "now": now}

        def verb(db: sqlite3.Connection) -> AgentRow:
            if once is not None and (made := keys.made(db, tenant_id, keys.AGENTS, once, now)) is not None:
                return rows.agent(keys.still(db, "made_agent", made, once))
            if admit is not None:
                admit()
            (row_id,) = _insert(db, "insert_agent", "agent", values)
            if once is not None:
                keys.keep(db, tenant_id, keys.AGENTS, once, row_id, now)
            return rows.agent((row_id, tenant_id, key, enabled, 1, document, now, now))

        return await self._writer.run(verb)

    async def get_agent(self, tenant_id: int, key: str) -> AgentRow:
        values = {"tenant_id": tenant_id, "key": key}
        return self._lookups.run(lambda db: rows.agent(_one(db, "get_agent", values, "agent", key)))

    async def list_agents(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None
    ) -> Page[AgentRow]:
        name = "list_agents" if enabled is None else "list_agents_enabled"
        values = {"tenant_id": tenant_id, "cursor": _before(cursor), "limit": limit + 1, "enabled": enabled}

        def verb(db: sqlite3.Connection) -> Page[AgentRow]:
            found = [rows.agent(row) for row in db.execute(_QUERIES[name], values)]
            return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

        return await self._readers.run(verb)

    async def save_agent(
        self, tenant_id: int, key: str, document: bytes, enabled: bool, expected_version: int
    ) -> AgentRow | None:
        values = {"tenant_id": tenant_id, "key": key, "document": document, "enabled": enabled}
        values |= {"expected_version": expected_version, "now": self._clock.now()}

        def verb(db: sqlite3.Connection) -> AgentRow | None:
            values["id"] = _one(db, "get_agent_id", values, "agent", key)[0]
            saved = db.execute(_QUERIES["save_agent"], values).rowcount
            return rows.agent(_one(db, "get_agent", values, "agent", key)) if saved else None

        return await self._writer.run(verb)

    async def delete_agent(self, tenant_id: int, key: str) -> int:
        def verb(db: sqlite3.Connection) -> int:
            agent_id: int = _one(db, "get_agent_id", {"tenant_id": tenant_id, "key": key}, "agent", key)[0]
            db.execute(_QUERIES["delete_agent"], {"id": agent_id})
            db.execute(_QUERIES["purge_agent_later"], {"agent_id": agent_id})
            return agent_id

        return await self._writer.run(verb)

    async def create_session(
        self, tenant_id: int, agent_key: str, new: NewSession, once: Once | None = None
    ) -> SessionRow:
        now = self._clock.now()
        values = {
            "tenant_id": tenant_id,
            "agent_key": agent_key,
            "key": new.key,
            "name": new.name,
            "description": new.description,
            "metadata": new.metadata,
            "enabled": new.enabled,
            "tti_minutes": new.tti_minutes,
            "now": now,
        }

        def verb(db: sqlite3.Connection) -> SessionRow:
            if once is not None and (made := keys.made(db, tenant_id, keys.SESSIONS, once, now)) is not None:
                return rows.session(keys.still(db, "made_session", made, once))
            row = _insert(db, "insert_session", "session", values)
            if row is None:
                raise NotFound(f"There is no agent {agent_key!r}.", id=agent_key)
            row_id, agent_id = row
            if once is not None:
                keys.keep(db, tenant_id, keys.SESSIONS, once, row_id, now)
            return SessionRow(
                id=row_id,
                tenant_id=tenant_id,
                agent_id=agent_id,
                agent_key=agent_key,
                key=new.key,
                name=new.name,
                description=new.description,
                metadata=new.metadata,
                enabled=new.enabled,
                tti_minutes=new.tti_minutes,
                version=1,
                status="unstarted",
                stop_reason=None,
                last_sequence=0,
                last_event_id=None,
                usage=b"{}",
                context_usage=None,
                created_at=now,
                updated_at=now,
            )

        return await self._writer.run(verb)

    async def get_session(self, ref: SessionRef) -> SessionRow:
        return self._lookups.run(lambda db: _session(db, ref))

    async def list_sessions(
        self, tenant_id: int, agent_key: str, *, cursor: int | None, limit: int
    ) -> Page[SessionRow]:
        def verb(db: sqlite3.Connection) -> Page[SessionRow]:
            agent = {"tenant_id": tenant_id, "key": agent_key}
            agent_id: int = _one(db, "get_agent_id", agent, "agent", agent_key)[0]
            values = {"agent_id": agent_id, "agent_key": agent_key, "cursor": _before(cursor), "limit": limit + 1}
            found = [rows.session(row) for row in db.execute(_QUERIES["list_sessions"], values)]
            return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

        return self._lookups.run(verb)

    async def update_session(self, ref: SessionRef, changes: SessionChanges, if_match: int | None) -> SessionRow:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> SessionRow:
            session = _matching(_session(db, ref), if_match)
            values = {
                name: getattr(session if getattr(changes, name) is UNSET else changes, name)
                for name in changes.__struct_fields__
            }
            db.execute(_QUERIES["update_session"], values | {"id": session.id, "now": now})
            return _session(db, ref)

        return await self._writer.run(verb)

    async def delete_session(self, ref: SessionRef, if_match: int | None) -> int:
        def verb(db: sqlite3.Connection) -> int:
            session = _matching(_session(db, ref), if_match)
            db.execute(_QUERIES["delete_session"], {"id": session.id})
            db.execute(_QUERIES["purge_session_later"], {"session_id": session.id})
            return session.id

        return await self._writer.run(verb)

    async def purge(self) -> bool:
        expired = keys.expired(self._clock.now())
        return await self._writer.run(lambda db: _purge_slice(db, expired))

    async def accept_input(
        self,
        ref: SessionRef,
        input: Draft,
        turn_id: str,
        admit: Admit,
        once: Once | None = None,
        if_match: str | None = None,
    ) -> Claim | Rejoined:
        now = self._clock.now()
        return await self._writer.run(lambda db: log.accept_input(db, ref, input, turn_id, admit, now, once, if_match))

    async def interrupt(self, ref: SessionRef) -> Interruption:
        now = self._clock.now()
        return await self._writer.run(lambda db: log.interrupt(db, ref, now))

    async def append(
        self, fence: Fence, drafts: Sequence[Draft], progress: TurnProgress, end: TurnEnd | None = None
    ) -> list[Entry]:
        now = self._clock.now()
        if end is not None:
            drafts = [*drafts, draft(log.turn_ended(end, progress))]
        return await self._writer.run(lambda db: log.append(db, fence, drafts, progress, end, now))

    async def list_events(self, ref: SessionRef, query: EventQuery) -> Page[Entry]:
        return await self._readers.run(lambda db: log.read(db, _locate(db, ref), query))

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        return await self._readers.run(lambda db: log.read(db, session_id, query))

    async def heads(self, session_ids: Collection[int]) -> dict[int, int]:
        wanted = {"ids": codec.encode(list(session_ids)).decode()}
        return await self._readers.run(lambda db: dict(db.execute(_QUERIES["heads"], wanted).fetchall()))

    async def get_event(self, ref: SessionRef, event_id: str) -> Entry:
        def verb(db: sqlite3.Connection) -> Entry:
            place = {"session_id": _locate(db, ref), "sequence": sequence_of(event_id)}
            row = db.execute(_QUERIES["get_event"], place).fetchone()
            if row is None or row[0] != event_id:
                raise NotFound(f"There is no event {event_id!r} in this session.", id=event_id)
            return rows.entry(ref.session_key, row)

        return self._lookups.run(verb)

    async def get_turn(self, ref: SessionRef, turn_id: str) -> TurnRow:
        def verb(db: sqlite3.Connection) -> TurnRow:
            values = {"session_id": _locate(db, ref), "turn_id": turn_id}
            return rows.turn(_one(db, "get_turn", values, "turn", turn_id))

        return self._lookups.run(verb)

    async def take_unfinished_turns(self) -> list[Claim]:
        return await self._writer.run(log.take_unfinished_turns)


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


def _insert(db: sqlite3.Connection, query: str, noun: str, values: dict[str, Any]) -> Any:
    """Insert a row whose key may be taken; returns what the query returns."""
    try:
        return db.execute(_QUERIES[query], values).fetchone()
    except sqlite3.IntegrityError:
        message = f"The {noun} key {values['key']!r} is already in use."
        raise KeyTaken(message, field_errors={"key": message}) from None


def _one(db: sqlite3.Connection, query: str, values: dict[str, Any], noun: str, key: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = db.execute(_QUERIES[query], values).fetchone()
    if row is None:
        raise NotFound(f"There is no {noun} {key!r}.", id=key)
    return row


def _ref(ref: SessionRef) -> dict[str, Any]:
    return {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}


def _session(db: sqlite3.Connection, ref: SessionRef) -> SessionRow:
    return rows.session(_one(db, "get_session", _ref(ref), "session", ref.session_key))


def _locate(db: sqlite3.Connection, ref: SessionRef) -> int:
    session_id: int = _one(db, "locate_session", _ref(ref), "session", ref.session_key)[0]
    return session_id


def _before(cursor: int | None) -> int:
    return _LAST if cursor is None else cursor


def _matching(session: SessionRow, if_match: int | None) -> SessionRow:
    if if_match is not None and if_match != session.version:
        raise PreconditionFailed(f"The session has version {session.version} now.")
    return session


def _purge_slice(db: sqlite3.Connection, expired: int) -> bool:
    row = db.execute(_QUERIES["next_purge"]).fetchone()
    if row is None:
        keys = db.execute(_QUERIES["purge_idempotent"], {"expired": expired, "slice": _PURGE_SLICE}).rowcount
        return keys == _PURGE_SLICE
    purge_id, agent_id, session_id = row
    values = {"agent_id": agent_id, "session_id": session_id, "slice": _PURGE_SLICE}
    if agent_id is not None:
        db.execute(_QUERIES["purge_sessions_later"], values)
        removed = db.execute(_QUERIES["purge_sessions"], values).rowcount
    else:
        removed = db.execute(_QUERIES["purge_events"], values).rowcount
        removed = max(removed, db.execute(_QUERIES["purge_turns"], values).rowcount)
    if removed < _PURGE_SLICE:
        db.execute(_QUERIES["end_purge"], {"id": purge_id})
    return True
