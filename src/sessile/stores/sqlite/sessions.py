"""Sessions in SQLite, without their logs."""

import sqlite3

from msgspec import UNSET

from sessile.ports import Seal
from sessile.rows import (
    NewSession,
    Once,
    Page,
    SessionChanges,
    SessionRef,
    SessionRow,
)
from sessile.stores import rows, rules
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite import secrets, terms
from sessile.stores.sqlite.verbs import QUERIES, Verbs, before, insert, one, session_row
from sessile.wire.errors import NotFound

_IDLE_SLICE = 100


class Sessions(Verbs):
    """Verbs of the `Store` port."""

    async def create_session(
        self, tenant_id: int, agent_key: str, new: NewSession, once: Once | None = None, seal: Seal | None = None
    ) -> SessionRow:
        now = self._clock.now()
        values = {
            "tenant_id": tenant_id,
            "agent_key": agent_key,
            "key": new.key,
            "name": new.name,
            "description": new.description,
            "metadata": new.metadata,
            "enabled": new.enabled,
            "tti_minutes": new.tti_minutes,
            "now": now,
        }

        def verb(db: sqlite3.Connection) -> SessionRow:
            if once is not None and (made := keys.made(db, tenant_id, rules.SESSIONS, once, now)) is not None:
                return rows.session(keys.still(db, "made_session", made, once))
            row = insert(db, "insert_session", "session", values)
            if row is None:
                raise NotFound(f"There is no agent {agent_key!r}.", id=agent_key)
            row_id, agent_id, compaction = row
            if once is not None:
                keys.keep(db, tenant_id, rules.SESSIONS, once, row_id, now)
            terms.keep(db, row_id, tenant_id, agent_id, new.metadata)
            if seal is not None:
                secrets.write(db, agent_id, row_id, seal(agent_id, row_id))
            return SessionRow(
                id=row_id,
                tenant_id=tenant_id,
                agent_id=agent_id,
                agent_key=agent_key,
                key=new.key,
                name=new.name,
                description=new.description,
                metadata=new.metadata,
                enabled=new.enabled,
                tti_minutes=new.tti_minutes,
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

        return await self._writer.run(verb)

    async def get_session(self, ref: SessionRef) -> SessionRow:
        return self._lookups.run(lambda db: session_row(db, ref))

    async def list_sessions(
        self, tenant_id: int, agent_key: str, *, cursor: int | None, limit: int
    ) -> Page[SessionRow]:
        def verb(db: sqlite3.Connection) -> Page[SessionRow]:
            agent = {"tenant_id": tenant_id, "key": agent_key}
            agent_id: int = one(db, "get_agent_id", agent, "agent", agent_key)[0]
            values = {"agent_id": agent_id, "agent_key": agent_key, "cursor": before(cursor), "limit": limit + 1}
            found = [rows.session(row) for row in db.execute(QUERIES["list_sessions"], values)]
            return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

        return self._lookups.run(verb)

    async def update_session(
        self, ref: SessionRef, changes: SessionChanges, if_match: int | None, seal: Seal | None = None
    ) -> SessionRow:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> SessionRow:
            session = session_row(db, ref)
            rules.check_version(session, if_match)
            values = {
                name: getattr(session if getattr(changes, name) is UNSET else changes, name)
                for name in changes.__struct_fields__
            }
            db.execute(QUERIES["update_session"], values | {"id": session.id, "now": now})
            if values["metadata"] != session.metadata:
                terms.replace(db, session, values["metadata"])
            if seal is not None:
                secrets.write(db, session.agent_id, session.id, seal(session.agent_id, session.id))
            return session_row(db, ref)

        return await self._writer.run(verb)

    async def delete_session(self, ref: SessionRef, if_match: int | None) -> int:
        def verb(db: sqlite3.Connection) -> int:
            session = session_row(db, ref)
            rules.check_version(session, if_match)
            db.execute(QUERIES["delete_session"], {"id": session.id})
            db.execute(QUERIES["purge_session_later"], {"session_id": session.id})
            db.execute(QUERIES["delete_session_secrets"], {"session_id": session.id})
            return session.id

        return await self._writer.run(verb)

    async def delete_idle_sessions(self) -> list[int]:
        values = {"now": self._clock.now(), "slice": _IDLE_SLICE}

        def verb(db: sqlite3.Connection) -> list[int]:
            deleted = [row[0] for row in db.execute(QUERIES["delete_idle_sessions"], values).fetchall()]
            for session_id in deleted:
                db.execute(QUERIES["purge_session_later"], {"session_id": session_id})
                db.execute(QUERIES["delete_session_secrets"], {"session_id": session_id})
            return deleted

        return await self._writer.run(verb)
