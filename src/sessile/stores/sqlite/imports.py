"""Imported logs in SQLite: written slice by slice into a session that nobody sees before the last commit."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import asdict

from sessile.domain.log import Entry
from sessile.rows import NewArtifact, NewSession, SessionRef, SessionRow
from sessile.stores.copying import ImportedLog, entries, files, same_turn_twice, settings
from sessile.stores.sqlite import artifacts
from sessile.stores.sqlite import copies as unseen
from sessile.stores.sqlite.verbs import QUERIES, Verbs, session_row


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
            log_of = ImportedLog()
            async for items in slices:
                now = self._clock.now()
                await self._writer.run(_writing(log_of, tenant_id, copy_id, items, now))
                log_of.written(entries(items))
            now = self._clock.now()

            def finish(db: sqlite3.Connection) -> SessionRow:
                unseen.finish(db, copy_id, now, tenant_id, agent_key, settings(new) | log_of.state())
                return session_row(db, SessionRef(tenant_id, agent_key, new.key))

            made = await self._writer.run(finish)
        finally:
            if made is None:
                unseen.give_up(self._writer, copy_id)
        return made


def _writing(
    log: ImportedLog, tenant_id: int, copy_id: int, items: Sequence[Entry | NewArtifact], now: int
) -> Callable[[sqlite3.Connection], None]:
    return lambda db: _write(db, log, tenant_id, copy_id, items, now)


def _write(
    db: sqlite3.Connection,
    log: ImportedLog,
    tenant_id: int,
    copy_id: int,
    items: Sequence[Entry | NewArtifact],
    now: int,
) -> None:
    unseen.touch(db, copy_id, now)
    artifacts.insert(db, tenant_id, copy_id, files(items), now)
    events = entries(items)
    if not log.begun:
        first = next((entry.turn_id for entry in events if entry.turn_id), "")
        log.begin(db.execute(QUERIES["turn_is_there"], {"turn_id": first}).fetchone() is not None)
    db.executemany(QUERIES["insert_imported_event"], [(tenant_id, copy_id, *event) for event in log.events(events)])
    place = {"tenant_id": tenant_id, "copy_id": copy_id}
    try:
        db.executemany(QUERIES["insert_ended_turn"], [place | asdict(turn) for turn in log.turns(events)])
    except sqlite3.IntegrityError:
        raise same_turn_twice() from None
