"""Agents in PostgreSQL."""

from collections.abc import Callable

from sessile.domain.name_filter import matches
from sessile.rows import AgentRow, Once, Page
from sessile.stores import rows, rules
from sessile.stores.postgres import once as keys
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs, before, insert, not_found, one

_EXAMINED = 200
"""Documents that a page with a pattern reads at most: each may have two million bytes."""


class Agents(Verbs):
    """Verbs of the `Store` port."""

    async def create_agent(
        self,
        tenant_id: int,
        key: str,
        document: bytes,
        enabled: bool,
        once: Once | None = None,
        admit: Callable[[], None] | None = None,
    ) -> AgentRow:
        now = self._clock.now()

        async def verb(db: Db) -> AgentRow:
            if once is not None and (made := await keys.made(db, tenant_id, rules.AGENTS, once, now)) is not None:
                return rows.agent(await keys.still(db, "made_agent", made, once))
            if admit is not None:
                admit()
            values = {"tenant_id": tenant_id, "key": key, "document": document, "enabled": enabled, "now": now}
            ((row_id,),) = await insert(db, "insert_agent", "agent", **values)
            if once is not None:
                await keys.keep(db, tenant_id, rules.AGENTS, once, row_id, now)
            return rows.agent((row_id, tenant_id, key, enabled, 1, document, now, now))

        return await self._write(verb)

    async def get_agent(self, tenant_id: int, key: str) -> AgentRow:
        return rows.agent(await self._read(lambda db: one(db, "get_agent", "agent", key, tenant_id=tenant_id, key=key)))

    async def list_agents(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[AgentRow]:
        if pattern is not None:
            return await self._read(lambda db: _matching(db, tenant_id, before(cursor), limit, enabled, pattern))
        name = "list_agents" if enabled is None else "list_agents_enabled"
        values = {"tenant_id": tenant_id, "cursor": before(cursor), "limit": limit + 1, "enabled": enabled}
        found = [rows.agent(row) for row in await self._read(lambda db: db.all(name, **values))]
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def save_agent(
        self, tenant_id: int, key: str, document: bytes, enabled: bool, expected_version: int
    ) -> AgentRow | None:
        now = self._clock.now()

        async def verb(db: Db) -> AgentRow | None:
            (agent_id,) = await one(db, "get_agent_id", "agent", key, tenant_id=tenant_id, key=key)
            values = {"id": agent_id, "document": document, "enabled": enabled, "now": now}
            if not await db.count("save_agent", expected_version=expected_version, **values):
                return None
            return rows.agent(await one(db, "get_agent", "agent", key, tenant_id=tenant_id, key=key))

        return await self._write(verb)

    async def delete_agent(self, tenant_id: int, key: str) -> int:
        async def verb(db: Db) -> int:
            await one(db, "get_agent_id", "agent", key, tenant_id=tenant_id, key=key)
            gone = await db.change("delete_agent", tenant_id=tenant_id, key=key)
            if not gone:
                raise not_found("agent", key)
            agent_id: int = gone[0][0]
            db.changed.agents.add(agent_id)
            await db.count("purge_agent_later", agent_id=agent_id)
            await db.count("delete_agent_secrets", agent_id=agent_id)
            return agent_id

        return await self._write(verb)


async def _matching(
    db: Db, tenant_id: int, cursor: int, limit: int, enabled: bool | None, pattern: str
) -> Page[AgentRow]:
    """A page of the agents whose name or description has a pattern, matched by the same engine as everywhere."""
    examined = await db.all("agents_to_match", tenant_id=tenant_id, cursor=cursor, examined=_EXAMINED)
    ids = [
        agent_id
        for agent_id, is_enabled, name, description in examined
        if enabled in (None, is_enabled) and matches(pattern, name, description)
    ]
    found = [rows.agent(row) for row in await db.all("agents_of", ids=ids[:limit])]
    if len(ids) > limit:
        return Page(found, ids[limit - 1])
    return Page(found, examined[-1][0] if len(examined) == _EXAMINED else None)
