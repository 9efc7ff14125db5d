"""Use-cases over tool servers and tools: check what is sent, store it, show it, and ask a server for its tools."""

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from sessile.domain import name_filter, tool_servers
from sessile.ports import Principal, RemoteTools, Seal, Store, ToolFault, Tools, Vault
from sessile.rows import Once, Page, ToolRow, ToolServerRow
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidRequest, NotFound, NotSupported, ToolServerFailed
from sessile.wire.tool_servers import (
    ClientCredentialsAuth,
    CreateToolServerRequest,
    FunctionDefinition,
    LambdaTool,
    McpTool,
    Tool,
    ToolServer,
    UpdateMcpToolRequest,
    UpdateToolServerRequest,
)

CheckUri = Callable[[str], object]
"""Raises OSError, whose text says why, for an address that no server can have."""
_PREFIX = "tol_"


class ToolQuery(Struct, frozen=True, kw_only=True):
    """Which tools to list. `functions` functions were shown on earlier pages, None: all of them."""

    functions: int | None
    cursor: int | None
    limit: int
    type: str | None
    enabled: bool | None
    server_id: str | None
    pattern: str | None = None
    """Looked for in name and description."""
    categories: Sequence[str] = ()
    """One of which a tool shall have, if any are given."""


class ToolPage(Struct, frozen=True):
    """Tools, and where the next page starts: after so many functions, or after a tool of a server."""

    tools: list[Tool]
    functions: int | None
    cursor: int | None


class ToolServers:
    """Everything that can be done with tool servers."""

    def __init__(self, store: Store, remote: RemoteTools, vault: Vault, check_uri: CheckUri) -> None:
        self._store = store
        self._remote = remote
        self._vault = vault
        self._check_uri = check_uri

    async def create(self, principal: Principal, body: Any, once: Once | None = None) -> ToolServer:
        """Raises InvalidRequest, SecretsUnavailable; IdempotencyKeyReused, NotFound of what `once` made."""
        request = codec.convert(body, CreateToolServerRequest)
        self._check_addresses(request)
        tool_servers.check_masks(request, ())
        document, key = tool_servers.document(request), ids.tool_server_id(request.name)

        async def create(seal: Seal | None = None) -> ToolServerRow:
            return await self._store.create_tool_server(principal.tenant_id, key, request.enabled, document, once, seal)

        secrets = tool_servers.secrets(request)
        return _shown(await (self._vault.write(secrets, create) if secrets else create()))

    async def get(self, principal: Principal, key: str) -> ToolServer:
        """Raises NotFound."""
        return _shown(await self._store.get_tool_server(principal.tenant_id, key))

    async def list(
        self, principal: Principal, *, cursor: int | None, limit: int, enabled: bool | None, pattern: str | None = None
    ) -> Page[ToolServer]:
        """Newest first; with a pattern, those whose name or description has it. Raises InvalidFilter."""
        if pattern is not None:
            name_filter.check(pattern)
        page = await self._store.list_tool_servers(
            principal.tenant_id, cursor=cursor, limit=limit, enabled=enabled, pattern=pattern
        )
        return Page([_shown(row) for row in page.rows], page.next)

    async def update(self, principal: Principal, key: str, body: Any) -> ToolServer:
        """Change what was sent. Raises InvalidRequest, NotFound, SecretsUnavailable."""
        changes = codec.convert(body, UpdateToolServerRequest)
        self._check_addresses(changes)

        def change(row: ToolServerRow) -> ToolServerRow:
            document, names = tool_servers.changed(row.document, row.secrets, changes)
            enabled = row.enabled if changes.enabled is UNSET else changes.enabled
            return replace(row, document=document, secrets=names, enabled=enabled)

        async def update(seal: Seal | None = None) -> ToolServerRow:
            return await self._store.update_tool_server(principal.tenant_id, key, change, seal)

        secrets = tool_servers.secrets(changes)
        return _shown(await (self._vault.write(secrets, update) if secrets else update()))

    async def delete(self, principal: Principal, key: str) -> None:
        """Delete a tool server and its tools. Raises NotFound."""
        await self._store.delete_tool_server(principal.tenant_id, key)

    async def sync(self, principal: Principal, key: str) -> None:
        """Ask a server for its tools and store them. Raises NotFound, ToolServerFailed, SecretsUnavailable."""
        row = await self._store.get_tool_server(principal.tenant_id, key)
        secrets = await self._vault.reveal(row.owner, 0) if row.secrets else {}
        try:
            tools = await self._remote.list(tool_servers.endpoint(row.document, secrets))
        except ToolFault as fault:
            raise ToolServerFailed(fault.message) from None
        await self._store.sync_tools(principal.tenant_id, key, tools)

    def _check_addresses(self, request: CreateToolServerRequest | UpdateToolServerRequest) -> None:
        endpoint = request.auth.token_endpoint if isinstance(request.auth, ClientCredentialsAuth) else UNSET
        for field, uri in (("uri", request.uri), ("auth.token_endpoint", endpoint)):
            try:
                if isinstance(uri, str):
                    self._check_uri(uri)
            except OSError as error:
                raise InvalidRequest(f"{field}: {error}", field_errors={field: str(error)}) from None


