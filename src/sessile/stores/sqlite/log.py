"""The log of a session in SQLite: accept, append, read. Functions of a connection, run inside a lane's transaction."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import Admit
from sessile.rows import (
    Claim,
    EventQuery,
    Fence,
    Interruption,
    NewArtifact,
    Once,
    Page,
    Rejoined,
    SessionRef,
    SessionRow,
    TurnEnd,
    TurnProgress,
    Uploaded,
)
from sessile.stores.sqlite import artifacts as files
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite import rows
from sessile.stores.sqlite.verbs import QUERIES
from sessile.wire import codec, ids
from sessile.wire.errors import FenceLost, NotFound, PreconditionFailed, SessionRunning
from sessile.wire.events import RECORD_TYPES, TurnEndedRecord, TurnStartedRecord

_UNTIL_IT_STOPS = "wait until it has stopped, or interrupt it. Queueing an input is not built yet."
_EXAMINED = 1_000
"""How many places of a log one page may look at."""


def turn_ended(end: TurnEnd, progress: TurnProgress) -> TurnEndedRecord:
    """The record that ends a turn."""
    return TurnEndedRecord(stop_reason=end.stop_reason, error=end.error, usage=progress.turn_usage)


def accept_input(
    db: sqlite3.Connection,
    ref: SessionRef,
    input: Draft,
    turn_id: str,
    admit: Admit,
    now: int,
    once: Once | None,
    if_match: str | None,
    uploaded: Uploaded | None = None,
) -> Claim | Rejoined:
    """`Store.accept_input` within a transaction."""
    where = {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}
    row = db.execute(QUERIES["session_for_input"], where).fetchone()
    if row is None:
        raise NotFound(f"There is no session {ref.session_key!r}.", id=ref.session_key)
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    if once is not None:
        made = keys.made(db, session.tenant_id, keys.inputs_of(session.id), once, now)
        if made is not None:
            return _rejoin(db, session, made)
    admit(agent, session)
    if session.status == "running":
        raise SessionRunning(f"Turn {row[11]} of this session is running; {_UNTIL_IT_STOPS}", id=row[11])
    if if_match is not None and if_match != (session.last_event_id or "start"):
        raise PreconditionFailed(f"The last event of the session is {session.last_event_id or 'none'} now.")
    if uploaded is not None:
        files.check_room(db, session.id, uploaded.artifacts, now)
    first = session.last_sequence + 1
    event_id = ids.event_id(first)
    started = draft(TurnStartedRecord(input_event_id=event_id))
    turn = db.execute(QUERIES["insert_turn"], (session.tenant_id, session.id, turn_id, first, event_id, now)).lastrowid
    entries = [
        Entry(event_id, session.key, first, turn_id, input.type, now, False, input.body),
        Entry(ids.event_id(first + 1), session.key, first + 1, turn_id, started.type, now, False, started.body),
    ]
    last_event_id = event_id
    if uploaded is not None:
        files.insert(db, session.tenant_id, session.id, uploaded.artifacts, now)
        told, last_event_id = uploaded.event, ids.event_id(first + 2)
        entries.append(Entry(last_event_id, session.key, first + 2, turn_id, told.type, now, False, told.body))
    _insert(db, session.tenant_id, session.id, entries)
    db.execute(QUERIES["start_turn"], (turn_id, entries[-1].sequence, last_event_id, now, session.id))
    if once is not None:
        keys.keep(db, session.tenant_id, keys.inputs_of(session.id), once, turn or 0, now)
    return Claim(agent=agent, session=session, turn_id=turn_id, fence=Fence(session.id, turn or 0, 1), opened=entries)


def _rejoin(db: sqlite3.Connection, session: SessionRow, made: int) -> Rejoined:
    turn_id, running, *event = db.execute(QUERIES["made_turn"], {"made": made}).fetchone()
    entry = rows.entry(session.key, tuple(event))
    return Rejoined(session=session, turn_id=turn_id, opened=[entry], running=bool(running))


def interrupt(db: sqlite3.Connection, ref: SessionRef, now: int) -> Interruption:
    """`Store.interrupt` within a transaction."""
    where = {"tenant_id": ref.tenant_id, "agent_key": ref.agent_key, "session_key": ref.session_key}
    row = db.execute(QUERIES["get_session"], where).fetchone()
    if row is None:
        raise NotFound(f"There is no session {ref.session_key!r}.", id=ref.session_key)
    session = rows.session(row)
    if session.running_turn is not None:
        db.execute(QUERIES["interrupt_turn"], {"turn_id": session.running_turn, "now": now})
    return Interruption(session, session.running_turn)


def append(
    db: sqlite3.Connection,
    fence: Fence,
    drafts: Sequence[Draft],
    progress: TurnProgress,
    end: TurnEnd | None,
    now: int,
    artifacts: Sequence[NewArtifact] = (),
) -> list[Entry]:
    """`Store.append` within a transaction; with `end`, the last draft is the turn's `turn_ended`."""
    row = db.execute(QUERIES["fenced_turn"], (fence.turn, fence.session_id, fence.token)).fetchone()
    if row is None:
        raise FenceLost
    turn_id, tenant_id, session_key, head, last_event_id = row
    entries = [
        Entry(ids.event_id(sequence), session_key, sequence, turn_id, item.type, now, False, item.body)
        for sequence, item in enumerate(drafts, head + 1)
    ]
    _insert(db, tenant_id, fence.session_id, entries)
    if artifacts:
        files.insert(db, tenant_id, fence.session_id, artifacts, now)
    last_event_id = _last_shown(entries) or last_event_id
    turn_usage, usage = codec.encode(progress.turn_usage), codec.encode(progress.session_usage)
    context = codec.encode(progress.context_usage) if progress.context_usage else None
    head += len(entries)
    if end is None:
        db.execute(QUERIES["advance_session"], (head, last_event_id, usage, context, now, fence.session_id))
        db.execute(QUERIES["advance_turn"], (turn_usage, fence.turn))
    else:
        error = codec.encode(end.error) if end.error else None
        db.execute(
            QUERIES["stop_session"], (end.stop_reason, head, last_event_id, usage, context, now, fence.session_id)
        )
        db.execute(QUERIES["end_turn"], (end.stop_reason, error, turn_usage, now, fence.turn))
    return entries


