"""Sessions in PostgreSQL, without their logs."""

from collections.abc import Sequence

from msgspec import UNSET

from sessile.ports import Seal
from sessile.rows import NewSession, Once, Page, SessionChanges, SessionRef, SessionRow
from sessile.stores import copying, rows, rules
from sessile.stores.postgres import once as keys
from sessile.stores.postgres import secrets, terms
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.verbs import Verbs, before, check, insert, not_found, one, session_row

_IDLE_SLICE = 100


class Sessions(Verbs):
    """Verbs of the `Store` port."""

    async def create_session(
        self, tenant_id: int, agent_key: str, new: NewSession, once: Once | None = None, seal: Seal | None = None
    ) -> SessionRow:
        check("agent", agent_key)
        now = self._clock.now()
        fields = copying.settings(new) | {"origin": None}

        async def verb(db: Db) -> SessionRow:
            if once is not None and (made := await keys.made(db, tenant_id, rules.SESSIONS, once, now)) is not None:
                return rows.session(await keys.still(db, "made_session", made, once))
            values = {"tenant_id": tenant_id, "agent_key": agent_key, "now": now}
            added = await insert(db, "insert_session", "session", **values, **fields)
            if not added:
                raise not_found("agent", agent_key)
            row_id, agent_id, compaction = added[0]
            if once is not None:
                await keys.keep(db, tenant_id, rules.SESSIONS, once, row_id, now)
            await terms.keep(db, row_id, tenant_id, agent_id, new.metadata)
            await terms.look_when_idle(db, row_id, now, new.tti_minutes)
            if seal is not None:
                await secrets.write(db, agent_id, row_id, seal(agent_id, row_id))
            return SessionRow(
                id=row_id,
                tenant_id=tenant_id,
                agent_id=agent_id,
                agent_key=agent_key,
                **fields,
                version=1,
                status="unstarted",
                stop_reason=None,
                last_sequence=0,
                last_event_id=None,
                usage=b"{}",
                context_usage=None,
                created_at=now,
                updated_at=now,
                compaction=compaction,
            )

        return await self._write(verb)

    async def get_session(self, ref: SessionRef) -> SessionRow:
        return await self._read(lambda db: session_row(db, ref))

    async def list_sessions(
        self, tenant_id: int, agent_key: str, *, cursor: int | None, limit: int
    ) -> Page[SessionRow]:
        async def verb(db: Db) -> list[Row]:
            (agent_id,) = await one(db, "get_agent_id", "agent", agent_key, tenant_id=tenant_id, key=agent_key)
            return list(await db.all("list_sessions", agent_id=agent_id, cursor=before(cursor), limit=limit + 1))

        found = [rows.session(row) for row in await self._read(verb)]
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def update_session(
        self, ref: SessionRef, changes: SessionChanges, if_match: int | None, seal: Seal | None = None
    ) -> SessionRow:
        now = self._clock.now()

        async def verb(db: Db) -> SessionRow:
            session = await session_row(db, ref, "lock_session")
            rules.check_version(session, if_match)
            values = {
                name: getattr(session if getattr(changes, name) is UNSET else changes, name)
                for name in changes.__struct_fields__
            }
            await db.count("update_session", id=session.id, now=now, **values)
            if values["metadata"] != session.metadata:
                await terms.replace(db, session, values["metadata"])
            if values["tti_minutes"] != session.tti_minutes:
                await db.count("look_no_more", sessions=[session.id])
                await terms.look_when_idle(db, session.id, now, values["tti_minutes"])
            if seal is not None:
                await secrets.write(db, session.agent_id, session.id, seal(session.agent_id, session.id))
            return await session_row(db, ref)

        return await self._write(verb)

    async def delete_session(self, ref: SessionRef, if_match: int | None) -> int:
        async def verb(db: Db) -> int:
            session = await session_row(db, ref, "lock_session")
            rules.check_version(session, if_match)
            await _delete(db, [session.id])
            return session.id

        return await self._write(verb)

    async def delete_idle_sessions(self) -> list[int]:
        now = self._clock.now()
        if await self._read(lambda db: db.one("anything_to_look_at", now=now)) is None:
            return []
        return await self._write(lambda db: _delete_idle(db, now))


async def _delete_idle(db: Db, now: int) -> list[int]:
    """Delete the idle ones of a slice of sessions; look at the others again when they may be.

    One that somebody changes at this moment is in use: it is looked at again with the next slice.
    """
    due = [row[0] for row in await db.all("to_look_at", now=now, slice=_IDLE_SLICE)]
    gone = set(due).difference(row[0] for row in await db.all("are_there", sessions=due))
    idle = []
    for session_id, tti_minutes, used_at, running in await db.all("lock_idle", sessions=due):
        if tti_minutes <= 0:
            gone.add(session_id)
        elif not running and terms.idle_at(used_at, tti_minutes) <= now:
            idle.append(session_id)
        else:
            await terms.look_when_idle(db, session_id, now if running else min(used_at, now), tti_minutes)
    if gone:
        await db.count("look_no_more", sessions=sorted(gone))
    if idle:
        await _delete(db, idle)
    return idle


async def _delete(db: Db, sessions: Sequence[int]) -> None:
    """Delete sessions that are locked."""
    db.changed.sessions.update(sessions)
    await db.count("delete_sessions", sessions=sessions)
    await db.count("purge_sessions_later", sessions=sessions)
    await db.count("delete_session_secrets", sessions=sessions)
    await db.count("look_no_more", sessions=sessions)