class ToolList:
    """Everything that can be done with tools: those of tool servers, and the functions of this server."""

    def __init__(self, store: Store, tools: Tools) -> None:
        self._store = store
        self._tools = tools

    async def list(self, principal: Principal, query: ToolQuery) -> ToolPage:
        """Functions by name, then tools of servers, newest first. Raises InvalidFilter."""
        if query.pattern is not None:
            name_filter.check(query.pattern)
        if query.categories:  # nothing that is a tool here has one
            return ToolPage([], None, None)
        wants_functions = query.type in (None, "lambda") and query.server_id is None and query.enabled is not False
        names = self._names(query.pattern) if wants_functions and query.functions is not None else []
        start = query.functions or 0
        tools: list[Tool] = [self._function(name) for name in names[start : start + query.limit]]
        if len(names) > start + query.limit:
            return ToolPage(tools, start + query.limit, None)
        if query.type not in (None, "mcp"):
            return ToolPage(tools, None, None)
        page = await self._store.list_tools(
            principal.tenant_id,
            cursor=query.cursor,
            limit=max(query.limit - len(tools), 1),
            enabled=query.enabled,
            server_key=query.server_id,
            pattern=query.pattern,
        )
        if len(tools) == query.limit:  # this page is full; the next one starts with the newest tool of a server
            return ToolPage(tools, start + query.limit if page.rows or page.next else None, None)
        return ToolPage([*tools, *map(_remote, page.rows)], None, page.next)

    async def get(self, principal: Principal, key: str) -> Tool:
        """Raises NotFound."""
        if (name := self._function_name(key)) is not None:
            return self._function(name)
        return _remote(await self._store.get_tool(principal.tenant_id, key))

    async def update(self, principal: Principal, key: str, body: Any) -> Tool:
        """Enable or disable a tool of a tool server. Raises InvalidRequest, NotFound, NotSupported."""
        if isinstance(body, dict) and body.get("type") in ("lambda", "client"):
            raise not_supported("type")
        if isinstance(body, dict) and "type" not in body:  # the tag of a struct that stands alone may be missing
            raise InvalidRequest("type: This field is required.", field_errors={"type": "This field is required."})
        changes = codec.convert(body, UpdateMcpToolRequest)
        self._refuse_function(key)
        if changes.enabled is UNSET:
            return _remote(await self._store.get_tool(principal.tenant_id, key))
        return _remote(await self._store.enable_tool(principal.tenant_id, key, changes.enabled))

    async def delete(self, principal: Principal, key: str) -> None:
        """Remove a tool of a tool server, until its server is synced again. Raises NotFound, NotSupported."""
        self._refuse_function(key)
        await self._store.delete_tool(principal.tenant_id, key)

    def _names(self, pattern: str | None) -> builtins.list[str]:
        """The functions whose name or description has a pattern, sorted."""
        if pattern is None:
            return self._tools.names()
        described = {name: self._function(name).description for name in self._tools.names()}
        return [name for name, description in described.items() if name_filter.matches(pattern, name, description)]

    def _refuse_function(self, key: str) -> None:
        if self._function_name(key) is not None:
            raise NotSupported("The functions of a server are changed in its configuration.")

    def _function_name(self, key: str) -> str | None:
        name = key.removeprefix(_PREFIX)
        return name if key.startswith(_PREFIX) and name in self._tools.names() else None

    def _function(self, name: str) -> LambdaTool:
        tool = self._tools.of(name, {"type": "lambda"})
        if tool is None:
            raise NotFound(f"There is no tool {_PREFIX + name!r}.", id=_PREFIX + name)
        key = _PREFIX + name
        return LambdaTool(
            id=key,
            name=name,
            description=tool.description,
            enabled=True,
            input_schema=tool.parameters,
            language="python",
            function_definition=FunctionDefinition("python", ""),
        )


def _shown(row: ToolServerRow) -> ToolServer:
    return tool_servers.shown(row.key, row.enabled, row.document, row.secrets, row.created_at, row.updated_at)


def not_supported(field: str) -> NotSupported:
    """A part of the contract that is not built yet."""
    return NotSupported(f"{field}: Not supported yet.", field_errors={field: "Not supported yet."})


def _remote(row: ToolRow) -> McpTool:
    document: dict[str, Any] = msgspec.json.decode(row.document)
    shown = {
        **document,
        "type": "mcp",
        "id": row.key,
        "enabled": row.enabled,
        "server_id": row.server_key,
        "created_at": codec.rfc3339(row.created_at),
        "updated_at": codec.rfc3339(row.updated_at),
    }
    return msgspec.convert(shown, McpTool)
