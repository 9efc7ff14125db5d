"""`web_get` against a real HTTP server, with name resolution that the tests decide."""

import asyncio
import base64
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from sessile.ports import ToolContext, ToolFault
from sessile.tools.guard import Guard
from sessile.tools.web_get import WebGetTool
from sessile.wire import codec
from sessile.wire.limits import MAX_TOOL_OUTPUT_BYTES, MAX_WEB_GET_BYTES

HERE = "127.0.0.1"


class Names(AbstractResolver):
    """Each name leads to the next address of its list, the last one for ever."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self.names[host]
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to do."""


class Site:
    """A web server whose paths the tests define."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.paths: dict[str, Callable[[web.Request], Any]] = {}
        self.port = 0

    def url(self, path: str, host: str = HERE) -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        answered = self.paths[request.path](request)
        found: web.StreamResponse = await answered if asyncio.iscoroutine(answered) else answered
        return found


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = web.TCPSite(runner, HERE, 0)
    await listening.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def tool(*allow: str, resolver: AbstractResolver | None = None) -> WebGetTool:
    return WebGetTool(Guard(allow or [HERE], resolver))


def fixing(*names: str) -> ToolContext:
    """A context in which the agent fixes these arguments."""
    nobody: Any = None
    return ToolContext(session=nobody, turn_id="", tool_call_id="", add_artifact=print, fixed=frozenset(names))


async def fault(arguments: dict[str, Any], used: WebGetTool | None = None) -> ToolFault:
    with pytest.raises(ToolFault) as raised:
        await (used or tool()).run(arguments)
    return raised.value


async def test_a_page_becomes_text(site: Site) -> None:
    page = "<title>T</title><p>One</p><script>no</script><p>Two"
    site.paths["/"] = lambda request: web.Response(text=page, content_type="text/html")
    assert await tool().run({"url": site.url("/")}) == {
        "url": site.url("/"),
        "status": 200,
        "content_type": "text/html",
        "title": "T",
        "content": "One\nTwo",
        "truncated": False,
    }


async def test_json_and_errors_are_results(site: Site) -> None:
    site.paths["/"] = lambda request: web.json_response({"error": "gone\u2028"}, status=410)
    result = await tool().run({"url": site.url("/")})
    assert (result["status"], result["content_type"]) == (410, "application/json")
    assert result["content"] == '{"error": "gone\\u2028"}'


async def test_what_is_sent(site: Site) -> None:
    site.paths["/a"] = lambda request: web.Response(text="ok")
    arguments = {"url": site.url("/a?b=c"), "method": "POST", "headers": {"X-One": "1"}, "body": "h\u00e9"}
    await tool().run(arguments)
    (request,) = site.requests
    assert (request.method, request.query_string, request.headers["x-one"]) == ("POST", "b=c", "1")
    assert request.headers["user-agent"].startswith("Sessile")
    assert site.bodies == ["h\u00e9".encode()]


async def test_content_that_is_no_text(site: Site) -> None:
    site.paths["/i"] = lambda request: web.Response(body=b"\x89PNG\0", content_type="image/png")
    site.paths["/n"] = lambda request: web.Response(body=b"\xff\0", headers={"content-type": ""})
    result = await tool().run({"url": site.url("/i")})
    assert (result["bytes"], "content" in result) == (5, False)
    assert "content" not in await tool().run({"url": site.url("/n")})


async def test_a_charset_and_characters_that_no_log_can_hold(site: Site) -> None:
    headers = {"content-type": "text/plain; charset=iso-8859-1"}
    site.paths["/l"] = lambda request: web.Response(body=b"h\xe9\0\x1b\r\nx", headers=headers)
    assert (await tool().run({"url": site.url("/l")}))["content"] == "h\u00e9\ufffd\ufffd\nx"
    strange = {"content-type": "text/plain; charset=zlib_codec"}
    site.paths["/s"] = lambda request: web.Response(body=b"a\xff", headers=strange)
    assert (await tool().run({"url": site.url("/s")}))["content"] == "a\ufffd"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/\udcff", b"x"),
        ("text/html", b"<title>a\0b</title>x"),
        ("text/html; charset=utf-16", "<title>a\ufffd\0b</title>x".encode("utf-16")),
        ("text/html; charset=unicode_escape", b"<title>a\\ud800b</title>x"),
        ("text/html; charset=raw_unicode_escape", b"<title>a\\ud800b</title>x"),
    ],
)
async def test_nothing_that_a_server_says_is_more_than_a_log_can_hold(
    site: Site, content_type: str, body: bytes
) -> None:
    site.paths["/"] = lambda request: web.Response(body=body, headers={"content-type": content_type})
    told = codec.encode(await tool().run({"url": site.url("/")})).decode()
    assert "\\u0000" not in told
    assert "x" in told


async def test_an_address_is_shown_as_it_was_given(site: Site) -> None:
    """The address may be a secret, which is looked for as the agent has it: not with `|` as `%7C`."""
    site.paths["/T|ab"] = lambda request: web.Response(text="x")
    site.paths["/moved"] = lambda request: web.Response(status=302, headers={"location": "/T|ab"})
    assert (await tool().run({"url": site.url("/T|ab")}))["url"] == site.url("/T|ab")
    assert (await tool().run({"url": site.url("/moved")}))["url"] == site.url("/T%7Cab")


async def test_a_codec_that_is_no_charset_is_not_used(site: Site) -> None:
    """Half a megabyte of punycode takes most of a minute to decode, in which nothing can stop it."""
    headers = {"content-type": "text/plain; charset=punycode"}
    site.paths["/"] = lambda request: web.Response(body=b"a-" + b"b" * 500_000, headers=headers)
    result = await tool().run({"url": site.url("/"), "max_content_bytes": MAX_WEB_GET_BYTES})
    assert result["content"].startswith("a-bbb")


async def test_lines_of_the_start_and_the_end(site: Site) -> None:
    site.paths["/"] = lambda request: web.Response(text="\n".join("abcdef"))
    one = await tool().run({"url": site.url("/"), "head_lines": 2, "tail_lines": 1})
    assert (one["content"], one["left_out_lines"]) == ("a\nb\nf", 3)
    assert (await tool().run({"url": site.url("/"), "tail_lines": 2}))["content"] == "e\nf"
    assert (await tool().run({"url": site.url("/"), "head_lines": 9}))["content"] == "a\nb\nc\nd\ne\nf"


async def test_a_page_that_is_too_large_is_cut(site: Site) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    site.paths["/"] = endless
    result = await tool().run({"url": site.url("/"), "max_content_bytes": 1000})
    assert (len(result["content"]), result["truncated"]) == (1000, True)


async def test_a_bomb_is_counted_after_it_was_unpacked(site: Site) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=9)
    headers = {"content-encoding": "gzip", "content-type": "text/plain"}
    site.paths["/"] = lambda request: web.Response(body=bomb, headers=headers)
    result = await tool().run({"url": site.url("/"), "max_content_bytes": MAX_WEB_GET_BYTES})
    assert result["truncated"] is True
    assert len(result["content"].encode()) < MAX_TOOL_OUTPUT_BYTES


async def test_encodings(site: Site) -> None:
    def encoded(name: str, body: bytes) -> Callable[[web.Request], web.Response]:
        return lambda request: web.Response(body=body, headers={"content-encoding": name, "content-type": "text/plain"})

    site.paths["/g"] = encoded("gzip", gzip.compress(b"packed"))
    site.paths["/b"] = encoded("br", b"packed")
    site.paths["/x"] = encoded("gzip", b"not packed")
    assert (await tool().run({"url": site.url("/g")}))["content"] == "packed"
    assert (await fault({"url": site.url("/b")})).code == "tool_unreachable"
    assert (await fault({"url": site.url("/x")})).code == "tool_unreachable"


async def test_time(site: Site) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    site.paths["/"] = slow
    assert (await fault({"url": site.url("/"), "timeout_seconds": 1})).code == "tool_timeout"


async def test_redirects(site: Site) -> None:
    site.paths["/1"] = lambda request: web.Response(status=302, headers={"location": "/2"})
    site.paths["/2"] = lambda request: web.Response(status=307, headers={"location": site.url("/3")})
    site.paths["/3"] = lambda request: web.Response(text=request.method)
    result = await tool().run({"url": site.url("/1"), "method": "POST", "body": "x"})
    assert (result["url"], result["content"]) == (site.url("/3"), "GET")
    stopped = await tool().run({"url": site.url("/1"), "follow_redirects": False})
    assert (stopped["status"], stopped["location"]) == (302, "/2")


async def test_redirects_without_end(site: Site) -> None:
    site.paths["/"] = lambda request: web.Response(status=302, headers={"location": "/"})
    assert (await fault({"url": site.url("/")})).code == "tool_unreachable"
    assert len(site.requests) == 6


async def test_another_origin_does_not_get_what_was_private(site: Site) -> None:
    names = Names(other_example=[HERE])
    site.paths["/"] = lambda request: web.Response(status=302, headers={"location": site.url("/x", "other.example")})
    site.paths["/x"] = lambda request: web.Response(text="ok")
    arguments = {
        "url": site.url("/"),
        "headers": {"X-Token": "t", "Accept-Language": "de"},
        "auth": {"type": "bearer", "token": "s3cret"},
    }
    await tool(resolver=names).run(arguments, fixing("auth"))
    first, second = site.requests
    assert (first.headers["authorization"], first.headers["x-token"]) == ("Bearer s3cret", "t")
    assert "authorization" not in second.headers
    assert "x-token" not in second.headers
    assert second.headers["accept-language"] == "de"


@pytest.mark.parametrize(("status", "method"), [(307, "POST"), (308, "POST"), (302, "PUT")])
async def test_another_origin_does_not_get_the_body(site: Site, status: int, method: str) -> None:
    there = site.url("/x", "other.example")
    site.paths["/"] = lambda request: web.Response(status=307, headers={"location": "/2"})
    site.paths["/2"] = lambda request: web.Response(status=status, headers={"location": there})
    arguments = {"url": site.url("/"), "method": method, "body": "s3cret"}
    result = await tool(resolver=Names(other_example=[HERE])).run(arguments)
    assert (result["url"], result["status"], result["location"]) == (site.url("/2"), status, there)
    assert site.bodies == [b"s3cret", b"s3cret"]


async def test_another_origin_does_not_get_headers_that_the_agent_fixes(site: Site) -> None:
    site.paths["/"] = lambda request: web.Response(status=307, headers={"location": site.url("/x", "other.example")})
    site.paths["/x"] = lambda request: web.Response(text="ok")
    headers = {"User-Agent": "s3cret", "Accept-Language": "s3cret"}
    used = tool(resolver=Names(other_example=[HERE]))
    await used.run({"url": site.url("/"), "headers": headers}, fixing("headers"))
    first, second = site.requests
    assert (first.headers["user-agent"], first.headers["accept-language"]) == ("s3cret", "s3cret")
    assert "s3cret" not in second.headers.values()
    assert second.headers["user-agent"].startswith("Sessile")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://metadata.example/",
        "http://localhost/",
        "http://2852039166/",
        "http://0xa9.0xfe.0xa9.0xfe/",
        "http://0251.0376.0251.0376/",
        "file:///etc/passwd",
        "http://user:pw@example.com/",
    ],
)
async def test_a_redirect_to_where_no_tool_may_go(site: Site, target: str) -> None:
    names = Names(metadata_example=["169.254.169.254"], localhost=["127.0.0.2"])
    site.paths["/"] = lambda request: web.Response(status=302, headers={"location": target})
    refused = await fault({"url": site.url("/")}, tool(resolver=names))
    assert refused.code == "tool_address_refused"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://[::ffff:127.0.0.1]:{}/"])
async def test_this_machine_is_refused_unless_it_is_allowed(site: Site, url: str) -> None:
    site.paths["/"] = lambda request: web.Response(text="secret")
    refused = await fault({"url": url.format(site.port)}, WebGetTool(Guard()))
    assert refused.code == "tool_address_refused"
    assert site.requests == []


async def test_a_name_that_leads_elsewhere_the_second_time(site: Site) -> None:
    """The address that is connected to is the one that is checked: whoever rebinds a name gets nowhere."""
    names = Names(rebound_example=[HERE, "127.0.0.2"])
    site.paths["/1"] = lambda request: web.Response(status=302, headers={"location": "/2"})
    site.paths["/2"] = lambda request: web.Response(text="secret")
    refused = await fault({"url": site.url("/1", "rebound.example")}, tool(resolver=names))
    assert refused.code == "tool_address_refused"
    assert names.asked == ["rebound.example"] * 2
    assert [request.path for request in site.requests] == ["/1"]


async def test_nobody_answers(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind((HERE, 0))
        port = unused.getsockname()[1]
        assert (await fault({"url": f"http://{HERE}:{port}/"})).code == "tool_unreachable"


async def test_an_answer_that_is_no_http() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, HERE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await fault({"url": f"http://{HERE}:{port}/"})).code == "tool_unreachable"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"url": 5},
        {"url": "http://example.com", "method": "TRACE"},
        {"url": "http://example.com", "unknown": 1},
        {"url": "http://example.com", "timeout_seconds": 0},
        {"url": "http://example.com", "timeout_seconds": 121},
        {"url": "http://example.com", "max_content_bytes": MAX_WEB_GET_BYTES + 1},
        {"url": "http://example.com", "head_lines": -1},
        {"url": "http://example.com", "headers": {"Host": "other"}},
        {"url": "http://example.com", "headers": {"Transfer-Encoding": "chunked"}},
        {"url": "http://example.com", "headers": {"X": "a\r\nY: b"}},
        {"url": "http://example.com", "headers": {"X\n": "a"}},
        {"url": "http://example.com", "headers": {f"x{n}": "" for n in range(51)}},
        {"url": "http://example.com", "headers": {"x": "a" * 5000}},
        {"url": "http://example.com", "body": "x" * 300_000},
        {"url": "http://example.com", "auth": {"type": "none"}},
        {"url": "http://example.com", "ssl_verify": False},
    ],
)
async def test_arguments_that_are_refused(arguments: dict[str, Any]) -> None:
    assert (await fault(arguments)).code == "tool_arguments_invalid"


async def test_a_header_for_who_asks(site: Site) -> None:
    site.paths["/"] = lambda request: web.Response(text="ok")
    auth = {"type": "header", "header": "X-Key", "value": "k"}
    await tool().run({"url": site.url("/"), "auth": auth, "ssl_verify": True}, fixing("auth", "ssl_verify"))
    assert site.requests[0].headers["x-key"] == "k"
    await tool().run({"url": site.url("/"), "auth": {"type": "none"}}, fixing("auth"))
    broken = {"url": site.url("/"), "auth": {**auth, "value": "k\r\nx: y"}}
    with pytest.raises(ToolFault, match="cannot be sent"):
        await tool().run(broken, fixing("auth"))


@pytest.mark.parametrize(("grant", "expires_in"), [("oauth_client_credentials", 3600), ("oauth_refresh_token", "3600")])
async def test_access_tokens_are_got_once(site: Site, grant: str, expires_in: object) -> None:
    """Some servers write the seconds as a text."""
    site.paths["/token"] = lambda request: web.json_response({"access_token": "at", "expires_in": expires_in})
    site.paths["/"] = lambda request: web.Response(text=request.headers["authorization"])
    auth = {"type": grant, "client_id": "me", "client_secret": "p:w", "token_endpoint": site.url("/token")}
    auth |= {"refresh_token": "rt"} if grant == "oauth_refresh_token" else {"scopes": ["a", "b"]}
    used = tool()
    for _ in range(2):
        result = await used.run({"url": site.url("/"), "auth": auth}, fixing("auth"))
        assert result["content"] == "Bearer at"
    assert [request.path for request in site.requests] == ["/token", "/", "/"]
    expected = base64.b64encode(b"me:p%3Aw").decode()
    assert site.requests[0].headers["authorization"] == f"Basic {expected}"
    assert site.bodies[0].startswith(b"grant_type=" + grant.removeprefix("oauth_").encode())


async def test_a_token_endpoint_that_gives_no_token(site: Site) -> None:
    site.paths["/token"] = lambda request: web.Response(status=401, text="no")
    auth = {
        "type": "oauth_client_credentials",
        "client_id": "me",
        "client_secret": "pw",
        "token_endpoint": site.url("/token"),
    }
    with pytest.raises(ToolFault, match="401") as raised:
        await tool().run({"url": site.url("/"), "auth": auth}, fixing("auth"))
    assert raised.value.code == "tool_unreachable"
