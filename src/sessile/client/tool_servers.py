"""Tool servers, and the tools that agents can name."""

from typing import Any, Literal, Unpack

from msgspec import Struct

from sessile.client.call import Caller, once, path
from sessile.client.documents import ToolServerChanges, ToolServerDocument
from sessile.client.pages import AsyncPages, Page
from sessile.client.reading import read, read_page

_SERVERS = "/v2/tool_servers"
_SERVER = "/v2/tool_servers/{tool_server_id}"
_TOOLS = "/v2/tools"
_TOOL = "/v2/tools/{tool_id}"


class ToolServer(Struct, kw_only=True, omit_defaults=True):
    """A tool server. Values of headers are masked, credentials are not shown."""

    id: str
    name: str
    type: str
    description: str | None = None
    uri: str
    headers: dict[str, str]
    transport: str
    enabled: bool
    metadata: dict[str, Any]
    created_at: str
    updated_at: str


class Tool(Struct, kw_only=True, omit_defaults=True):
    """A tool: of a tool server (`mcp`), or a function of the server (`lambda`)."""

    id: str
    type: str
    name: str
    title: str | None = None
    description: str
    enabled: bool
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    server_id: str | None = None
    annotations: dict[str, Any] | None = None
    created_at: str | None = None
    updated_at: str | None = None


class AsyncToolServers:
    """Add, change, list and delete tool servers, and ask them for their tools."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(self, *, idempotency_key: str | None = None, **fields: Unpack[ToolServerDocument]) -> ToolServer:
        """Add a tool server; `name`, `uri` and `transport` are required.

        Each call creates once, however often it has to be repeated. With an `idempotency_key` of your own, so do all
        calls with that key and the same fields within a day: each gives the tool server as it stands.

        Raises InvalidRequest, IdempotencyKeyReused.
        """
        document, headers = {"type": "mcp", **fields}, once(idempotency_key)
        return read(ToolServer, (await self._caller.whole("POST", _SERVERS, document=document, headers=headers)).body)

    async def get(self, tool_server_id: str) -> ToolServer:
        """Show a tool server. Raises NotFound."""
        return read(ToolServer, (await self._caller.whole("GET", _server(tool_server_id))).body)

    def list(
        self, *, enabled: bool | None = None, filter: str | None = None, limit: int | None = None
    ) -> AsyncPages[ToolServer]:
        """List tool servers, newest first; all, or by `enabled`. `limit` is the size of a page: 1 to 100.

        With `filter`, those whose name or description has this regular expression (RE2). Raises InvalidFilter.
        """

        async def fetch(page_key: str | None) -> Page[ToolServer]:
            query = {"enabled": enabled, "filter": filter, "limit": limit, "page_key": page_key}
            reply = await self._caller.whole("GET", _SERVERS, query=query)
            return read_page("tool_servers", reply.body, lambda item: read(ToolServer, item))

        return AsyncPages(fetch)

    async def update(self, tool_server_id: str, /, **fields: Unpack[ToolServerChanges]) -> ToolServer:
        """Change the fields that are given, each whole. Raises NotFound, InvalidRequest."""
        reply = await self._caller.whole("PATCH", _server(tool_server_id), document=dict(fields))
        return read(ToolServer, reply.body)

    async def delete(self, tool_server_id: str) -> None:
        """Delete a tool server and its tools. Raises NotFound."""
        await self._caller.whole("DELETE", _server(tool_server_id))

    async def sync(self, tool_server_id: str) -> None:
        """Ask a tool server for its tools. Raises NotFound, ToolServerFailed."""
        await self._caller.whole("POST", _server(tool_server_id) + "/sync")


class AsyncTools:
    """List tools, and say which tools of tool servers may be used."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(self, tool_id: str) -> Tool:
        """Show a tool. Raises NotFound."""
        return read(Tool, (await self._caller.whole("GET", path(_TOOL, tool_id=tool_id))).body)

    def list(
        self,
        *,
        type: Literal["mcp", "lambda"] | None = None,
        enabled: bool | None = None,
        tool_server_id: str | None = None,
        filter: str | None = None,
        limit: int | None = None,
    ) -> AsyncPages[Tool]:
        """List tools: functions of the server by name, then tools of tool servers, newest first.

        With `filter`, those whose name or description has this regular expression (RE2). Raises InvalidFilter.
        """

        async def fetch(page_key: str | None) -> Page[Tool]:
            query = {
                "type": type,
                "enabled": enabled,
                "tool_server_id": tool_server_id,
                "filter": filter,
                "limit": limit,
                "page_key": page_key,
            }
            reply = await self._caller.whole("GET", _TOOLS, query=query)
            return read_page("tools", reply.body, lambda item: read(Tool, item))

        return AsyncPages(fetch)

    async def update(self, tool_id: str, *, enabled: bool) -> Tool:
        """Enable or disable a tool of a tool server. Raises NotFound, NotSupported for a function."""
        document = {"type": "mcp", "enabled": enabled}
        return read(Tool, (await self._caller.whole("PATCH", path(_TOOL, tool_id=tool_id), document=document)).body)

    async def delete(self, tool_id: str) -> None:
        """Remove a tool of a tool server, until that is synced again. Raises NotFound, NotSupported for a function."""
        await self._caller.whole("DELETE", path(_TOOL, tool_id=tool_id))


def _server(tool_server_id: str) -> str:
    return path(_SERVER, tool_server_id=tool_server_id)
