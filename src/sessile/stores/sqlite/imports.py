"""Imported logs in SQLite: written slice by slice into a session that nobody sees before the last commit."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import asdict

from sessile.domain.log import Entry
from sessile.rows import Kept, NewArtifact, NewSession, SessionRef, SessionRow, StreamOnce
from sessile.stores import rows, rules
from sessile.stores.copying import ImportedLog, entries, files, first_turn, read_through, same_turn_twice, settings
from sessile.stores.sqlite import artifacts
from sessile.stores.sqlite import copies as unseen
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.verbs import QUERIES, Verbs, session_row


class Imports(Verbs):
    """Verbs of the `Store` port."""

    async def import_session(
        self,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        slices: AsyncIterator[Sequence[Entry | NewArtifact]],
        once: StreamOnce | None = None,
    ) -> SessionRow:
        now = self._clock.now()

        def begin(db: sqlite3.Connection) -> int | Kept:
            if once is not None and (kept := keys.find(db, tenant_id, rules.IMPORTS, once.key, now)) is not None:
                return kept
            unseen.free(db, tenant_id, agent_key, new.key)
            return unseen.begin(db, now)

        begun = await self._writer.run(begin)
        if isinstance(begun, int):
            return await self._import(begun, tenant_id, agent_key, new, slices, once)
        assert once is not None
        kept, same = begun, await read_through(slices, once)
        found = rules.same(kept, same)
        return await self._readers.run(lambda db: rows.session(keys.still(db, "made_session", found, same)))

    async def _import(
        self,
        copy_id: int,
        tenant_id: int,
        agent_key: str,
        new: NewSession,
        slices: AsyncIterator[Sequence[Entry | NewArtifact]],
        once: StreamOnce | None,
    ) -> SessionRow:
        made = None
        try:
            log = ImportedLog()
            async for items in slices:
                now = self._clock.now()
                await self._writer.run(_writing(log, tenant_id, copy_id, items, now))
                log.written(entries(items))
            now, whole = self._clock.now(), once.whole() if once is not None else None

            def finish(db: sqlite3.Connection) -> SessionRow:
                if whole is not None:
                    found = keys.made(db, tenant_id, rules.IMPORTS, whole, now)
                    if found is not None:
                        return rows.session(keys.still(db, "made_session", found, whole))
                    keys.keep(db, tenant_id, rules.IMPORTS, whole, copy_id, now)
                unseen.finish(db, copy_id, now, tenant_id, agent_key, settings(new) | log.state())
                return session_row(db, SessionRef(tenant_id, agent_key, new.key))

            made = await self._writer.run(finish)
        finally:
            if made is None or made.id != copy_id:
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
    place = {"tenant_id": tenant_id, "copy_id": copy_id}
    unseen.touch(db, copy_id, now)
    artifacts.insert(db, tenant_id, copy_id, files(items), now)
    events = entries(items)
    if not log.begun and (turn_id := first_turn(events)):
        claim = place | {"turn_id": turn_id, "now": now}
        log.begin(taken=db.execute(QUERIES["claim_turn"], claim).rowcount == 0)
    db.executemany(QUERIES["insert_imported_event"], [(tenant_id, copy_id, *event) for event in log.events(events)])
    turns = log.turns(events)
    for turn in turns[:1]:
        db.execute(QUERIES["release_turn"], place | {"turn_id": turn.turn_id})
    try:
        db.executemany(QUERIES["insert_ended_turn"], [place | asdict(turn) for turn in turns])
    except sqlite3.IntegrityError:
        raise same_turn_twice() from None
