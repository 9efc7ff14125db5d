"""Inputs that wait, in SQLite: put, take, withdraw. Functions of a connection, run inside a lane's transaction."""

import sqlite3
from typing import Any

from sessile.domain.log import VISIBLE, Draft, Entry
from sessile.rows import Claim, Fence, Queued, Rejoined, SessionRow, WaitingInput
from sessile.stores import rows
from sessile.stores.sqlite import artifacts as files
from sessile.stores.sqlite.opening import insert, open_turn
from sessile.stores.sqlite.verbs import QUERIES
from sessile.wire import ids
from sessile.wire.errors import FenceLost, InputTaken, InputWithdrawn, NotFound, TooManyInputs
from sessile.wire.inputs import Behavior
from sessile.wire.limits import MAX_WAITING_INPUTS

_TYPE = "input_message"
_UPLOAD = "artifact_upload"


def put(
    db: sqlite3.Connection,
    session: SessionRow,
    input: Draft,
    turn_id: str,
    behavior: Behavior,
    now: int,
    told: Draft | None = None,
) -> tuple[Queued, int]:
    """Let an input wait, and what tells of its files with it; also returns the id of its row. Raises TooManyInputs."""
    (waiting,) = db.execute(QUERIES["count_waiting"], {"session_id": session.id}).fetchone()
    if waiting >= MAX_WAITING_INPUTS:
        raise TooManyInputs(f"{waiting} inputs wait in this session, as many as may.")
    event_id, upload = ids.waiting_id(), None if told is None else told.body
    values = {
        "tenant_id": session.tenant_id,
        "session_id": session.id,
        "event_id": event_id,
        "turn_id": turn_id,
        "behavior": behavior,
        "body": input.body,
        "upload": upload,
        "now": now,
    }
    row_id = db.execute(QUERIES["insert_input"], values).lastrowid or 0
    db.execute(QUERIES["use_session"], {"session_id": session.id, "now": now})
    made = WaitingInput(
        event_id=event_id, turn_id=turn_id, behavior=behavior, body=input.body, upload=upload, created_at=now
    )
    return Queued(session=session, input=made), row_id


def again(db: sqlite3.Connection, session: SessionRow, row_id: int) -> Queued | Rejoined:
    """An input that came before under an idempotency key, wherever it stands now. Raises InputWithdrawn."""
    row = db.execute(QUERIES["made_input"], {"id": row_id}).fetchone()
    waits, taken_sequence = row[rows.WAITING_COLUMNS :]
    if waits:
        return Queued(session=session, input=rows.waiting_input(row))
    if taken_sequence is None:
        raise InputWithdrawn(id=row[1])
    place = {"session_id": session.id, "sequence": taken_sequence}
    turn_id, running, *event = db.execute(QUERIES["taken_input"], place).fetchone()
    entry = rows.entry(session.key, tuple(event))
    return Rejoined(session=session, turn_id=turn_id, opened=[entry], running=bool(running))


def take_next(db: sqlite3.Connection, session_id: int, now: int, lease: int) -> Claim | None:
    """Start the turn of the input that has waited longest, in a session whose turn has just ended."""
    db.execute(QUERIES["follow_up"], {"session_id": session_id})
    found = db.execute(QUERIES["list_waiting"], {"session_id": session_id, "limit": 1}).fetchone()
    if found is None:
        return None
    row = db.execute(QUERIES["session_to_run"], {"session_id": session_id}).fetchone()
    session, agent = rows.session(row), rows.agent(row[rows.SESSION_COLUMNS :])
    input = rows.waiting_input(found)
    sequence = session.last_sequence + 1
    event_id = ids.placed_id(input.event_id, sequence)
    _take(db, found[0], sequence, input.turn_id)
    told = None if input.upload is None else Draft(_UPLOAD, input.upload)
    body = Draft(_TYPE, input.body)
    return open_turn(db, agent, session, input.turn_id, event_id, body, now, lease, told, waited=True)


def take_steering(db: sqlite3.Connection, fence: Fence, now: int) -> list[Entry]:
    """`Store.take_steering` within a transaction."""
    turn = db.execute(QUERIES["fenced_turn"], (fence.turn, fence.session_id, fence.token)).fetchone()
    if turn is None:
        raise FenceLost
    turn_id, tenant_id, session_key, head, *_ = turn
    entries = []
    for row in db.execute(QUERIES["list_steering"], {"session_id": fence.session_id}).fetchall():
        input = rows.waiting_input(row)
        head += 1
        event_id = ids.placed_id(input.event_id, head)
        entries.append(Entry(event_id, session_key, head, turn_id, _TYPE, now, VISIBLE, input.body))
        _take(db, row[0], head, turn_id)
        if input.upload is not None:
            head += 1
            entries.append(Entry(ids.event_id(head), session_key, head, turn_id, _UPLOAD, now, VISIBLE, input.upload))
    if entries:
        insert(db, tenant_id, fence.session_id, entries)
        place: dict[str, Any] = {"sequence": head, "event_id": entries[-1].id}
        db.execute(QUERIES["move_head"], place | {"now": now, "session_id": fence.session_id})
    return entries


def withdraw(db: sqlite3.Connection, session_id: int, event_id: str) -> None:
    """Let an input wait no more. Raises InputTaken, NotFound."""
    row = db.execute(QUERIES["find_input"], {"session_id": session_id, "event_id": event_id}).fetchone()
    waits, taken_sequence = (False, None) if row is None else row[rows.WAITING_COLUMNS :]
    if taken_sequence is not None:
        raise InputTaken(id=row[2])
    if not waits:
        raise NotFound(f"No input waits under the id {event_id!r}.", id=event_id)
    if (upload := rows.waiting_input(row).upload) is not None:
        files.expire(db, session_id, upload)
    db.execute(QUERIES["withdraw_input"], {"id": row[0]})


def place_of(db: sqlite3.Connection, session_id: int, event_id: str) -> int | None:
    """Where the input stands that has waited under this id, once it was taken."""
    row = db.execute(QUERIES["find_input"], {"session_id": session_id, "event_id": event_id}).fetchone()
    return None if row is None else row[rows.WAITING_COLUMNS + 1]


def _take(db: sqlite3.Connection, row_id: int, sequence: int, turn_id: str) -> None:
    db.execute(QUERIES["take_input"], {"id": row_id, "sequence": sequence, "turn_id": turn_id})
