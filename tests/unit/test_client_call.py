"""One call: what is sent, what its answer becomes, and when it is made again."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sessile.client.agents import AsyncAgents, inactive_tools
from sessile.client.call import MAX_WAIT_SECONDS, STREAM_SILENCE_SECONDS, may_repeat, path
from sessile.client.client import AsyncClient
from sessile.client.errors import (
    ConnectionLost,
    RequestTimedOut,
    ServerUnreachable,
    UnexpectedAnswer,
    UnknownFault,
    fault,
)
from sessile.client.events import AsyncEvents
from sessile.client.sessions import AsyncSessions
from sessile.client.turns import AsyncTurns
from sessile.wire.errors import Draining, InvalidParameter, NotFound, SessileError, StorageUnavailable
from unit.client_script import EVENTS, JSON, Reply, Script, Waits, caller, refusal

HTML = {"content-type": "text/html; charset=utf-8"}
DONE = Reply(200, {"status": "ok"})


def proxy(status: int, **headers: str) -> Reply:
    """An answer that no Sessile server gave."""
    return Reply(status, b"<html>Bad Gateway</html>", {**HTML, **headers})


FAULTS: dict[str, Any] = {
    "unreachable": ServerUnreachable(),
    "lost": ConnectionLost(),
    "timed_out": RequestTimedOut(),
    "storage": refusal(503, "storage_unavailable"),
    "draining": refusal(503, "server_draining"),
    "other_503": refusal(503, "something_else"),
    "rate": refusal(429, "too_many"),
    "proxy_429": proxy(429),
    "proxy_502": proxy(502),
    "proxy_503": proxy(503),
    "proxy_504": proxy(504),
    "internal": refusal(500, "internal_error"),
    "proxy_500": proxy(500),
    "not_found": refusal(404, "not_found"),
    "running": refusal(409, "session_running"),
    "html": proxy(200),
    "redirect": proxy(302, location="https://elsewhere.example/"),
}
ALWAYS = {"unreachable", "storage", "draining", "rate", "proxy_429"}
"""It cannot have happened."""
WHEN_READING = ALWAYS | {"lost", "other_503", "proxy_502", "proxy_503", "proxy_504"}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT", "DELETE"])
async def test_what_is_repeated(method: str, name: str) -> None:
    script, waits = Script(FAULTS[name], DONE), Waits()
    try:
        await caller(script, waits).whole(method, "/x")
    except SessileError:
        assert name not in (WHEN_READING if method == "GET" else ALWAYS)
        assert (len(script.requests), waits.seconds) == (1, [])
    else:
        assert name in (WHEN_READING if method == "GET" else ALWAYS)
        assert (len(script.requests), waits.seconds) == (2, [0.25])


@pytest.mark.parametrize("name", FAULTS)
async def test_opening_a_stream_is_repeated_like_any_post(name: str) -> None:
    opened = Reply(201, headers=EVENTS)
    script = Script(FAULTS[name], opened)
    try:
        assert await caller(script).stream("/x", {}, None) is opened
    except SessileError:
        assert name not in ALWAYS
    else:
        assert name in ALWAYS
    assert len(script.requests) == (2 if name in ALWAYS else 1)


@pytest.mark.parametrize("name", FAULTS)
async def test_what_has_an_idempotency_key_is_repeated_like_a_get(name: str) -> None:
    opened = Reply(201, headers=EVENTS)
    answer = Reply(201, {"events": [], "session_key": "s", "turn_id": "trn_1", "status": "stopped"})
    for made in (answer, opened):
        script = Script(FAULTS[name], made)
        events = AsyncEvents(caller(script))
        try:
            await (events.send("a", "s", "Hi") if made is answer else events.stream("a", "s", "Hi").__aenter__())
        except SessileError:
            assert name not in WHEN_READING
        else:
            assert name in WHEN_READING
        assert len(script.requests) == (2 if name in WHEN_READING else 1)
        assert len({request.headers["idempotency-key"] for request in script.requests}) == 1


async def test_every_call_that_creates_has_a_key_of_its_own_or_the_callers() -> None:
    script = Script(DONE)
    made = caller(script)
    agents, sessions, events = AsyncAgents(made), AsyncSessions(made), AsyncEvents(made)
    calls: list[Callable[..., Any]] = [
        lambda **key: agents.create(name="A", model="m", **key),
        lambda **key: sessions.create("a", **key),
        lambda **key: sessions.import_("a", b"{}", **key),
        lambda **key: events.send("a", "s", "Hi", **key),
        lambda **key: events.stream("a", "s", "Hi", **key).__aenter__(),
    ]
    for call in calls:
        for given in ({}, {}, {"idempotency_key": "mine!~"}):
            with contextlib.suppress(UnexpectedAnswer):
                await call(**given)
        with pytest.raises(InvalidParameter):
            await call(idempotency_key="two words")
    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert keys[2::3] == ["mine!~"] * 5
    assert len({*keys[::3], *keys[1::3]}) == 10
    for change in (agents.update("a", name="B"), agents.delete("a"), sessions.delete("a", "s")):
        with contextlib.suppress(UnexpectedAnswer):
            await change
        assert "idempotency-key" not in script.requests[-1].headers


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ü", "a\r\nX: y", "a\n", "\x7f"])
async def test_what_is_no_idempotency_key(key: str) -> None:
    script = Script(DONE)
    with pytest.raises(InvalidParameter):
        await AsyncEvents(caller(script)).send("a", "s", "Hi", idempotency_key=key)
    assert script.requests == []


async def test_an_input_on_a_condition() -> None:
    script = Script(DONE)
    events = AsyncEvents(caller(script))
    for condition in ("start", "aev_1"):
        with contextlib.suppress(UnexpectedAnswer):
            await events.send("a", "s", "Hi", if_match=condition)
    assert [request.headers["if-match"] for request in script.requests] == ['"start"', '"aev_1"']
    for condition in ("", "*", '"start"', "aev_1\n", "1"):
        with pytest.raises(InvalidParameter):
            events.stream("a", "s", "Hi", if_match=condition)


async def test_a_repeated_input_asks_for_what_is_left_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Waits):
        async def __call__(self, seconds: float) -> None:
            await super().__call__(seconds)
            now = asyncio.get_running_loop().time() + 4.0
            monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

    script = Script(ConnectionLost(), Reply(201, headers=EVENTS))
    async with AsyncEvents(caller(script, Slow())).stream("a", "s", "Hi", timeout=10):
        pass
    limits = [int(request.headers["request-timeout-millis"]) for request in script.requests]
    assert limits[0] == 10_000
    assert 5_000 < limits[1] <= 6_000


async def test_a_get_whose_answer_breaks_off_is_repeated_and_a_post_is_not() -> None:
    cut = Reply(200, chunks=[b'{"status":', ConnectionLost()])
    assert json.loads((await caller(Script(cut, DONE)).whole("GET", "/x")).body) == {"status": "ok"}
    script = Script(cut, DONE)
    with pytest.raises(ConnectionLost):
        await caller(script).whole("POST", "/x", document={})
    assert len(script.requests) == 1
    assert cut.closed == 2


async def test_waits_grow_and_retries_end() -> None:
    script, waits = Script(ServerUnreachable("Nobody is there.")), Waits()
    with pytest.raises(ServerUnreachable, match=r"Nobody is there\."):
        await caller(script, waits, retries=4).whole("POST", "/x", document={})
    assert waits.seconds == [0.25, 0.5, 1.0, 2.0]
    assert len({request.headers["x-request-id"] for request in script.requests}) == 1


async def test_without_retries_nothing_is_repeated() -> None:
    script = Script(ServerUnreachable(), DONE)
    with pytest.raises(ServerUnreachable):
        await caller(script, retries=0).whole("GET", "/x")
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("header", "waited"),
    [
        ("3", [3.0]),
        ("9" * 30, [0.25]),
        ("0", [0.25]),
        ("soon", [0.25]),
        ("-1", [0.25]),
        (f"{MAX_WAIT_SECONDS:g}", [30.0]),
    ],
)
async def test_the_server_says_when(header: str, waited: list[float]) -> None:
    waits = Waits()
    await caller(Script(refusal(503, "server_draining", {"retry-after": header}), DONE), waits).whole("POST", "/x")
    assert waits.seconds == waited


@pytest.mark.parametrize(("header", "limit"), [("31", 60.0), ("31", None), ("2", 1.0)])
async def test_a_pause_that_is_too_long_is_none(header: str, limit: float | None) -> None:
    script, waits = Script(refusal(503, "storage_unavailable", {"retry-after": header}), DONE), Waits()
    with pytest.raises(StorageUnavailable):
        await caller(script, waits, timeout=limit).whole("POST", "/x")
    assert waits.seconds == []


def test_the_table_knows_no_other_reason() -> None:
    unknown = fault("new", "", status=500, request_id=None)
    assert not any(may_repeat(method, unknown) for method in ("GET", "POST"))
    assert may_repeat("DELETE", Draining())
    assert not may_repeat("DELETE", ConnectionLost())


async def test_what_is_sent() -> None:
    script = Script(DONE)
    query = {"enabled": True, "limit": 5, "type": "a,b", "page_key": "a=&b c", "none": None}
    await caller(script, timeout=7).whole("POST", "/x", query=query, document={"name": "Ü"})
    (request,) = script.requests
    assert request.path == "/x?enabled=true&limit=5&type=a%2Cb&page_key=a%3D%26b%20c"
    assert request.body == '{"name":"Ü"}'.encode()
    assert request.headers["x-api-key"] == "sk-secret"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-request-id"].startswith("req_")
    assert 6 < (request.timeout or 0) <= 7
    assert "sk-secret" not in repr(request)


async def test_what_is_not_sent() -> None:
    script = Script(Reply(204, headers={}))
    assert (await caller(script, timeout=None).whole("DELETE", "/x")).body == b""
    (request,) = script.requests
    assert (request.path, request.body, request.timeout) == ("/x", None, None)
    assert "content-type" not in request.headers


async def test_time_limits_of_inputs() -> None:
    answer = Reply(201, {"events": [], "session_key": "s", "turn_id": "trn_1", "status": "stopped"})
    script = Script(answer, answer, Reply(201, headers=EVENTS))
    made = caller(script, timeout=60)
    events = AsyncEvents(made)
    await events.send("a", "s", "Hello")
    await events.send("a", "s", "Hello", timeout=1.5001)
    async with events.stream("a", "s", "Hello", timeout=0.0001):
        pass
    sent, bounded, streamed = script.requests
    assert sent.timeout is None
    assert "request-timeout-millis" not in sent.headers
    assert 61 < (bounded.timeout or 0) <= 61.5001
    assert bounded.headers["request-timeout-millis"] == "1501"
    assert streamed.timeout == STREAM_SILENCE_SECONDS
    assert streamed.headers["request-timeout-millis"] == "1"
    assert streamed.headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
async def test_senseless_time_limits(seconds: float) -> None:
    script = Script(DONE)
    with pytest.raises(InvalidParameter):
        await AsyncEvents(caller(script)).send("a", "s", "Hello", timeout=seconds)
    assert script.requests == []


@pytest.mark.parametrize(
    "key", ["", ".", "..", "a/b", "a/sessions", "a b", "a%2Fb", "a?b", "a#b", "ä", "a\r\nX: y", "a\n"]
)
async def test_a_key_cannot_name_another_path(key: str) -> None:
    script = Script(DONE)
    made = caller(script)
    agents, sessions, events, turns = AsyncAgents(made), AsyncSessions(made), AsyncEvents(made), AsyncTurns(made)
    for call in (
        lambda: agents.get(key),
        lambda: agents.delete(key),
        lambda: sessions.create(key),
        lambda: sessions.list(key).page(),
        lambda: sessions.get("a", key),
        lambda: events.get("a", "s", key),
        lambda: turns.get("a", "s", key),
    ):
        with pytest.raises(InvalidParameter):
            await call()
    assert script.requests == []


@pytest.mark.parametrize("etag", ["", 'a"\r\nX: y', '"1 2"', "ü"])
async def test_an_etag_cannot_be_another_header(etag: str) -> None:
    with pytest.raises(InvalidParameter):
        await AsyncSessions(caller(Script(DONE))).delete("a", "s", if_match=etag)


def test_paths() -> None:
    assert path("/v2/agents/{agent_key}/x", agent_key="a-B_1") == "/v2/agents/a-B_1/x"
    with pytest.raises(InvalidParameter) as caught:
        path("/{agent_key}", agent_key="a/b")
    assert caught.value.field_errors is not None
    assert "agent_key" in caught.value.field_errors


async def test_a_refusal_carries_what_the_server_said() -> None:
    answer = refusal(404, "not_found", id="helper")
    with pytest.raises(NotFound, match="not_found it is") as caught:
        await caller(Script(answer)).whole("GET", "/x")
    error = caught.value
    assert (error.status, error.request_id, error.id) == (404, "req_theirs", "helper")
    assert answer.closed == 1


async def test_a_refusal_without_a_request_id_gets_the_one_that_was_sent() -> None:
    script = Script(refusal(418, "teapot", request_id=""))
    with pytest.raises(UnknownFault) as caught:
        await caller(script).whole("GET", "/x")
    assert caught.value.request_id == script.requests[0].headers["x-request-id"]


@pytest.mark.parametrize("error", [ServerUnreachable(), ConnectionLost(), RequestTimedOut()])
async def test_failures_on_the_way_carry_the_request_id(error: SessileError) -> None:
    script = Script(error)
    with pytest.raises(type(error)) as caught:
        await caller(script, retries=0).whole("POST", "/x")
    assert caught.value.request_id == script.requests[0].headers["x-request-id"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (proxy(200), "status 200 and is text/html"),
        (proxy(404), "status 404 and is text/html"),
        (Reply(431, b"too long", {"content-type": "text/plain"}), "status 431"),
        (Reply(500, [1], JSON), "status 500"),
        (Reply(500, b'{"code":"\xff"}', JSON), "status 500"),
        (Reply(200, {"status": "ok"}, {}), "no content type"),
        (proxy(307, location="https://elsewhere.example/v2"), "redirects to 'https://elsewhere.example/v2'"),
    ],
)
async def test_what_is_no_answer_of_a_sessile_server(answer: Reply, words: str) -> None:
    script = Script(answer)
    with pytest.raises(UnexpectedAnswer, match=words) as caught:
        await caller(script).whole("POST", "/x")
    assert caught.value.status == answer.status
    assert len(script.requests) == 1


async def test_a_stream_that_is_none() -> None:
    answer = Reply(201, {"events": []})
    with pytest.raises(UnexpectedAnswer):
        await caller(Script(answer)).stream("/x", {}, None)
    assert answer.closed == 1


async def test_a_closed_client_says_so() -> None:
    script = Script(DONE)
    client = AsyncClient(transport=script)
    async with client:
        assert await client.health()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.health()
    assert len(script.requests) == 1


async def test_readiness_is_asked_once() -> None:
    script = Script(refusal(503, "storage_unavailable"))
    assert await AsyncClient(transport=script).ready() is False
    assert len(script.requests) == 1
    with pytest.raises(ServerUnreachable):
        await AsyncClient(transport=Script(ServerUnreachable()), retries=0).ready()


async def test_a_model_may_be_given_by_its_name_alone() -> None:
    agent = {"id": "a", "key": "a", "name": "A", "tool_configurations": {}, "model": {"name": "demo"}, "first_step": {}}
    agent |= {"first_step_name": "s", "metadata": {}, "enabled": True, "created_at": "", "updated_at": ""}
    script = Script(Reply(201, agent, {**JSON, "x-sessile-inactive": "b=mcp, c=lambda"}))
    agents = AsyncAgents(caller(script))
    made = await agents.create(name="A", model="demo")
    await agents.update("a", model={"name": "demo"}, description=None)
    bodies = [msgspec.json.decode(request.body or b"") for request in script.requests]
    assert bodies == [{"name": "A", "model": {"name": "demo"}}, {"model": {"name": "demo"}, "description": None}]
    assert made.inactive_tools == {"b": "mcp", "c": "lambda"}


def test_a_header_that_the_server_cut() -> None:
    header = ", ".join(f"tool_{number:04}=lambda" for number in range(300))[:4096]
    read = inactive_tools(header)
    assert len(read) == header.count(", ")
    assert set(read.values()) == {"lambda"}
    assert inactive_tools("") == {}


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://h", "http://", "http://h:0", "http://h:port", "http://u:p@h", "http://h/?q", "http://h\n"]
)
def test_what_is_no_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSILE_URL", "also wrong")
    with pytest.raises(ValueError, match="URL"):
        AsyncClient(url)


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"timeout": -1}, {"retries": -1}, {"api_key": "sk\r\nX: y"}, {"api_key": "ü"}]
)
def test_senseless_settings(arguments: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words differ
        AsyncClient("http://127.0.0.1:1", **arguments)
    assert "sk" not in str(caught.value)
