"""What goes to a tool server, seen from the other end of the wire."""

from typing import Any

import pytest
from aiohttp import web

from sessile.domain.tool_servers import Endpoint
from sessile.ports import ToolFault
from sessile.tools.guard import Guard
from sessile.tools.mcp import McpServers


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_a_header_may_have_all_characters_that_a_caller_may_give_it(transport: Any) -> None:
    seen: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        seen.append(request.headers["x-team"])
        return web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/mcp", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    uri = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    try:
        with pytest.raises(ToolFault):
            await McpServers(Guard(["127.0.0.1"]), 20).list(
                Endpoint(uri=uri, transport=transport, headers={"X-Team": "caf\u00e9"}, auth=None)
            )
    finally:
        await runner.cleanup()
    assert set(seen) == {"caf\u00e9"}
