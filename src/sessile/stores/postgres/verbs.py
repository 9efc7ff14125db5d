"""What all verbs of the PostgreSQL store share: the connections and lanes they run in, and looking rows up."""

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from sessile.ports import Clock
from sessile.rows import AgentRow, SessionRef, SessionRow
from sessile.stores import rows
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.pool import Connections
from sessile.wire.errors import KeyTaken, NotFound

LAST = 2**62
"""A cursor behind everything."""


class Verbs:
    """The connections to one database, which every group of verbs runs on.

    `clock` is for what readers see; `lease_now`, in microseconds, for leases, which all nodes must measure alike.
    """

    def __init__(
        self, connections: Connections, clock: Clock, lease_now: Callable[[], int], lease_seconds: float
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._lease_now = lease_now
        self._lease = int(lease_seconds * 1_000_000)
        self._read = connections.read
        self._write = connections.write

    def _until(self) -> int:
        """When a lease that begins now ends."""
        return self._lease_now() + self._lease


async def insert(db: Db, query: str, noun: str, /, **values: Any) -> Sequence[Row]:
    """Insert a row whose key may be taken; returns what the query returns."""
    try:
        return await db.change(query, **values)
    except asyncpg.UniqueViolationError:
        message = f"The {noun} key {values['key']!r} is already in use."
        raise KeyTaken(message, field_errors={"key": message}) from None


async def one(db: Db, query: str, noun: str, key: str, /, **values: Any) -> Row:
    """The one row of a query. Raises NotFound."""
    check(noun, key)
    row = await db.one(query, **values)
    if row is None:
        raise not_found(noun, key)
    return row


def check(noun: str, key: str) -> None:
    """Raise NotFound for what PostgreSQL cannot hold as text: nothing has such a key."""
    if not is_text(key):
        raise not_found(noun, key)


def not_found(noun: str, key: str) -> NotFound:
    """There is nothing under this key."""
    return NotFound(f"There is no {noun} {key!r}.", id=key)


def is_text(text: str) -> bool:
    """Whether PostgreSQL can hold a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def place(ref: SessionRef) -> dict[str, Any]:
    """Where a session is, as values of a query. Raises NotFound."""
    check("session", ref.agent_key)
    check("session", ref.session_key)
    return {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}


async def session_row(db: Db, ref: SessionRef, query: str = "get_session") -> SessionRow:
    """A session. With the query `lock_session` it stands still until the transaction ends. Raises NotFound."""
    return rows.session(await one(db, query, "session", ref.session_key, **place(ref)))


async def with_agent(db: Db, ref: SessionRef) -> tuple[SessionRow, AgentRow]:
    """A session, which stands still until the transaction ends, and its agent. Raises NotFound."""
    session = await session_row(db, ref, "lock_session")
    row = await db.one("session_to_run", session_id=session.id)
    if row is None:
        raise not_found("session", ref.session_key)
    return rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])


async def locate(db: Db, ref: SessionRef) -> int:
    """The internal id of a session. Raises NotFound."""
    session_id: int = (await one(db, "locate_session", "session", ref.session_key, **place(ref)))[0]
    return session_id


def before(cursor: int | None) -> int:
    """The cursor of a first page is behind everything."""
    return LAST if cursor is None else cursor
