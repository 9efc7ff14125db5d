"""What all verbs of the embedded store share: the lanes they run in, the queries, and looking rows up."""

import sqlite3
from typing import Any

from sessile.ports import Clock
from sessile.rows import LEASE_SECONDS, SessionRef, SessionRow
from sessile.stores import rows
from sessile.stores.queries import load_queries
from sessile.stores.sqlite.lanes import LookupLane, ReadLane, WriteLane
from sessile.wire.errors import KeyTaken, NotFound

QUERIES = load_queries("sessile.stores.sqlite")
LAST = 2**62
"""A cursor behind everything."""


class Verbs:
    """The lanes of one database file, which every group of verbs runs in."""

    def __init__(
        self, connections: list[sqlite3.Connection], clock: Clock, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._clock = clock
        self._lease = int(lease_seconds * 1_000_000)
        self._writer = WriteLane(connections[0])
        self._lookups = LookupLane(connections[1])
        self._readers = ReadLane(connections[2:])


def insert(db: sqlite3.Connection, query: str, noun: str, values: dict[str, Any]) -> Any:
    """Insert a row whose key may be taken; returns what the query returns."""
    try:
        return db.execute(QUERIES[query], values).fetchone()
    except sqlite3.IntegrityError:
        message = f"The {noun} key {values['key']!r} is already in use."
        raise KeyTaken(message, field_errors={"key": message}) from None


def one(db: sqlite3.Connection, query: str, values: dict[str, Any], noun: str, key: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = db.execute(QUERIES[query], values).fetchone()
    if row is None:
        raise NotFound(f"There is no {noun} {key!r}.", id=key)
    return row


def place(ref: SessionRef) -> dict[str, Any]:
    return {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}


def session_row(db: sqlite3.Connection, ref: SessionRef) -> SessionRow:
    return rows.session(one(db, "get_session", place(ref), "session", ref.session_key))


def locate(db: sqlite3.Connection, ref: SessionRef) -> int:
    session_id: int = one(db, "locate_session", place(ref), "session", ref.session_key)[0]
    return session_id


def before(cursor: int | None) -> int:
    return LAST if cursor is None else cursor
