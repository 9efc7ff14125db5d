"""Operations on tool servers, and on the tools that agents can name."""

from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from sessile.api import examples
from sessile.api.call import Call, JsonResponse
from sessile.api.pages import Limit, PageKey, Pattern, decode_cursor, encode_cursor, page_body
from sessile.api.route import Route
from sessile.auth import roles
from sessile.service.tool_servers import ToolQuery
from sessile.wire import codec
from sessile.wire.errors import InvalidPageKey
from sessile.wire.ids import TOOL_SERVER_ID_PATTERN
from sessile.wire.limits import DEFAULT_PAGE_LIMIT, DEFAULT_TOOLS_LIMIT
from sessile.wire.tool_servers import (
    CreateToolServerRequest,
    ListToolServersResponse,
    ListToolsResponse,
    Tool,
    ToolServer,
    UpdateMcpToolRequest,
    UpdateToolServerRequest,
)

_SERVERS = "/v2/tool_servers"
_SERVER = "/v2/tool_servers/{tool_server_id}"
_TOOLS = "/v2/tools"
_TOOL = "/v2/tools/{tool_id}"


class ListToolServersQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of tool servers."""

    limit: Limit = DEFAULT_PAGE_LIMIT
    page_key: PageKey | UnsetType = UNSET
    type: Annotated[Literal["mcp"], Meta(description="Only servers of this type")] | UnsetType = UNSET
    enabled: Annotated[bool, Meta(description="Only servers that are enabled, or that are not")] | UnsetType = UNSET
    filter: Pattern | UnsetType = UNSET


class ListToolsQuery(Struct, forbid_unknown_fields=True):
    """Parameters of a list of tools."""

    limit: Limit = DEFAULT_TOOLS_LIMIT
    page_key: PageKey | UnsetType = UNSET
    type: Annotated[Literal["mcp", "lambda", "client"], Meta(description="Only tools of this type")] | UnsetType = UNSET
    enabled: Annotated[bool, Meta(description="Only tools that are enabled, or that are not")] | UnsetType = UNSET
    tool_server_id: (
        Annotated[str, Meta(pattern=TOOL_SERVER_ID_PATTERN, description="Only tools of this server")] | UnsetType
    ) = UNSET
    filter: Pattern | UnsetType = UNSET
    category: (
        Annotated[list[str], Meta(description="Only tools of one of these categories; no tool has one yet")] | UnsetType
    ) = UNSET
    repeated: ClassVar[frozenset[str]] = frozenset({"category"})


async def create_server(call: Call) -> Response:
    """POST /v2/tool_servers"""
    body = await call.json()
    return _json(await call.services.tool_servers.create(call.principal, body, call.once(body)), 201)


async def list_servers(call: Call) -> Response:
    """GET /v2/tool_servers"""
    query = call.query(ListToolServersQuery)
    page = await call.services.tool_servers.list(
        call.principal,
        cursor=decode_cursor("tool_servers", query.page_key),
        limit=query.limit,
        enabled=None if query.enabled is UNSET else query.enabled,
        pattern=None if query.filter is UNSET else query.filter,
    )
    items = [codec.encode(server) for server in page.rows]
    return JsonResponse(page_body("tool_servers", items, encode_cursor("tool_servers", page.next)))


async def get_server(call: Call) -> Response:
    """GET /v2/tool_servers/{tool_server_id}"""
    return _json(await call.services.tool_servers.get(call.principal, call.path["tool_server_id"]))


async def update_server(call: Call) -> Response:
    """PATCH /v2/tool_servers/{tool_server_id}"""
    servers = call.services.tool_servers
    return _json(await servers.update(call.principal, call.path["tool_server_id"], await call.json()))


async def delete_server(call: Call) -> Response:
    """DELETE /v2/tool_servers/{tool_server_id}"""
    await call.services.tool_servers.delete(call.principal, call.path["tool_server_id"])
    return Response(status_code=204)


async def sync_server(call: Call) -> Response:
    """POST /v2/tool_servers/{tool_server_id}/sync"""
    await call.services.tool_servers.sync(call.principal, call.path["tool_server_id"])
    return Response(status_code=204)


async def list_tools(call: Call) -> Response:
    """GET /v2/tools"""
    query = call.query(ListToolsQuery)
    functions, cursor = _place(query.page_key)
    page = await call.services.tools.list(
        call.principal,
        ToolQuery(
            functions=functions,
            cursor=cursor,
            limit=query.limit,
            type=None if query.type is UNSET else query.type,
            enabled=None if query.enabled is UNSET else query.enabled,
            server_id=None if query.tool_server_id is UNSET else query.tool_server_id,
            pattern=None if query.filter is UNSET else query.filter,
            categories=() if query.category is UNSET else query.category,
        ),
    )
    more = encode_cursor("tools", page.cursor)
    if page.functions is not None:
        more = encode_cursor("functions", page.functions)
    return JsonResponse(page_body("tools", [codec.encode(tool) for tool in page.tools], more))


async def get_tool(call: Call) -> Response:
    """GET /v2/tools/{tool_id}"""
    return _json(await call.services.tools.get(call.principal, call.path["tool_id"]))


async def update_tool(call: Call) -> Response:
    """PATCH /v2/tools/{tool_id}"""
    return _json(await call.services.tools.update(call.principal, call.path["tool_id"], await call.json()))


async def delete_tool(call: Call) -> Response:
    """DELETE /v2/tools/{tool_id}"""
    await call.services.tools.delete(call.principal, call.path["tool_id"])
    return Response(status_code=204)


def _json(value: ToolServer | Tool, status: int = 200) -> Response:
    return JsonResponse(codec.encode(value), status)


def _place(page_key: str | UnsetType) -> tuple[int | None, int | None]:
    """How many functions were shown, None when all were; and the tool of a server to go on after."""
    if page_key is UNSET or page_key == "":
        return 0, None
    try:
        return decode_cursor("functions", page_key), None
    except InvalidPageKey:
        return None, decode_cursor("tools", page_key)


ROUTES = (
    Route(
        method="POST",
        path=_SERVERS,
        operation="createToolServer",
        tag="Tools",
        summary="Add a tool server",
        description="Keeps how an MCP server is reached. Its tools are there after syncToolServer.",
        handler=create_server,
        roles=roles.ADMINISTRATORS,
        status=201,
        body=CreateToolServerRequest,
        examples=examples.TOOL_SERVER,
        answer=ToolServer,
        headers=("Idempotency-Key",),
        errors=(400, 403, 404, 422),
    ),
    Route(
        method="GET",
        path=_SERVERS,
        operation="listToolServers",
        tag="Tools",
        summary="List tool servers, newest first",
        description="A page of tool servers. `metadata.page_key` asks for the next page.",
        handler=list_servers,
        roles=roles.DEVELOPERS,
        query=ListToolServersQuery,
        answer=ListToolServersResponse,
        errors=(400, 403),
    ),
    Route(
        method="GET",
        path=_SERVER,
        operation="getToolServer",
        tag="Tools",
        summary="Show a tool server",
        description="Values of headers are masked, `auth` is not shown.",
        handler=get_server,
        roles=roles.DEVELOPERS,
        answer=ToolServer,
        errors=(403, 404),
    ),
    Route(
        method="PATCH",
        path=_SERVER,
        operation="updateToolServer",
        tag="Tools",
        summary="Change the fields of a tool server that are sent",
        description="Each field is replaced whole. A header whose value is sent masked keeps it.",
        handler=update_server,
        roles=roles.ADMINISTRATORS,
        body=UpdateToolServerRequest,
        examples=examples.TOOL_SERVER_CHANGE,
        answer=ToolServer,
        errors=(400, 403, 404),
    ),
    Route(
        method="DELETE",
        path=_SERVER,
        operation="deleteToolServer",
        tag="Tools",
        summary="Delete a tool server and its tools",
        description="Agents that name its tools stay, and no longer offer them.",
        handler=delete_server,
        roles=roles.ADMINISTRATORS,
        status=204,
        errors=(403, 404),
    ),
    Route(
        method="POST",
        path=_SERVER + "/sync",
        operation="syncToolServer",
        tag="Tools",
        summary="Ask a tool server for its tools",
        description="Its tools are what it says now. One that was there keeps its id, and whether it is enabled.",
        handler=sync_server,
        roles=roles.ADMINISTRATORS,
        status=204,
        errors=(403, 404, 422),
    ),
    Route(
        method="GET",
        path=_TOOLS,
        operation="listTools",
        tag="Tools",
        summary="List tools",
        description="The functions of the server by name, then the tools of tool servers, newest first.",
        handler=list_tools,
        roles=roles.READERS,
        query=ListToolsQuery,
        answer=ListToolsResponse,
        errors=(400, 403),
    ),
    Route(
        method="GET",
        path=_TOOL,
        operation="getTool",
        tag="Tools",
        summary="Show a tool",
        description="A tool of a tool server, or a function of the server.",
        handler=get_tool,
        roles=roles.READERS,
        answer=Tool,
        errors=(403, 404),
    ),
    Route(
        method="PATCH",
        path=_TOOL,
        operation="updateTool",
        tag="Tools",
        summary="Enable or disable a tool of a tool server",
        description="Functions of the server are changed in its configuration: 400 `not_supported`.",
        handler=update_tool,
        roles=roles.DEVELOPERS,
        body=UpdateMcpToolRequest,
        examples=examples.TOOL_CHANGE,
        answer=Tool,
        errors=(400, 403, 404),
    ),
    Route(
        method="DELETE",
        path=_TOOL,
        operation="deleteTool",
        tag="Tools",
        summary="Remove a tool of a tool server",
        description="It comes back, under another id, when its server is synced.",
        handler=delete_tool,
        roles=roles.DEVELOPERS,
        status=204,
        errors=(400, 403, 404),
    ),
)
