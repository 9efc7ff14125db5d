"""Sessions with MCP servers through the official library. Only `mcp` imports this module, when the first one is used.

The library gets an HTTP client whose every connection goes through the guard, and which reads so many bytes at most.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import httpx2
import mcp_types
from mcp import Client, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import ValidationError

from sessile.domain import overrides
from sessile.domain.tool_servers import Endpoint
from sessile.ports import ToolFault
from sessile.tools.guard import Guard, Refused, refusal
from sessile.tools.mcp import Report, Unreached
from sessile.wire.limits import MAX_TOOL_OUTPUT_BYTES

MAX_RESPONSE_BYTES = 8 * 1024 * 1024
"""How much of one HTTP response is read: a listing, a result, or all that a stream brings during one call."""
_MAX_EVENT_BYTES = 2 * MAX_TOOL_OUTPUT_BYTES
_MAX_PAGES = 50
_CHUNK = 64 * 1024

for _name in ("mcp", "httpx2"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)  # what goes wrong is the outcome of a call, told once


class Sessions:
    """Talks to servers, one connection for each question."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def list_tools(self, endpoint: Endpoint, headers: Mapping[str, str], most: int) -> list[dict[str, Any]]:
        """All tools of a server. Raises ToolFault, Unreached."""
        tools: list[dict[str, Any]] = []
        async with _translated(), self._connected(endpoint, headers) as client:
            cursor: str | None = None
            for _ in range(_MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                tools += [_plain(tool) for tool in page.tools]
                cursor = page.next_cursor
                if len(tools) > most:
                    raise ToolFault("tool_failed", f"The tool server has more than {most} tools.")
                if not cursor:
                    return tools
        raise ToolFault("tool_failed", f"The list of tools has more than {_MAX_PAGES} pages.")

    async def call_tool(
        self, endpoint: Endpoint, headers: Mapping[str, str], name: str, arguments: dict[str, Any], report: Report
    ) -> dict[str, Any]:
        """The result of one call. Raises ToolFault, or Unreached while the tool was certainly not called."""

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            report(message or (f"{progress:g} of {total:g}" if total else f"{progress:g}"))

        results: list[mcp_types.CallToolResult] = []
        try:
            async with _translated(), self._connected(endpoint, headers) as client:
                results.append(await client.call_tool(name, arguments, progress_callback=on_progress))
        except ToolFault:
            if not results:  # else only the closing of the connection went wrong
                raise
        return _answer(results[0])

    @contextlib.asynccontextmanager
    async def _connected(self, endpoint: Endpoint, headers: Mapping[str, str]) -> AsyncIterator[Client]:
        """An open session. Raises Unreached, or Refused, when there is none."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                http = self._guard.session()
                await stack.enter_async_context(http)
                client = httpx2.AsyncClient(
                    transport=_Transport(self._guard, http),
                    headers=httpx2.Headers(dict(headers), encoding="utf-8"),
                    timeout=None,
                    trust_env=False,
                )
                if endpoint.transport == "sse":
                    transport = sse_client(endpoint.uri, httpx_client_factory=_always(client))
                else:
                    await stack.enter_async_context(client)
                    transport = streamable_http_client(
                        endpoint.uri, http_client=client, max_sse_event_size=_MAX_EVENT_BYTES
                    )
                session = await stack.enter_async_context(Client(transport, cache=None))
            except (Exception, BaseExceptionGroup) as error:  # foreign code: whatever it raises, nothing was called yet
                refused = _refused(error)
                raise refused or Unreached(_described(error)) from None
            yield session


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Whatever the library raises as a ToolFault."""
    try:
        yield
    except (ToolFault, Unreached):
        raise
    except Refused as error:
        raise ToolFault("tool_address_refused", str(error)) from None
    except (MCPError, ValidationError) as error:
        raise ToolFault("tool_failed", f"The tool server answered: {_described(error)}") from None
    except (Exception, BaseExceptionGroup) as error:  # foreign code: its defects and those of the server are the call's
        raise ToolFault("tool_failed", f"The tool server broke off: {_described(error)}") from None


def _plain(tool: mcp_types.Tool) -> dict[str, Any]:
    """A tool as the store keeps it."""
    found: dict[str, Any] = {"name": tool.name, "description": tool.description or ""}
    if tool.title:
        found["title"] = tool.title
    found["input_schema"] = tool.input_schema
    if tool.output_schema:
        found["output_schema"] = tool.output_schema
    if tool.annotations is not None:
        hints = ("read_only_hint", "destructive_hint", "idempotent_hint", "open_world_hint")
        values = {name: getattr(tool.annotations, name) for name in hints}
        found["annotations"] = {name: value for name, value in values.items() if value is not None}
    return found


def _answer(result: Any) -> dict[str, Any]:
    """A result as the log keeps it. Raises ToolFault for one that says it is an error."""
    texts = [part.text for part in result.content if isinstance(part, mcp_types.TextContent)]
    text = "\n".join(texts)
    if result.is_error:
        raise ToolFault("tool_failed", overrides.masked_now(text)[:2000] or "The tool failed and did not say why.")
    others = [_other(part) for part in result.content if not isinstance(part, mcp_types.TextContent)]
    answer: dict[str, Any] = {}
    if isinstance(result.structured_content, dict):
        answer["structured_content"] = result.structured_content
    if text or not answer:
        answer["content"] = text
    return answer | ({"other_content": others} if others else {})


def _other(part: Any) -> dict[str, Any]:
    """What a model is told of content that is no text: what it is, without its bytes."""
    resource = getattr(part, "resource", None)
    if isinstance(resource, mcp_types.TextResourceContents):
        return {"type": "resource", "uri": str(resource.uri), "text": resource.text}
    told = {"type": str(part.type)}
    for name in ("mime_type", "uri", "name"):
        if value := getattr(part, name, None) or getattr(resource, name, None):
            told[name] = str(value)
    return told


def _always(client: httpx2.AsyncClient) -> Any:
    """A factory of the library that gives this client; its caller closes it."""

    def make(headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx2.AsyncClient:
        return client

    return make


class _Transport(httpx2.AsyncBaseTransport):
    """Sends requests through a guarded session."""

    def __init__(self, guard: Guard, session: aiohttp.ClientSession) -> None:
        self._guard = guard
        self._session = session

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; redirects are the business of the caller."""
        url = self._guard.url(str(request.url))
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS]
        headers.append(("accept-encoding", "identity"))
        try:
            response = await self._session.request(
                request.method, url, headers=headers, data=await request.aread() or None, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as error:
            if (refused := refusal(error)) is not None:
                raise refused from None
            raise httpx2.ConnectError(str(error) or type(error).__name__, request=request) from error
        stream = _Body(response, request)
        return httpx2.Response(response.status, headers=list(response.headers.items()), stream=stream, request=request)


_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


class _Body(httpx2.AsyncByteStream):
    """The body of a response, as far as MAX_RESPONSE_BYTES."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in self._response.content.iter_any():
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    raise httpx2.ReadError(f"more than {MAX_RESPONSE_BYTES} bytes", request=self._request)
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(str(error) or type(error).__name__, request=self._request) from error

    async def aclose(self) -> None:
        """Close the connection."""
        self._response.close()


def _refused(error: BaseException) -> Refused | None:
    """The refusal in an error, or in a group of errors."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _refused(inner))), None)
    return refusal(error)


def _described(error: BaseException) -> str:
    """The innermost message of an error, or of the first of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return overrides.masked_now(str(error) or type(error).__name__)[:500]
