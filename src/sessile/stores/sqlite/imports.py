"""Imported logs in SQLite: written slice by slice into a session that nobody sees before the last commit."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from os import urandom
from typing import Any

from msgspec import UNSET

from sessile.domain import copies
from sessile.domain.log import Entry
from sessile.domain.session import fold
from sessile.rows import NewArtifact, NewSession, SessionRef, SessionRow
from sessile.stores.sqlite import artifacts
from sessile.stores.sqlite import copies as unseen
from sessile.stores.sqlite.verbs import QUERIES, Verbs, session_row
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidRequest
from sessile.wire.events import AnyEvent, TurnEndedRecord, TurnStartedRecord
from sessile.wire.sessions import Usage


class Imports(Verbs):
    """Verbs of the `Store` port."""

    async def import_session(
        self, tenant_id: int, agent_key: str, new: NewSession, slices: AsyncIterator[Sequence[Entry | NewArtifact]]
    ) -> SessionRow:
        now = self._clock.now()

        def begin(db: sqlite3.Connection) -> int:
            unseen.free(db, tenant_id, agent_key, new.key)
            return unseen.begin(db, now)

        copy_id = await self._writer.run(begin)
        made = None
        try:
            log_of = _ImportedLog(tenant_id, copy_id)
            async for items in slices:
                now = self._clock.now()
                await self._writer.run(lambda db, items=items, now=now: log_of.write(db, items, now))  # type: ignore[misc]
                log_of.written(items)
            now = self._clock.now()

            def finish(db: sqlite3.Connection) -> SessionRow:
                unseen.finish(db, copy_id, now, tenant_id, agent_key, unseen.settings(new) | log_of.state())
                return session_row(db, SessionRef(tenant_id, agent_key, new.key))

            made = await self._writer.run(finish)
        finally:
            if made is None:
                unseen.give_up(self._writer, copy_id)
        return made


class _ImportedLog:
    """What was written so far. `write` may run twice for a slice: only `written` moves on."""

    def __init__(self, tenant_id: int, copy_id: int) -> None:
        self._tenant_id = tenant_id
        self._copy_id = copy_id
        self._salt: bytes | None = None
        self._begun = False
        self._state = fold([])
        self._started: Entry | None = None
        """The `turn_started` of the turn that has no end yet."""

    def write(self, db: sqlite3.Connection, items: Sequence[Entry | NewArtifact], now: int) -> None:
        """Write a slice. Every id is new when the first turn of the log is here already, else all are kept."""
        unseen.touch(db, self._copy_id, now)
        artifacts.insert(db, self._tenant_id, self._copy_id, _files(items), now)
        entries = _entries(items)
        if not self._begun:
            first = next((entry.turn_id for entry in entries if entry.turn_id), "")
            taken = db.execute(QUERIES["turn_is_there"], {"turn_id": first}).fetchone()
            self._salt = urandom(copies.SALT_BYTES) if taken else None
            self._begun = True
        db.executemany(QUERIES["insert_imported_event"], [self._row(entry) for entry in entries])
        try:
            db.executemany(QUERIES["insert_ended_turn"], self._turns(entries))
        except sqlite3.IntegrityError:
            raise InvalidRequest("A turn of the export has the id of a turn that is here already.") from None

    def written(self, items: Sequence[Entry | NewArtifact]) -> None:
        """A slice is durable."""
        entries = _entries(items)
        self._state = fold((entry.event() for entry in entries), self._state)
        for entry in entries:
            if entry.type in ("turn_started", "turn_ended"):
                self._started = entry if entry.type == "turn_started" else None

    def state(self) -> dict[str, Any]:
        """What the row of the session says of the whole log."""
        last = self._state.last_event_id
        return {
            "stop_reason": self._state.stop_reason,
            "last_sequence": self._state.last_sequence,
            "last_event_id": last and self._id(last),
            "usage": codec.encode(self._state.usage),
            "context_usage": None,
        }

    def _turns(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """The rows of the turns that end in a slice."""
        turns, started = [], self._started
        for entry in entries:
            if entry.type == "turn_started":
                started = entry
            elif entry.type == "turn_ended" and started is not None:
                turns.append(self._turn(started, started.event(), entry, entry.event()))
        return turns

    def _turn(self, started: Entry, start: AnyEvent, ended: Entry, end: AnyEvent) -> dict[str, Any]:
        assert isinstance(start, TurnStartedRecord)
        assert isinstance(end, TurnEndedRecord)
        input_id = start.input_event_id
        return {
            "tenant_id": self._tenant_id,
            "copy_id": self._copy_id,
            "turn_id": self._id(started.turn_id),
            "input_sequence": started.sequence if input_id is UNSET else ids.sequence_of(input_id),
            "input_event_id": "" if input_id is UNSET else self._id(input_id),
            "stop_reason": end.stop_reason,
            "error": codec.encode(end.error) if end.error else None,
            "usage": codec.encode(end.usage) if end.usage != Usage() else b"{}",
            "created_at": started.created_at,
            "ended_at": ended.created_at,
        }

    def _row(self, entry: Entry) -> tuple[Any, ...]:
        body = entry.body
        if self._salt is not None and entry.type in copies.REFERRING:
            body = copies.renamed_within(body, self._salt)
        place = (self._tenant_id, self._copy_id, entry.sequence, self._id(entry.id), self._id(entry.turn_id))
        return (*place, entry.type, entry.visibility, entry.created_at, body)

    def _id(self, id: str) -> str:
        return id if self._salt is None else copies.renamed(id, self._salt)


def _entries(items: Sequence[Entry | NewArtifact]) -> list[Entry]:
    return [item for item in items if isinstance(item, Entry)]


def _files(items: Sequence[Entry | NewArtifact]) -> list[NewArtifact]:
    return [item for item in items if isinstance(item, NewArtifact)]
