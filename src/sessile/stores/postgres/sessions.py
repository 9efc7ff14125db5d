"""Sessions in PostgreSQL, without their logs."""

from msgspec import UNSET

from sessile.rows import NewSession, Once, Page, SessionChanges, SessionRef, SessionRow
from sessile.stores import rows, rules
from sessile.stores.postgres import once as keys
from sessile.stores.postgres.db import Db, Row
from sessile.stores.postgres.verbs import Verbs, before, check, insert, not_found, one, session_row


class Sessions(Verbs):
    """Verbs of the `Store` port."""

    async def create_session(
        self, tenant_id: int, agent_key: str, new: NewSession, once: Once | None = None
    ) -> SessionRow:
        check("agent", agent_key)
        now = self._clock.now()
        fields = {name: getattr(new, name) for name in new.__struct_fields__}

        async def verb(db: Db) -> SessionRow:
            if once is not None and (made := await keys.made(db, tenant_id, rules.SESSIONS, once, now)) is not None:
                return rows.session(await keys.still(db, "made_session", made, once))
            values = {"tenant_id": tenant_id, "agent_key": agent_key, "now": now}
            added = await insert(db, "insert_session", "session", **values, **fields)
            if not added:
                raise not_found("agent", agent_key)
            row_id, agent_id = added[0]
            if once is not None:
                await keys.keep(db, tenant_id, rules.SESSIONS, once, row_id, now)
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

    async def update_session(self, ref: SessionRef, changes: SessionChanges, if_match: int | None) -> SessionRow:
        now = self._clock.now()

        async def verb(db: Db) -> SessionRow:
            session = await session_row(db, ref, "lock_session")
            rules.check_version(session, if_match)
            values = {
                name: getattr(session if getattr(changes, name) is UNSET else changes, name)
                for name in changes.__struct_fields__
            }
            await db.count("update_session", id=session.id, now=now, **values)
            return await session_row(db, ref)

        return await self._write(verb)

    async def delete_session(self, ref: SessionRef, if_match: int | None) -> int:
        async def verb(db: Db) -> int:
            session = await session_row(db, ref, "lock_session")
            rules.check_version(session, if_match)
            await db.count("delete_session", id=session.id)
            await db.count("purge_session_later", session_id=session.id)
            return session.id

        return await self._write(verb)
