"""Adding events to a log in SQLite, and opening a turn with its input. Run inside a lane's transaction; no verbs."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sessile.domain.log import VISIBLE, Draft, Entry, draft
from sessile.rows import AgentRow, Claim, Fence, SessionRow
from sessile.stores.sqlite.verbs import QUERIES
from sessile.wire import ids
from sessile.wire.events import TurnStartedRecord


def open_turn(
    db: sqlite3.Connection,
    agent: AgentRow,
    session: SessionRow,
    turn_id: str,
    event_id: str,
    input: Draft,
    now: int,
    lease: int,
    told: Draft | None = None,
    waited: bool = False,
) -> Claim:
    """Append an input and its `turn_started` to the log of a session that does not run, and claim the turn.

    `lease`: how long the claim holds, in microseconds. `told`: what tells of the files that came with the input.
    """
    first = session.last_sequence + 1
    started = draft(TurnStartedRecord(input_event_id=event_id))
    row = (session.tenant_id, session.id, turn_id, first, event_id, now, now + lease)
    turn = db.execute(QUERIES["insert_turn"], row).lastrowid
    entries = [
        Entry(event_id, session.key, first, turn_id, input.type, now, VISIBLE, input.body),
        Entry(ids.event_id(first + 1), session.key, first + 1, turn_id, started.type, now, VISIBLE, started.body),
    ]
    last_event_id = event_id
    if told is not None:
        last_event_id = ids.event_id(first + 2)
        entries.append(Entry(last_event_id, session.key, first + 2, turn_id, told.type, now, VISIBLE, told.body))
    insert(db, session.tenant_id, session.id, entries)
    db.execute(QUERIES["start_turn"], (turn_id, entries[-1].sequence, last_event_id, now, session.id))
    fence = Fence(session.id, turn or 0, 1)
    return Claim(agent=agent, session=session, turn_id=turn_id, fence=fence, opened=entries, waited=waited)


def insert(db: sqlite3.Connection, tenant_id: int, session_id: int, entries: Sequence[Entry]) -> None:
    """Put entries into a log; whoever calls moves its head."""
    values: list[Any] = []
    for e in entries:
        values += (tenant_id, session_id, e.sequence, e.id, e.turn_id, e.type, e.created_at, e.body)
    if entries:
        db.execute(_insert_events(len(entries)), values)


@lru_cache(maxsize=256)
def _insert_events(count: int) -> str:
    """One statement for several rows."""
    head, _, row = QUERIES["insert_event"].partition("VALUES ")
    return f"{head}VALUES {', '.join([row] * count)}"
