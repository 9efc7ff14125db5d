"""Imported logs in PostgreSQL: written slice by slice into a session that nobody sees before the last commit."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import asyncpg

from sessile.domain.log import Entry
from sessile.rows import Kept, NewArtifact, NewSession, Once, SessionRef, SessionRow, StreamOnce
from sessile.stores import rows, rules
from sessile.stores.copying import ImportedLog, entries, files, first_turn, read_through, same_turn_twice, settings
from sessile.stores.postgres import artifacts
from sessile.stores.postgres import copies as unseen
from sessile.stores.postgres import once as keys
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs, check, session_row


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
        check("agent", agent_key)
        now = self._clock.now()

        async def begin(db: Db) -> int | Kept:
            if once is not None and (kept := await keys.find(db, tenant_id, rules.IMPORTS, once.key, now)) is not None:
                return kept
            await unseen.check_free(db, tenant_id, agent_key, new.key)
            return await unseen.begin(db, now)

        begun = await unseen.begin_for(self._connections, begin, _copy_of)
        if isinstance(begun, int):
            return await self._import(begun, tenant_id, agent_key, new, slices, once)
        assert once is not None
        kept, same = begun, await read_through(slices, once)
        found = rules.same(kept, same)
        return await self._read(lambda db: _made(db, found, same))

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
            place = {"tenant_id": tenant_id, "copy_id": copy_id}
            async for items in slices:
                await self._write(partial(_write, log=log, place=place, items=items, now=self._clock.now()))
                log.written(entries(items))
            now, whole = self._clock.now(), once.whole() if once is not None else None

            async def finish(db: Db) -> SessionRow:
                if whole is not None:
                    found = await keys.made(db, tenant_id, rules.IMPORTS, whole, now)
                    if found is not None:
                        return await _made(db, found, whole)
                    await keys.keep(db, tenant_id, rules.IMPORTS, whole, copy_id, now)
                await unseen.finish(db, copy_id, now, tenant_id, agent_key, settings(new) | log.state())
                return await session_row(db, SessionRef(tenant_id, agent_key, new.key))

            made = await self._write(finish)
        finally:
            if made is None or made.id != copy_id:
                await unseen.give_up(self._connections, copy_id)
        return made


def _copy_of(begun: int | Kept) -> int | None:
    return begun if isinstance(begun, int) else None


async def _made(db: Db, found: int, once: Once) -> SessionRow:
    return rows.session(await keys.still(db, "made_session", found, once))


async def _write(
    db: Db, log: ImportedLog, place: dict[str, int], items: Sequence[Entry | NewArtifact], now: int
) -> None:
    tenant_id, copy_id, found = place["tenant_id"], place["copy_id"], entries(items)
    await unseen.touch(db, copy_id, now)
    await artifacts.insert(db, [(tenant_id, copy_id, artifact, now) for artifact in files(items)])
    if not log.begun and (turn_id := first_turn(found)):
        log.begin(taken=await db.count("claim_turn", **place, turn_id=turn_id, now=now) == 0)
    events = log.events(found)
    names = ("sequences", "ids", "turns", "types", "hidden", "times", "bodies")
    columns = {name: [event[column] for event in events] for column, name in enumerate(names)}
    await db.count("insert_imported_events", **place, **columns)
    turns = log.turns(found)
    for turn in turns[:1]:
        await db.count("release_turn", turn_id=turn.turn_id, copy_id=copy_id)
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
