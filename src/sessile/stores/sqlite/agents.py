"""Agents in SQLite."""

import sqlite3
from collections.abc import Callable
from typing import Any

from sessile.rows import (
    AgentRow,
    Once,
    Page,
)
from sessile.stores import rows, rules
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite.verbs import QUERIES, Verbs, before, insert, one

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
        values = {"tenant_id": tenant_id, "key": key, "document": document, "enabled": enabled, "now": now}

        def verb(db: sqlite3.Connection) -> AgentRow:
            if once is not None and (made := keys.made(db, tenant_id, rules.AGENTS, once, now)) is not None:
                return rows.agent(keys.still(db, "made_agent", made, once))
            if admit is not None:
                admit()
            (row_id,) = insert(db, "insert_agent", "agent", values)
            if once is not None:
                keys.keep(db, tenant_id, rules.AGENTS, once, row_id, now)
            return rows.agent((row_id, tenant_id, key, enabled, 1, document, now, now))

        return await self._writer.run(verb)

    async def get_agent(self, tenant_id: int, key: str) -> AgentRow:
        values = {"tenant_id": tenant_id, "key": key}
        return self._lookups.run(lambda db: rows.agent(one(db, "get_agent", values, "agent", key)))

    async def list_agents(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[AgentRow]:
        if pattern is not None:
            values = {"tenant_id": tenant_id, "cursor": cursor, "enabled": enabled, "pattern": pattern}
            return await self._readers.run(lambda db: _matching(db, values, limit))
        name = "list_agents" if enabled is None else "list_agents_enabled"
        page = {"tenant_id": tenant_id, "cursor": before(cursor), "limit": limit + 1, "enabled": enabled}

        def verb(db: sqlite3.Connection) -> Page[AgentRow]:
            found = [rows.agent(row) for row in db.execute(QUERIES[name], page)]
            return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

        return await self._readers.run(verb)

    async def save_agent(
        self, tenant_id: int, key: str, document: bytes, enabled: bool, expected_version: int
    ) -> AgentRow | None:
        values = {"tenant_id": tenant_id, "key": key, "document": document, "enabled": enabled}
        values |= {"expected_version": expected_version, "now": self._clock.now()}

        def verb(db: sqlite3.Connection) -> AgentRow | None:
            values["id"] = one(db, "get_agent_id", values, "agent", key)[0]
            saved = db.execute(QUERIES["save_agent"], values).rowcount
            return rows.agent(one(db, "get_agent", values, "agent", key)) if saved else None

        return await self._writer.run(verb)

    async def delete_agent(self, tenant_id: int, key: str) -> int:
        def verb(db: sqlite3.Connection) -> int:
            agent_id: int = one(db, "get_agent_id", {"tenant_id": tenant_id, "key": key}, "agent", key)[0]
            db.execute(QUERIES["delete_agent"], {"id": agent_id})
            db.execute(QUERIES["purge_agent_later"], {"agent_id": agent_id})
            db.execute(QUERIES["delete_agent_secrets"], {"agent_id": agent_id})
            return agent_id

        return await self._writer.run(verb)


def _matching(db: sqlite3.Connection, values: dict[str, Any], limit: int) -> Page[AgentRow]:
    values["cursor"] = before(values["cursor"])
    edge = db.execute(QUERIES["agents_edge"], values | {"examined": _EXAMINED - 1}).fetchone()
    values |= {"edge": edge[0] if edge else 0, "limit": limit + 1}
    found = [rows.agent(row) for row in db.execute(QUERIES["match_agents"], values)]
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1].id)
    return Page(found, edge[0] if edge else None)
