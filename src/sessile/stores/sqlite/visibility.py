"""Who may see an event, in SQLite: hide, unhide and delete, each with its record at the end of the log."""

import sqlite3

from sessile.domain import visibility
from sessile.domain.log import DELETED, HIDDEN, VISIBLE, Entry, draft
from sessile.rows import SessionRef, SessionRow, Shown
from sessile.stores import rows
from sessile.stores.sqlite import artifacts, compactions
from sessile.stores.sqlite.opening import insert
from sessile.stores.sqlite.verbs import QUERIES, Verbs, session_row
from sessile.wire import ids
from sessile.wire.errors import NotFound
from sessile.wire.events import EventDeletedRecord, EventHiddenRecord, EventUnhiddenRecord, VisibilityRecord


class Visibilities(Verbs):
    """Verbs of the `Store` port."""

    async def set_hidden(self, ref: SessionRef, event_id: str, hidden: bool) -> Shown:
        now = self._clock.now()
        return await self._writer.run(lambda db: _set_hidden(db, ref, event_id, hidden, now))

    async def delete_event(self, ref: SessionRef, event_id: str) -> Shown:
        now = self._clock.now()
        return await self._writer.run(lambda db: _delete(db, ref, event_id, now))


def _set_hidden(db: sqlite3.Connection, ref: SessionRef, event_id: str, hidden: bool, now: int) -> Shown:
    session, entry = _changeable(db, ref, event_id)
    if entry.hidden == hidden:
        return Shown(session.id, entry, [])
    place = {"session_id": session.id, "sequence": entry.sequence}
    db.execute(QUERIES["set_hidden"], place | {"hidden": HIDDEN if hidden else VISIBLE})
    record = EventHiddenRecord(event_id=event_id) if hidden else EventUnhiddenRecord(event_id=event_id)
    return Shown(session.id, _entry(db, session, entry.sequence), [_note(db, session, record, now)])


def _delete(db: sqlite3.Connection, ref: SessionRef, event_id: str, now: int) -> Shown:
    session, entry = _changeable(db, ref, event_id)
    left = visibility.erased(entry.event())
    if entry.type == "artifact_upload":
        artifacts.expire(db, session.id, entry.body)
    place = {"session_id": session.id, "sequence": entry.sequence}
    db.execute(QUERIES["erase_event"], place | {"hidden": DELETED, "body": left.body})
    compactions.mark_stale(db, session, entry.sequence)
    record = _note(db, session, EventDeletedRecord(event_id=event_id), now)
    return Shown(session.id, _entry(db, session, entry.sequence), [record])


def _changeable(db: sqlite3.Connection, ref: SessionRef, event_id: str) -> tuple[SessionRow, Entry]:
    """A session and an event of its log that a caller may hide or delete now."""
    session = session_row(db, ref)
    sequence = ids.sequence_of(event_id)
    entry = None if sequence is None else _found(db, session, sequence)
    if entry is None or entry.id != event_id or entry.deleted:
        raise NotFound(f"There is no event {event_id!r} in this session.", id=event_id)
    visibility.check(entry.type, entry.turn_id, _unfinished(db, session))
    return session, entry


def _unfinished(db: sqlite3.Connection, session: SessionRow) -> str | None:
    """The turn that runs, or that waits for a client's tools."""
    if session.stop_reason != "requires_action":
        return session.running_turn
    row = db.execute(QUERIES["newest_turn"], {"session_id": session.id}).fetchone()
    turn_id: str | None = row and row[0]
    return turn_id


def _found(db: sqlite3.Connection, session: SessionRow, sequence: int) -> Entry | None:
    row = db.execute(QUERIES["get_event"], {"session_id": session.id, "sequence": sequence}).fetchone()
    return row and rows.entry(session.key, row)


def _entry(db: sqlite3.Connection, session: SessionRow, sequence: int) -> Entry:
    entry = _found(db, session, sequence)
    assert entry is not None
    return entry


def _note(db: sqlite3.Connection, session: SessionRow, record: VisibilityRecord, now: int) -> Entry:
    """Append a record that belongs to no turn, wherever the log has got to by now."""
    head, made = session.last_sequence + 1, draft(record)
    entry = Entry(ids.event_id(head), session.key, head, "", made.type, now, VISIBLE, made.body)
    insert(db, session.tenant_id, session.id, [entry])
    db.execute(QUERIES["note_in_log"], {"head": head, "now": now, "session_id": session.id})
    return entry
