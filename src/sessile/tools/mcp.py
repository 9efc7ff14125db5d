"""Tools of MCP servers: what they offer as tools of ours, and calls that end whatever the server does.

The library that speaks the protocol is an optional extra; `mcp_session` imports it, when the first server is used.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import structlog

from sessile.domain.tool_servers import Endpoint, RemoteTool
from sessile.ports import ToolContext, ToolFault
from sessile.tools.guard import Guard
from sessile.tools.oauth import AccessTokens
from sessile.tools.python import check_json
from sessile.wire import codec
from sessile.wire.limits import (
    MAX_JSON_DEPTH,
    MAX_TOOL_OUTPUT_BYTES,
    MAX_TOOL_SCHEMA_BYTES,
    MAX_TOOLS_PER_SERVER,
)
from sessile.wire.tool_configurations import WebGetClientCredentialsAuth
from sessile.wire.tool_servers import BearerAuth, ClientCredentialsAuth, HeaderAuth

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 0.25
GRACE_SECONDS = 1.0
"""How long a call that is given up may take to close its connection before it is left to itself."""
MAX_DESCRIPTION_CHARS = 10_000
MAX_NAME_CHARS = 200
_LIBRARY = "The library `mcp` is not installed on this server; its extra `mcp` brings it."

T = TypeVar("T")
Report = Callable[[str], None]

_log = structlog.get_logger("sessile.tools")
_left: set[asyncio.Future[Any]] = set()
"""Calls that did not end when they were cancelled: the loop itself holds tasks only weakly."""


class Unreached(Exception):
    """No connection to the server was made, so that nothing was called: it may be tried again."""


class McpServers:
    """The `RemoteTools` port over the Model Context Protocol. Every question has a connection of its own."""

    def __init__(self, guard: Guard, seconds: float) -> None:
        self._guard = guard
        self._seconds = seconds
        self._tokens = AccessTokens(guard)

    async def list(self, endpoint: Endpoint) -> dict[str, bytes]:
        """What a server offers. A tool that cannot be described to a model is left out. Raises ToolFault."""
        described: list[dict[str, Any]] = await self._bounded(
            endpoint, lambda session, headers: session.list_tools(endpoint, headers, MAX_TOOLS_PER_SERVER)
        )
        documents: dict[str, bytes] = {}
        for tool in described:
            document = _document(tool)
            if document is None:
                _log.warning("mcp_tool_left_out", tool=str(tool.get("name"))[:100], uri=endpoint.uri)
            else:
                documents[tool["name"]] = document
        return documents

    def tool(self, endpoint: Endpoint, described: RemoteTool) -> "McpTool":
        """A tool that calls the server."""
        return McpTool(self, endpoint, described)

    async def call(self, endpoint: Endpoint, name: str, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Call a tool once. Raises ToolFault."""
        answer: dict[str, Any] = await self._bounded(
            endpoint, lambda session, headers: session.call_tool(endpoint, headers, name, arguments, report)
        )
        return _checked(answer)

    async def _bounded(self, endpoint: Endpoint, talk: Callable[[Any, Mapping[str, str]], Awaitable[T]]) -> T:
        """Talk to a server in a task of its own, within the time limit. Nothing it leaves behind reaches the turn."""
        task = asyncio.ensure_future(self._talk(endpoint, talk))
        try:
            await asyncio.wait({task}, timeout=self._seconds)
            if not task.done():
                raise ToolFault("tool_timeout", f"The tool server did not answer within {self._seconds:g} seconds.")
        finally:
            if not task.done():
                await _cancel(task)
        if task.cancelled():
            raise ToolFault("tool_failed", "The call was cancelled.")
        return task.result()

    async def _talk(self, endpoint: Endpoint, talk: Callable[[Any, Mapping[str, str]], Awaitable[T]]) -> T:
        """Connect, again after a wait while no connection can be made."""
        session = await _library(self._guard)
        headers = await self._headers(endpoint)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await talk(session, headers)
            except Unreached as error:
                if attempt == ATTEMPTS:
                    raise ToolFault("tool_unreachable", f"The tool server cannot be reached: {error}") from None
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        raise AssertionError  # the last attempt returns or raises

    async def _headers(self, endpoint: Endpoint) -> dict[str, str]:
        """The headers of every request to the server."""
        headers = {name.lower(): value for name, value in endpoint.headers.items()}
        match endpoint.auth:
            case BearerAuth(token=token):
                headers["authorization"] = f"Bearer {token}"
            case HeaderAuth(header=header, value=value):
                headers[header.lower()] = value
            case ClientCredentialsAuth() as auth:
                grant = WebGetClientCredentialsAuth(
                    auth.client_id, auth.client_secret, auth.token_endpoint, auth.scopes
                )
                headers["authorization"] = f"Bearer {await self._tokens.token(grant, self._seconds)}"
            case None:
                pass
        return headers


class McpTool:
    """A Tool of an MCP server."""

    def __init__(self, servers: McpServers, endpoint: Endpoint, described: RemoteTool) -> None:
        self.name = described.name
        self.description = described.description
        self.parameters = described.parameters
        self.idempotent = described.idempotent
        self._servers = servers
        self._endpoint = endpoint

    async def run(self, arguments: dict[str, Any], context: ToolContext | None = None) -> dict[str, Any]:
        """Call the server. Raises ToolFault."""
        report: Report = context.report if context else _nobody
        return await self._servers.call(self._endpoint, self.name, arguments, report)


def _nobody(message: str) -> None:
    """Nobody follows this call."""


async def _library(guard: Guard) -> Any:
    """What speaks the protocol. It takes seconds to import, and not every server has it. Raises ToolFault."""
    try:
        module = await asyncio.to_thread(importlib.import_module, "sessile.tools.mcp_session")
        return module.Sessions(guard)
    except ModuleNotFoundError:
        raise ToolFault("tool_unreachable", _LIBRARY) from None


def _document(tool: dict[str, Any]) -> bytes | None:
    """What is stored of a tool, or None when no model can be told of it."""
    named = 0 < len(tool["name"]) <= MAX_NAME_CHARS and "\0" not in tool["name"]  # which PostgreSQL cannot hold
    described = len(tool["description"]) <= MAX_DESCRIPTION_CHARS
    if not named or not described or tool["input_schema"].get("type", "object") != "object":
        return None
    try:
        check_json(tool, MAX_JSON_DEPTH)
        document = codec.encode(tool)
    except (TypeError, ValueError, RecursionError):
        return None
    return document if len(document) <= MAX_TOOL_SCHEMA_BYTES else None


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, if a log can hold it. Raises ToolFault."""
    try:
        check_json(answer, MAX_JSON_DEPTH)
        size = len(codec.encode(answer))
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolFault("tool_failed", f"The result of the tool is not JSON: {error}."[:1000]) from None
    if size > MAX_TOOL_OUTPUT_BYTES:
        raise ToolFault(
            "tool_failed", f"The result of the tool has {size} bytes; the limit is {MAX_TOOL_OUTPUT_BYTES}."
        )
    return answer


async def _cancel(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    _left.add(task)
    task.add_done_callback(_forget)
    await asyncio.wait({task}, timeout=GRACE_SECONDS)


def _forget(task: "asyncio.Future[Any]") -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # what a call that was given up ends with concerns nobody
