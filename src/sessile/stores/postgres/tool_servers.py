"""Tool servers and their tools in PostgreSQL."""

from collections.abc import Callable, Collection, Mapping

from sessile.ports import Seal
from sessile.rows import Once, Page, ToolRow, ToolServerRow
from sessile.stores import listed, rows, rules
from sessile.stores.postgres import once as keys
from sessile.stores.postgres import secrets
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.verbs import Verbs, before, check, insert, one
from sessile.wire import ids


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
        values = {"tenant_id": tenant_id, "key": key, "enabled": enabled, "document": document}

        async def verb(db: Db) -> ToolServerRow:
            if once is not None and (made := await keys.made(db, tenant_id, rules.TOOL_SERVERS, once, now)) is not None:
                return rows.tool_server(await keys.still(db, "made_tool_server", made, once))
            await insert(db, "insert_tool_server", "tool server", **values, now=now)
            row = await _server(db, tenant_id, key)
            if once is not None:
                await keys.keep(db, tenant_id, rules.TOOL_SERVERS, once, row.id, now)
            if seal is not None:
                await _write_secrets(db, row, seal)
            return await _server(db, tenant_id, key)

        return await self._write(verb)

    async def get_tool_server(self, tenant_id: int, key: str) -> ToolServerRow:
        return await self._read(lambda db: _server(db, tenant_id, key))

    async def list_tool_servers(
        self, tenant_id: int, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[ToolServerRow]:
        values = {"tenant_id": tenant_id, "cursor": before(cursor), "enabled": enabled}
        slice = listed.examined(limit, pattern) + 1
        found = await self._read(lambda db: db.all("list_tool_servers", **values, limit=slice))
        return listed.page([rows.tool_server(row) for row in found], limit, pattern)

    async def update_tool_server(
        self,
        tenant_id: int,
        key: str,
        change: Callable[[ToolServerRow], ToolServerRow],
        seal: Seal | None = None,
    ) -> ToolServerRow:
        now = self._clock.now()

        async def verb(db: Db) -> ToolServerRow:
            old = await _server(db, tenant_id, key, "lock_tool_server")
            new = change(old)
            if seal is not None:
                await _write_secrets(db, new, seal)
            gone = sorted(set(old.secrets) - set(new.secrets))
            await db.count("delete_secrets", agent_id=new.owner, session_id=secrets.OF_THE_AGENT, names=gone)
            values = {"id": new.id, "enabled": new.enabled, "document": new.document}
            await db.count("save_tool_server", **values, now=now)
            return await _server(db, tenant_id, key)

        return await self._write(verb)

    async def delete_tool_server(self, tenant_id: int, key: str) -> None:
        async def verb(db: Db) -> None:
            server = await _server(db, tenant_id, key, "lock_tool_server")
            await db.count("delete_agent_secrets", agent_id=server.owner)
            await db.count("delete_tools_of_server", id=server.id)
            await db.count("delete_tool_server", id=server.id)

        await self._write(verb)

    async def sync_tools(self, tenant_id: int, server_key: str, tools: Mapping[str, bytes]) -> None:
        now = self._clock.now()
        names, documents = list(tools), list(tools.values())
        keys = [ids.tool_id(name) for name in names]

        async def verb(db: Db) -> None:
            server = {"server_id": (await _server(db, tenant_id, server_key, "lock_tool_server")).id}
            await db.count("forget_tools", **server, names=names)
            values = {"keys": keys, "names": names, "documents": documents}
            await db.count("keep_tools", **server, tenant_id=tenant_id, now=now, **values)

        await self._write(verb)

    async def get_tool(self, tenant_id: int, key: str) -> ToolRow:
        return await self._read(lambda db: _tool(db, tenant_id, key))

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
        values = {"tenant_id": tenant_id, "cursor": before(cursor), "enabled": enabled}
        slice = listed.examined(limit, pattern) + 1
        found = await self._read(lambda db: db.all("list_tools", server_key=server_key, **values, limit=slice))
        return listed.page([rows.tool(row) for row in found], limit, pattern)

    async def enable_tool(self, tenant_id: int, key: str, enabled: bool) -> ToolRow:
        check("tool", key)
        now = self._clock.now()

        async def verb(db: Db) -> ToolRow:
            await db.count("enable_tool", tenant_id=tenant_id, key=key, enabled=enabled, now=now)
            return await _tool(db, tenant_id, key)

        return await self._write(verb)

    async def delete_tool(self, tenant_id: int, key: str) -> None:
        async def verb(db: Db) -> None:
            await _tool(db, tenant_id, key)
            await db.count("delete_tool", tenant_id=tenant_id, key=key)

        await self._write(verb)

    async def usable_tools(self, tenant_id: int, keys: Collection[str]) -> dict[str, tuple[ToolRow, ToolServerRow]]:
        wanted = list(keys)
        found = await self._read(lambda db: db.all("usable_tools", tenant_id=tenant_id, keys=wanted))
        pairs = [(rows.tool(row), rows.tool_server(row[rows.TOOL_COLUMNS :])) for row in found]
        return {tool.key: (tool, server) for tool, server in pairs}


async def _write_secrets(db: Db, row: ToolServerRow, seal: Seal) -> None:
    """Set secrets of a tool server, which is locked or new."""
    await secrets.write(db, row.owner, secrets.OF_THE_AGENT, seal(row.owner, secrets.OF_THE_AGENT))


async def _server(db: Db, tenant_id: int, key: str, query: str = "get_tool_server") -> ToolServerRow:
    return rows.tool_server(await one(db, query, "tool server", key, tenant_id=tenant_id, key=key))


async def _tool(db: Db, tenant_id: int, key: str) -> ToolRow:
    return rows.tool(await one(db, "get_tool", "tool", key, tenant_id=tenant_id, key=key))
