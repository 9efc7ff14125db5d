"""Tool servers: what agents get from real MCP servers, and what bad ones can do to a turn (nothing)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web

from acceptance import tool_server_process
from acceptance.stage import Stage, refused, types
from sessile.testing.script import call, say
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SECRET = "tok-0123456789"
SERVERS = "/v2/tool_servers"


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[mcp]\nallow = ["127.0.0.1"]\ntimeout_seconds = 8\n[tools.ping]\nfunction = "pings:ping"\n'


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"pings": 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'}


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with tool_server_process.echo() as url:
        yield url


async def add(stage: Stage, uri: str, **fields: Any) -> str:
    """Add a tool server; returns its id."""
    body = {"name": "Tools", "type": "mcp", "uri": uri, "transport": "streamable-http", **fields}
    answer = await stage.client.post(SERVERS, json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def synced(stage: Stage, uri: str, **fields: Any) -> dict[str, str]:
    """Add a tool server and sync it; the ids of its tools by name."""
    server = await add(stage, uri, **fields)
    answer = await stage.client.post(f"{SERVERS}/{server}/sync")
    assert answer.status_code == 204, answer.text
    return {tool["name"]: tool["id"] for tool in await tools_of(stage, server)}


async def tools_of(stage: Stage, server: str) -> list[dict[str, Any]]:
    found = await stage.client.get("/v2/tools", params={"tool_server_id": server, "limit": 100})
    listed: list[dict[str, Any]] = found.json()["tools"]
    return listed


async def output(stage: Stage, upstream: Upstream, configuration: dict[str, Any], arguments: Any) -> dict[str, Any]:
    """The tool output of one call."""
    agent = await stage.agent(tool_configurations={"remote": {"type": "mcp", **configuration}})
    session = await stage.session(agent)
    upstream.add(call("remote", arguments, "c1"))
    upstream.add(say("Done."))
    answer = (await stage.client.post(f"{session}/events", json={"content": "Go"})).json()
    assert (answer["stop_reason"], answer["error"]) == ("end_turn", None)
    assert types(answer["events"]) == ["input_message", "tool_input", "tool_output", "agent_output"]
    told: dict[str, Any] = answer["events"][2]
    return told


async def test_an_agent_uses_a_server_that_we_did_not_write(stage: Stage, upstream: Upstream, echo: str) -> None:
    ids = await synced(stage, echo)
    assert "echo" in ids
    told = await output(stage, upstream, {"tool_id": ids["echo"]}, {"message": "hello there"})
    assert told["error"] is False
    assert "hello there" in told["tool_output"]["content"]
    assert (told["tool_configuration_name"], told["tool_name"]) == ("remote", "echo")
    offered = upstream.requests[-1].body["tools"][0]["function"]
    assert offered["name"] == "remote"
    assert "message" in offered["parameters"]["properties"]


async def test_headers_and_credentials_reach_the_server_and_nobody_else(
    stage: Stage, upstream: Upstream, echo: str
) -> None:
    auth = {"type": "bearer", "token": SECRET}
    ids = await synced(stage, echo, headers={"X-Team": "blue-team"}, auth=auth)
    told = await output(stage, upstream, {"tool_id": ids["printHeader"]}, {})
    assert "blue-team" in json.dumps(told["tool_output"]).lower()
    listed = (await stage.client.get(SERVERS)).json()["tool_servers"][0]
    assert listed["headers"] == {"X-Team": "***"}
    assert "auth" not in listed
    assert SECRET not in json.dumps((await stage.client.get(SERVERS)).json())
    server = listed["id"]
    changes = {"headers": {"X-Team": "***", "X-More": "1"}, "description": "Changed"}
    changed = await stage.client.patch(f"{SERVERS}/{server}", json=changes)
    assert changed.json()["headers"] == {"X-Team": "***", "X-More": "***"}
    again = await output(stage, upstream, {"tool_id": ids["printHeader"]}, {})
    assert "blue-team" in json.dumps(again["tool_output"]).lower()


async def test_what_the_agent_fixes_goes_to_the_server(stage: Stage, upstream: Upstream, echo: str) -> None:
    ids = await synced(stage, echo)
    configuration = {"tool_id": ids["echo"], "argument_override": {"message": "fixed"}}
    told = await output(stage, upstream, configuration, {"message": "chosen"})
    assert "fixed" in told["tool_output"]["content"]
    assert told["resolved_argument_overrides"] == {"message": "fixed"}


async def test_the_life_of_a_tool_server(stage: Stage, upstream: Upstream, echo: str) -> None:
    server = await add(stage, echo, description="Says it again", metadata={"team": 1})
    shown = (await stage.client.get(f"{SERVERS}/{server}")).json()
    assert (shown["id"], shown["type"], shown["enabled"], shown["metadata"]) == (server, "mcp", True, {"team": 1})
    assert await tools_of(stage, server) == []
    await stage.client.post(f"{SERVERS}/{server}/sync")
    before = {tool["name"]: tool["id"] for tool in await tools_of(stage, server)}
    await stage.client.patch(f"/v2/tools/{before['echo']}", json={"type": "mcp", "enabled": False})
    await stage.client.post(f"{SERVERS}/{server}/sync")
    after = {tool["name"]: (tool["id"], tool["enabled"]) for tool in await tools_of(stage, server)}
    assert {name: id for name, (id, _) in after.items()} == before
    assert after["echo"][1] is False
    chosen = ["echo", *(name for name in before if name != "echo")][:3]
    agent = await stage.agent(tool_configurations={n: {"type": "mcp", "tool_id": before[n]} for n in chosen})
    inactive = (await stage.client.get(f"/v2/agents/{agent}")).headers["x-sessile-inactive"]
    assert inactive == "echo=mcp"
    await stage.client.patch(f"{SERVERS}/{server}", json={"enabled": False})
    inactive = (await stage.client.get(f"/v2/agents/{agent}")).headers["x-sessile-inactive"]
    assert inactive.count("=mcp") == 3
    assert (await stage.client.delete(f"{SERVERS}/{server}")).status_code == 204
    assert (await stage.client.get(f"{SERVERS}/{server}")).status_code == 404
    assert (await stage.client.get(f"/v2/tools/{before['echo']}")).status_code == 404
    upstream.add(say("Nothing to use."))
    session = await stage.session(agent)
    assert (await stage.client.post(f"{session}/events", json={"content": "Go"})).json()["stop_reason"] == "end_turn"
    assert "tools" not in upstream.requests[-1].body


@pytest.mark.parametrize("transport", ["sse", "streamable-http"])
async def test_progress_failure_and_time(stage: Stage, upstream: Upstream, transport: str) -> None:
    with tool_server_process.reporting(transport) as url:
        ids = await synced(stage, url, transport=transport)
        agent = await stage.agent(tool_configurations={n: {"type": "mcp", "tool_id": id} for n, id in ids.items()})
        session = await stage.session(agent)
        upstream.add(call("count", {"to": 2}, "c1"), call("fail", {}, "c2"), call("hang", {}, "c3"))
        upstream.add(say("Done."))
        async with stage.stream(session, "Go") as stream:
            frames = await stream.rest()
    activity = [data for name, data in frames if name == "tool_activity"]
    assert [data["message"] for data in activity] == ["counted 1", "counted 2"]
    assert {(data["tool_call_id"], data["activity_type"]) for data in activity} == {("c1", "generic")}
    outputs = [data for name, data in frames if name == "tool_output"]
    assert outputs[0]["tool_output"]["structured_content"] == {"result": 2}
    assert outputs[1]["tool_output"]["code"] == "tool_failed"
    assert "fail" in outputs[1]["tool_output"]["error"]
    assert outputs[2]["tool_output"]["code"] == "tool_timeout"
    assert frames[-1][1]["stop_reason"] == "end_turn"


async def test_an_interrupt_ends_a_call(stage: Stage, upstream: Upstream) -> None:
    with tool_server_process.reporting("streamable-http") as url:
        ids = await synced(stage, url)
        agent = await stage.agent(tool_configurations={"hang": {"type": "mcp", "tool_id": ids["hang"]}})
        session = await stage.session(agent)
        upstream.add(call("hang", {}, "c1"))
        async with stage.stream(session, "Go") as stream:
            await stream.until("tool_input")
            answer = await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    assert answer.json()["stop_reason"] == "interrupted"
    assert answer.json()["events"][0]["tool_output"]["code"] == "turn_interrupted"


async def test_a_server_that_dies(stage: Stage, upstream: Upstream) -> None:
    with tool_server_process.reporting("streamable-http") as url:
        ids = await synced(stage, url)
    told = await output(stage, upstream, {"tool_id": ids["count"]}, {"to": 1})
    assert told["tool_output"]["code"] == "tool_unreachable"


Answer = Callable[[dict[str, Any]], web.Response]


@asynccontextmanager
async def liar(called: Answer, listed: dict[str, Any] | None = None) -> AsyncIterator[str]:
    """An MCP server by hand, that answers a call as it likes."""
    schema = {"type": "object", "properties": {"x": {}}}
    tools = listed or {"tools": [{"name": "lie", "description": "Lies.", "inputSchema": schema}]}

    async def answer(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "liar", "version": "1"},
            },
            "tools/list": tools,
        }
        if message["method"] == "tools/call":
            return called(message)
        if message["method"] not in results:
            error = {"code": -32601, "message": "no such method"}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]})

    app = web.Application()
    app.router.add_route("*", "/mcp", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


def result(value: Any) -> Answer:
    return lambda message: web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": value})


def text(content: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": content}]}


LIES: dict[str, tuple[Answer, str]] = {
    "a result of another shape": (result({"content": "text"}), "tool_failed"),
    "no result": (result(None), "tool_failed"),
    "another id": (lambda m: web.json_response({"jsonrpc": "2.0", "id": 99, "result": text("x")}), "tool_timeout"),
    "no JSON": (lambda m: web.Response(text="{", content_type="application/json"), "tool_failed"),
    "a page": (lambda m: web.Response(text="<p>", content_type="text/html"), "tool_failed"),
    "an error of HTTP": (lambda m: web.Response(status=500, text="no"), "tool_failed"),
    "a huge result": (result(text("x" * 2_000_000)), "tool_failed"),
    "an endless result": (result(text("x" * 20_000_000)), "tool_failed"),
    "a redirect elsewhere": (
        lambda m: web.Response(status=307, headers={"location": "http://169.254.169.254/"}),
        "tool_failed",
    ),
    "an error without a reason": (result({"content": [], "isError": True}), "tool_failed"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies(stage: Stage, upstream: Upstream, lie: str) -> None:
    answer, code = LIES[lie]
    async with liar(answer) as url:
        ids = await synced(stage, url)
        told = await output(stage, upstream, {"tool_id": ids["lie"]}, {})
    assert told["error"] is True
    assert told["tool_output"]["code"] == code


async def test_what_a_server_says_that_is_no_text(stage: Stage, upstream: Upstream) -> None:
    content = [
        {"type": "image", "data": "AAAA", "mimeType": "image/png"},
        {"type": "text", "text": "a picture"},
        {"type": "resource", "resource": {"uri": "file:///notes.txt", "text": "a note"}},
    ]
    async with liar(result({"content": content})) as url:
        ids = await synced(stage, url)
        told = await output(stage, upstream, {"tool_id": ids["lie"]}, {})
    assert told["tool_output"] == {
        "content": "a picture",
        "other_content": [
            {"type": "image", "mime_type": "image/png"},
            {"type": "resource", "uri": "file:///notes.txt", "text": "a note"},
        ],
    }


@pytest.mark.parametrize(
    "listed",
    [
        {"tools": "none"},
        {"tools": [{"name": 5}]},
        {"tools": [{"name": "list", "inputSchema": {"type": "array"}}]},
        {"tools": [], "nextCursor": "for ever"},
        {"tools": [{"name": f"t{n}", "inputSchema": {"type": "object"}} for n in range(501)]},
    ],
)
async def test_a_list_of_tools_that_makes_no_sense(stage: Stage, listed: dict[str, Any]) -> None:
    async with liar(result({}), listed) as url:
        server = await add(stage, url)
        answer = await stage.client.post(f"{SERVERS}/{server}/sync")
    assert (answer.status_code, answer.json()["code"]) == (422, "tool_server_failed")
    assert await tools_of(stage, server) == []


async def test_tools_that_no_model_can_be_told_of_are_left_out(stage: Stage) -> None:
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"properties": {"x": deep}}
    tools = [
        {"name": "good", "inputSchema": {"type": "object"}},
        {"name": "large", "inputSchema": {"type": "object", "description": "x" * 70_000}},
        {"name": "deep", "inputSchema": {"type": "object", **deep}},
        {"name": "", "inputSchema": {"type": "object"}},
        {"name": "nul\0", "inputSchema": {"type": "object"}},
    ]
    async with liar(result({}), {"tools": tools}) as url:
        assert list(await synced(stage, url)) == ["good"]


async def test_a_server_at_an_address_that_is_not_allowed(stage: Stage) -> None:
    for uri in ("http://127.0.0.2:9/mcp", "http://[::1]:9/mcp", "http://169.254.169.254/mcp"):
        server = await add(stage, uri)
        answer = await stage.client.post(f"{SERVERS}/{server}/sync")
        assert (answer.status_code, answer.json()["code"]) == (422, "tool_server_failed")
        assert "not a public address" in answer.json()["messages"][0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"uri": "file:///etc/passwd"}, "uri"),
        ({"uri": "http://user:pw@example.com/"}, "uri"),
        ({"uri": ""}, "uri"),
        ({"name": ""}, "name"),
        ({"name": "x" * 51}, "name"),
        ({"type": "soap"}, "type"),
        ({"transport": "stdio"}, "transport"),
        ({"auth": {"type": "password"}}, "auth"),
        ({"headers": {"X": 5}}, "headers[...]"),
        ({"headers": {"X": "a\r\nb"}}, "headers"),
        ({"auth": {"type": "header", "header": "X Y", "value": "v"}}, "auth"),
        ({"metadata": {"x": "y" * 70_000}}, "metadata"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_bad_tool_servers(stage: Stage, change: dict[str, Any], field: str) -> None:
    body = {"name": "T", "type": "mcp", "uri": "https://example.com/mcp", "transport": "sse", **change}
    answer = await stage.client.post(SERVERS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text
    assert field in str(answer.json()["field_errors"])


async def test_listing_tools(stage: Stage, echo: str) -> None:
    await synced(stage, echo)
    client: httpx.AsyncClient = stage.client
    functions = (await client.get("/v2/tools", params={"type": "lambda"})).json()["tools"]
    assert [(tool["id"], tool["type"], tool["function_definition"]["code"]) for tool in functions] == [
        ("tol_ping", "lambda", "")
    ]
    assert (await client.get("/v2/tools/tol_ping")).json() == functions[0]
    whole = (await client.get("/v2/tools", params={"limit": 100})).json()["tools"]
    paged: list[Any] = []
    query: dict[str, Any] = {"limit": 1}
    while True:
        page = (await client.get("/v2/tools", params=query)).json()
        paged += page["tools"]
        if "page_key" not in page["metadata"] or len(paged) > 100:
            break
        query["page_key"] = page["metadata"]["page_key"]
    assert paged == whole[: len(paged)]
    assert len(paged) == len(whole)
    assert (await client.get("/v2/tools", params={"type": "client"})).json()["tools"] == []
    for params in ({"category": "x"}, {"category": ["x", "y"]}):
        assert (await client.get("/v2/tools", params=params)).json() == {"tools": [], "metadata": {}}
    found = (await client.get("/v2/tools", params={"filter": "^(ping|none)$"})).json()["tools"]
    assert found == functions
    by_name = whole[-1]["name"]
    found = (await client.get("/v2/tools", params={"filter": f"^{by_name}$", "limit": 100})).json()["tools"]
    assert whole[-1] in found
    assert {tool["name"] for tool in found} == {by_name}
    servers = (await client.get("/v2/tool_servers", params={"filter": "^no such$"})).json()["tool_servers"]
    assert servers == []
    for path in ("/v2/tools", "/v2/tool_servers"):
        refused(await client.get(path, params={"filter": "("}), 400, "invalid_filter", "filter")
        refused(await client.get(path, params={"filter": "x" * 1001}), 400, "invalid_parameter", "filter")
    refused(await client.get("/v2/tools?type=mcp&type=mcp"), 400, "invalid_parameter")
    made = await client.post("/v2/tools", json={"type": "lambda", "name": "new"})
    refused(made, 405, "method_not_allowed")
    assert made.headers["allow"] == "GET"
    for change in ({"type": "lambda", "enabled": False}, {"type": "mcp", "enabled": False}):
        answer = await client.patch("/v2/tools/tol_ping", json=change)
        assert (answer.status_code, answer.json()["code"]) == (400, "not_supported")
    assert (await client.delete("/v2/tools/tol_ping")).json()["code"] == "not_supported"
    assert (await client.delete("/v2/tools/tol_none")).status_code == 404
    assert (await client.delete(f"/v2/tools/{whole[-1]['id']}")).status_code == 204
    await asyncio.sleep(0)
    assert (await client.get(f"/v2/tools/{whole[-1]['id']}")).status_code == 404
