"""Who may see an event, in PostgreSQL: hide, unhide and delete, each with its record at the end of the log."""

from sessile.domain import visibility
from sessile.domain.log import DELETED, HIDDEN, VISIBLE, Entry, draft
from sessile.rows import SessionRef, SessionRow, Shown
from sessile.stores import rows, rules
from sessile.stores.postgres import artifacts, compactions
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.opening import insert
from sessile.stores.postgres.verbs import Verbs, session_row
from sessile.wire import ids
from sessile.wire.errors import NotFound
from sessile.wire.events import EventDeletedRecord, EventHiddenRecord, EventUnhiddenRecord, VisibilityRecord


class Visibilities(Verbs):
    """Verbs of the `Store` port."""

    async def set_hidden(self, ref: SessionRef, event_id: str, hidden: bool) -> Shown:
        now = self._clock.now()
        return await self._write(lambda db: _set_hidden(db, ref, event_id, hidden, now))

    async def delete_event(self, ref: SessionRef, event_id: str) -> Shown:
        now = self._clock.now()
        return await self._write(lambda db: _delete(db, ref, event_id, now))


async def _set_hidden(db: Db, ref: SessionRef, event_id: str, hidden: bool, now: int) -> Shown:
    session, entry = await _changeable(db, ref, event_id)
    if entry.hidden == hidden:
        return Shown(session.id, entry, [])
    place = {"session_id": session.id, "sequence": entry.sequence}
    await db.count("set_hidden", **place, hidden=HIDDEN if hidden else VISIBLE)
    record = EventHiddenRecord(event_id=event_id) if hidden else EventUnhiddenRecord(event_id=event_id)
    return Shown(session.id, await _entry(db, session, entry.sequence), [await _note(db, session, record, now)])


async def _delete(db: Db, ref: SessionRef, event_id: str, now: int) -> Shown:
    session, entry = await _changeable(db, ref, event_id)
    left = visibility.erased(entry.event())
    if entry.type == "artifact_upload":
        await artifacts.expire(db, session.id, entry.body)
    place = {"session_id": session.id, "sequence": entry.sequence}
    await db.count("erase_event", **place, hidden=DELETED, body=left.body)
    await compactions.mark_stale(db, session, entry.sequence)
    record = await _note(db, session, EventDeletedRecord(event_id=event_id), now)
    return Shown(session.id, await _entry(db, session, entry.sequence), [record])


async def _changeable(db: Db, ref: SessionRef, event_id: str) -> tuple[SessionRow, Entry]:
    """A session and an event of its log that a caller may hide or delete now."""
    session = await session_row(db, ref, "lock_session")
    sequence = ids.sequence_of(event_id)
    entry = None if sequence is None else await _found(db, session, sequence)
    if entry is None or entry.id != event_id or entry.deleted:
        raise NotFound(f"There is no event {event_id!r} in this session.", id=event_id)
    visibility.check(entry.type, entry.turn_id, await _unfinished(db, session))
    return session, entry


async def _unfinished(db: Db, session: SessionRow) -> str | None:
    """The turn that runs, or that waits for a client's tools."""
    if session.stop_reason != "requires_action":
        return session.running_turn
    row = await db.one("newest_turn", session_id=session.id)
    return None if row is None else row[0]


async def _found(db: Db, session: SessionRow, sequence: int) -> Entry | None:
    row = await db.one("get_event", session_id=session.id, sequence=sequence)
    return None if row is None else rows.entry(session.key, row)


async def _entry(db: Db, session: SessionRow, sequence: int) -> Entry:
    entry = await _found(db, session, sequence)
    assert entry is not None
    return entry


async def _note(db: Db, session: SessionRow, record: VisibilityRecord, now: int) -> Entry:
    """Append a record that belongs to no turn, wherever the log has got to by now."""
    (entry,) = rules.placed([draft(record)], session.key, session.last_sequence, "", now)
    await insert(db, session.tenant_id, session.id, [entry])
    await db.count("note_in_log", head=entry.sequence, now=now, session_id=session.id)
    return entry
