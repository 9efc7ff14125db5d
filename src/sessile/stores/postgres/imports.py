"""Imported logs in PostgreSQL: written slice by slice into a session that nobody sees before the last commit."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import asyncpg

from sessile.domain.log import Entry
from sessile.rows import NewArtifact, NewSession, SessionRef, SessionRow
from sessile.stores.copying import ImportedLog, entries, files, same_turn_twice, settings
from sessile.stores.postgres import artifacts
from sessile.stores.postgres import copies as unseen
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs, check, session_row


class Imports(Verbs):
    """Verbs of the `Store` port."""

    async def import_session(
        self, tenant_id: int, agent_key: str, new: NewSession, slices: AsyncIterator[Sequence[Entry | NewArtifact]]
    ) -> SessionRow:
        check("agent", agent_key)
        now = self._clock.now()

        async def begin(db: Db) -> int:
            await unseen.check_free(db, tenant_id, agent_key, new.key)
            return await unseen.begin(db, now)

        copy_id = await unseen.begin_for(self._connections, begin, lambda copy_id: copy_id)
        made = None
        try:
            log = ImportedLog()
            place = {"tenant_id": tenant_id, "copy_id": copy_id}
            async for items in slices:
                await self._write(partial(_write, log=log, place=place, items=items, now=self._clock.now()))
                log.written(entries(items))
            now = self._clock.now()

            async def finish(db: Db) -> SessionRow:
                await unseen.finish(db, copy_id, now, tenant_id, agent_key, settings(new) | log.state())
                return await session_row(db, SessionRef(tenant_id, agent_key, new.key))

            made = await self._write(finish)
        finally:
            if made is None:
                await unseen.give_up(self._connections, copy_id)
        return made


async def _write(
    db: Db, log: ImportedLog, place: dict[str, int], items: Sequence[Entry | NewArtifact], now: int
) -> None:
    tenant_id, copy_id, found = place["tenant_id"], place["copy_id"], entries(items)
    await unseen.touch(db, copy_id, now)
    await artifacts.insert(db, [(tenant_id, copy_id, artifact, now) for artifact in files(items)])
    if not log.begun:
        first = next((entry.turn_id for entry in found if entry.turn_id), "")
        log.begin(await db.one("turn_is_there", turn_id=first) is not None)
    events = log.events(found)
    names = ("sequences", "ids", "turns", "types", "hidden", "times", "bodies")
    columns = {name: [event[column] for event in events] for column, name in enumerate(names)}
    await db.count("insert_imported_events", **place, **columns)
    turns = log.turns(found)
    try:
        await db.count(
            "insert_ended_turns",
            **place,
            turn_ids=[turn.turn_id for turn in turns],
            sequences=[turn.input_sequence for turn in turns],
            event_ids=[turn.input_event_id for turn in turns],
            stop_reasons=[turn.stop_reason for turn in turns],
            errors=[turn.error for turn in turns],
            usages=[turn.usage for turn in turns],
            starts=[turn.created_at for turn in turns],
            ends=[turn.ended_at for turn in turns],
        )
    except asyncpg.UniqueViolationError:
        raise same_turn_twice() from None