def read(db: sqlite3.Connection, session_id: int, query: EventQuery) -> Page[Entry]:
    """`Store.read_log` within a transaction: looks at no more than a fixed number of places from the cursor on."""
    row = db.execute(QUERIES["session_key"], {"session_id": session_id}).fetchone()
    if row is None:
        return Page([], None)
    session_key, head = row
    if query.order == "asc":
        after = query.cursor or 0
        before = after + _EXAMINED + 1
        more, edge = before <= head, before - 1
    else:
        before = head + 1 if query.cursor is None else min(query.cursor, head + 1)
        after = max(before - _EXAMINED - 1, 0)
        more, edge = after > 0, after + 1
    values = {
        "session_id": session_id,
        "after": after,
        "before": before,
        "records": query.records,
        "include_hidden": query.include_hidden,
        "types": f",{','.join(query.types)}," if query.types is not None else None,
        "limit": query.limit + 1,
    }
    found = [rows.entry(session_key, row) for row in db.execute(QUERIES[f"list_events_{query.order}"], values)]
    if len(found) > query.limit:
        return Page(found[: query.limit], found[query.limit - 1].sequence)
    return Page(found, edge if more else None)


def take_unfinished_turns(db: sqlite3.Connection) -> list[Claim]:
    """`Store.take_unfinished_turns` within a transaction."""
    claims = []
    for row in db.execute(QUERIES["unfinished_turns"]).fetchall():
        session = rows.session(row)
        turn, turn_id, token, usage, interrupted_at = row[rows.SESSION_COLUMNS + rows.AGENT_COLUMNS :]
        db.execute(QUERIES["raise_fence"], {"id": turn})
        claims.append(
            Claim(
                agent=rows.agent(row[rows.SESSION_COLUMNS :]),
                session=session,
                turn_id=turn_id,
                fence=Fence(session.id, turn, token + 1),
                opened=[],
                usage=rows.stored_json(usage),
                interrupted=interrupted_at is not None,
            )
        )
    return claims


def _insert(db: sqlite3.Connection, tenant_id: int, session_id: int, entries: Sequence[Entry]) -> None:
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


def _last_shown(entries: Sequence[Entry]) -> str | None:
    """The newest event that the contract's list shows."""
    return next((entry.id for entry in reversed(entries) if entry.type not in RECORD_TYPES), None)
