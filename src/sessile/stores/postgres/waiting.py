"""Inputs that wait, in PostgreSQL: put, take, withdraw. Run inside a transaction that has locked the session."""

from sessile.domain.log import VISIBLE, Draft, Entry
from sessile.rows import Claim, Fence, Queued, Rejoined, SessionRow, WaitingInput
from sessile.stores import rows
from sessile.stores.postgres import artifacts as files
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.opening import Opening, insert, open_turns
from sessile.wire import ids
from sessile.wire.errors import FenceLost, InputTaken, InputWithdrawn, NotFound, TooManyInputs
from sessile.wire.inputs import Behavior
from sessile.wire.limits import MAX_WAITING_INPUTS

_TYPE = "input_message"
_UPLOAD = "artifact_upload"


async def put(
    db: Db,
    session: SessionRow,
    input: Draft,
    turn_id: str,
    behavior: Behavior,
    now: int,
    told: Draft | None = None,
) -> tuple[Queued, int]:
    """Let an input wait, and what tells of its files with it; also returns the id of its row. Raises TooManyInputs."""
    found = await db.one("count_waiting", session_id=session.id)
    waiting = found[0] if found else 0
    if waiting >= MAX_WAITING_INPUTS:
        raise TooManyInputs(f"{waiting} inputs wait in this session, as many as may.")
    event_id, upload = ids.waiting_id(), None if told is None else told.body
    ((row_id,),) = await db.change(
        "insert_input",
        tenant_id=session.tenant_id,
        session_id=session.id,
        event_id=event_id,
        turn_id=turn_id,
        behavior=behavior,
        body=input.body,
        upload=upload,
        now=now,
    )
    db.changed.sessions.add(session.id)
    await db.count("use_session", session_id=session.id, now=now)
    made = WaitingInput(
        event_id=event_id, turn_id=turn_id, behavior=behavior, body=input.body, upload=upload, created_at=now
    )
    return Queued(session=session, input=made), row_id


async def again(db: Db, session: SessionRow, row_id: int) -> Queued | Rejoined:
    """An input that came before under an idempotency key, wherever it stands now. Raises InputWithdrawn."""
    row = await db.one("made_input", id=row_id)
    assert row is not None
    waits, taken_sequence = row[rows.WAITING_COLUMNS :]
    if waits:
        return Queued(session=session, input=rows.waiting_input(row))
    if taken_sequence is None:
        raise InputWithdrawn(id=row[1])
    return await rejoined(db, session, "taken_input", session_id=session.id, sequence=taken_sequence)


async def rejoined(db: Db, session: SessionRow, query: str, **values: int) -> Rejoined:
    """A turn that an idempotency key has made, and the event it came with."""
    row = await db.one(query, **values)
    assert row is not None
    entry = rows.entry(session.key, row[2:])
    return Rejoined(session=session, turn_id=row[0], opened=[entry], running=row[1])


async def take_next(db: Db, session_id: int, now: int, lease_until: int) -> Claim | None:
    """Start the turn of the input that has waited longest, in a session whose turn has just ended."""
    await db.count("follow_up", session_id=session_id)
    found = await db.one("list_waiting", session_id=session_id, limit=1)
    row = await db.one("session_to_run", session_id=session_id)
    if found is None or row is None:
        return None
    session, input = rows.session(row), rows.waiting_input(found)
    sequence = session.last_sequence + 1
    await _take(db, found[0], sequence, input.turn_id)
    opening = Opening(
        agent=rows.agent(row[rows.SESSION_COLUMNS :]),
        session=session,
        turn_id=input.turn_id,
        event_id=ids.placed_id(input.event_id, sequence),
        input=Draft(_TYPE, input.body),
        now=now,
        lease_until=lease_until,
        told=None if input.upload is None else Draft(_UPLOAD, input.upload),
        waited=True,
    )
    (claim,) = await open_turns(db, [opening])
    return claim


async def take_steering(db: Db, fence: Fence, now: int) -> list[Entry]:
    """`Store.take_steering` within a transaction."""
    turn = await db.one("fenced_turns", turns=[fence.turn])
    if turn is None or turn[1] != fence.session_id or turn[2] != fence.token:
        raise FenceLost
    turn_id, tenant_id, session_key, head, _ = turn[3:]
    entries = []
    for row in await db.all("list_steering", session_id=fence.session_id):
        input = rows.waiting_input(row)
        head += 1
        event_id = ids.placed_id(input.event_id, head)
        entries.append(Entry(event_id, session_key, head, turn_id, _TYPE, now, VISIBLE, input.body))
        await _take(db, row[0], head, turn_id)
        if input.upload is not None:
            head += 1
            entries.append(Entry(ids.event_id(head), session_key, head, turn_id, _UPLOAD, now, VISIBLE, input.upload))
    if entries:
        await insert(db, tenant_id, fence.session_id, entries)
        last = {"sequence": head, "event_id": entries[-1].id}
        await db.count("move_head", **last, now=now, session_id=fence.session_id)
    return entries


async def withdraw(db: Db, session_id: int, event_id: str) -> None:
    """Let an input wait no more. Raises InputTaken, NotFound."""
    row = await db.one("find_input", session_id=session_id, event_id=event_id)
    waits, taken_sequence = (False, None) if row is None else row[rows.WAITING_COLUMNS :]
    if row is not None and taken_sequence is not None:
        raise InputTaken(id=row[2])
    if row is None or not waits:
        raise NotFound(f"No input waits under the id {event_id!r}.", id=event_id)
    if (upload := rows.waiting_input(row).upload) is not None:
        await files.expire(db, session_id, upload)
    db.changed.sessions.add(session_id)
    await db.count("withdraw_input", id=row[0])


async def place_of(db: Db, session_id: int, event_id: str) -> int | None:
    """Where the input stands that has waited under this id, once it was taken."""
    row = await db.one("find_input", session_id=session_id, event_id=event_id)
    return None if row is None else row[rows.WAITING_COLUMNS + 1]


async def _take(db: Db, row_id: int, sequence: int, turn_id: str) -> None:
    await db.count("take_input", id=row_id, sequence=sequence, turn_id=turn_id)
