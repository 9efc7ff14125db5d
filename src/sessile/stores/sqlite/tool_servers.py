"""Tool servers and their tools in SQLite."""

import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sessile.ports import Seal
from sessile.rows import Once, Page, ToolRow, ToolServerRow
from sessile.stores import listed, rows, rules
from sessile.stores.sqlite import once as keys
from sessile.stores.sqlite import secrets
from sessile.stores.sqlite.verbs import QUERIES, Verbs, before, insert, one
from sessile.wire import codec, ids


class ToolServers(Verbs):
    """Verbs of the `Store` port."""

    async def create_tool_server(
        self,
        tenant_id: int,
        key: str,
        enabled: bool,
        document: bytes,
        once: Once | None = None,
        seal: Seal | None = None,
    ) -> ToolServerRow:
        now = self._clock.now()
        values = {"tenant_id": tenant_id, "key": key, "enabled": enabled, "document": document, "now": now}

        def verb(db: sqlite3.Connection) -> ToolServerRow:
            if once is not None and (made := keys.made(db, tenant_id, rules.TOOL_SERVERS, once, now)) is not None:
                return rows.tool_server(keys.still(db, "made_tool_server", made, once))
            insert(db, "insert_tool_server", "tool server", values)
            row = _server(db, tenant_id, key)
            if once is not None:
                keys.keep(db, tenant_id, rules.TOOL_SERVERS, once, row.id, now)
            if seal is not None:
                _write_secrets(db, row, seal)
            return _server(db, tenant_id, key)

        return await self._writer.run(verb)

    async def get_tool_server(self, tenant_id: int, key: str) -> ToolServerRow:
        return self._lookups.run(lambda db: _server(db, tenant_id, key))

    async def list_tool_servers(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[ToolServerRow]:
        values = {"tenant_id": tenant_id, "cursor": before(cursor), "enabled": enabled}
        values["limit"] = listed.examined(limit, pattern) + 1

        def verb(db: sqlite3.Connection) -> Page[ToolServerRow]:
            found = [rows.tool_server(row) for row in db.execute(QUERIES["list_tool_servers"], values)]
            return listed.page(found, limit, pattern)

        return await self._readers.run(verb)

    async def update_tool_server(
        self,
        tenant_id: int,
        key: str,
        change: Callable[[ToolServerRow], ToolServerRow],
        seal: Seal | None = None,
    ) -> ToolServerRow:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> ToolServerRow:
            old = _server(db, tenant_id, key)
            new = change(old)
            if seal is not None:
                _write_secrets(db, new, seal)
            for name in set(old.secrets) - set(new.secrets):
                db.execute(QUERIES["delete_secret"], _of(new) | {"name": name})
            values = {"id": new.id, "enabled": new.enabled, "document": new.document, "now": now}
            db.execute(QUERIES["save_tool_server"], values)
            return _server(db, tenant_id, key)

        return await self._writer.run(verb)

    async def delete_tool_server(self, tenant_id: int, key: str) -> None:
        def verb(db: sqlite3.Connection) -> None:
            row = _server(db, tenant_id, key)
            values = {"id": row.id}
            db.execute(QUERIES["delete_agent_secrets"], _of(row))
            db.execute(QUERIES["delete_tools_of_server"], values)
            db.execute(QUERIES["delete_tool_server"], values)

        await self._writer.run(verb)

    async def sync_tools(self, tenant_id: int, server_key: str, tools: Mapping[str, bytes]) -> None:
        now = self._clock.now()

        def verb(db: sqlite3.Connection) -> None:
            server_id = _server(db, tenant_id, server_key).id
            db.execute(QUERIES["forget_tools"], {"server_id": server_id, "names": codec.encode(list(tools)).decode()})
            values = {"tenant_id": tenant_id, "server_id": server_id, "now": now}
            kept = [
                values | {"key": ids.tool_id(name), "name": name, "document": document}
                for name, document in tools.items()
            ]
            db.executemany(QUERIES["keep_tool"], kept)

        await self._writer.run(verb)

    async def get_tool(self, tenant_id: int, key: str) -> ToolRow:
        return self._lookups.run(lambda db: _tool(db, tenant_id, key))

    async def list_tools(
        self,
        tenant_id: int,
        *,
        cursor: int | None,
        limit: int,
        enabled: bool | None,
        server_key: str | None,
        pattern: str | None = None,
    ) -> Page[ToolRow]:
        values: dict[str, Any] = {"tenant_id": tenant_id, "cursor": before(cursor)}
        values["limit"] = listed.examined(limit, pattern) + 1
        values |= {"enabled": enabled, "server_key": server_key}

        def verb(db: sqlite3.Connection) -> Page[ToolRow]:
            found = [rows.tool(row) for row in db.execute(QUERIES["list_tools"], values)]
            return listed.page(found, limit, pattern)

        return await self._readers.run(verb)

    async def enable_tool(self, tenant_id: int, key: str, enabled: bool) -> ToolRow:
        values = {"tenant_id": tenant_id, "key": key, "enabled": enabled, "now": self._clock.now()}

        def verb(db: sqlite3.Connection) -> ToolRow:
            db.execute(QUERIES["enable_tool"], values)
            return _tool(db, tenant_id, key)

        return await self._writer.run(verb)

    async def delete_tool(self, tenant_id: int, key: str) -> None:
        def verb(db: sqlite3.Connection) -> None:
            _tool(db, tenant_id, key)
            db.execute(QUERIES["delete_tool"], {"tenant_id": tenant_id, "key": key})

        await self._writer.run(verb)

    async def usable_tools(self, tenant_id: int, keys: Collection[str]) -> dict[str, tuple[ToolRow, ToolServerRow]]:
        values = {"tenant_id": tenant_id, "keys": codec.encode(list(keys)).decode()}

        def verb(db: sqlite3.Connection) -> dict[str, tuple[ToolRow, ToolServerRow]]:
            found = db.execute(QUERIES["usable_tools"], values).fetchall()
            pairs = [(rows.tool(row), rows.tool_server(row[rows.TOOL_COLUMNS :])) for row in found]
            return {tool.key: (tool, server) for tool, server in pairs}

        return self._lookups.run(verb)


def _write_secrets(db: sqlite3.Connection, row: ToolServerRow, seal: Seal) -> None:
    secrets.write(db, row.owner, secrets.OF_THE_AGENT, seal(row.owner, secrets.OF_THE_AGENT))


def _of(row: ToolServerRow) -> dict[str, int]:
    return {"agent_id": row.owner, "session_id": secrets.OF_THE_AGENT}


def _server(db: sqlite3.Connection, tenant_id: int, key: str) -> ToolServerRow:
    values = {"tenant_id": tenant_id, "key": key}
    return rows.tool_server(one(db, "get_tool_server", values, "tool server", key))


def _tool(db: sqlite3.Connection, tenant_id: int, key: str) -> ToolRow:
    return rows.tool(one(db, "get_tool", {"tenant_id": tenant_id, "key": key}, "tool", key))
