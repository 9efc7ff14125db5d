"""The Python client against a real server: every operation, both of its faces, and what errors become."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from starlette.routing import compile_path

import sessile
from acceptance import tool_server_process
from acceptance.stage import Stage, instructions, lambdas
from sessile.api.app import ROUTES
from sessile.client import AsyncClient, Client, Request, Response, UnknownEvent, event_type
from sessile.client.http import HttpTransport
from sessile.testing.script import Step, call, hang, say, status, think, usage, wait_for
from sessile.testing.upstream import Upstream
from sessile.wire.events import AgentOutputEvent, StreamingAgentOutput, ToolInputEvent, ToolOutputEvent

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SOURCE = '''
def order(number: int) -> dict:
    """The state of an order."""
    if number < 0:
        raise ValueError("no such order")
    return {"number": number, "state": "sent"}
'''
MODEL = {"name": "scripted", "retry_configuration": {"enabled": False}}


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"client_tools": SOURCE}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.order]\nfunction = "client_tools:order"\n[mcp]\nallow = ["127.0.0.1"]\n'


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stage: Stage) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        yield client


def a_key() -> str:
    return f"agt_{secrets.token_hex(6)}"


async def an_agent(client: AsyncClient, **fields: Any) -> str:
    agent = await client.agents.create(key=a_key(), name="Helper", model=MODEL, **fields)
    await client.sessions.create(agent.key, key="first")
    return agent.key


class Recording:
    """HTTP, and a note of every request."""

    def __init__(self, url: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self._http = HttpTransport(url)

    async def send(self, request: Request) -> Response:
        self.requests.append((request.method, request.path.partition("?")[0]))
        return await self._http.send(request)

    async def close(self) -> None:
        await self._http.close()


async def every_operation(client: AsyncClient) -> None:
    agent = await client.agents.create(key=a_key(), name="Helper", model="demo")
    assert (await client.agents.get(agent.key)).name == "Helper"
    assert (await client.agents.update(agent.key, name="Other")).name == "Other"
    await client.agents.replace(agent.key, name="Helper", model={"name": "demo", "parameters": {"word_delay": 0}})
    assert agent.key in {shown.key async for shown in client.agents.list(limit=100)}
    session = await client.sessions.create(agent.key, name="A talk")
    assert (await client.sessions.get(agent.key, session.key)).name == "A talk"
    assert (await client.sessions.update(agent.key, session.key, name="Talk")).name == "Talk"
    assert [shown.key async for shown in client.sessions.list(agent.key)] == [session.key]
    assert [shown.key for shown in (await client.sessions.list(limit=1).page()).items] == [session.key]
    assert await client.agents.get_secrets(agent.key) == {}
    assert (await client.agents.replace_secrets(agent.key, {"a": "1"})).keys() == {"a"}
    assert (await client.agents.update_secrets(agent.key, {"a": None, "b": "2"})).keys() == {"b"}
    answer = await client.events.send(agent.key, session.key, "Hello", files=[("a.txt", b"abc")])
    assert (await client.turns.get(agent.key, session.key, answer.turn_id)).stop_reason == "end_turn"
    logged = [event async for event in client.events.list(agent.key, session.key)]
    assert logged == answer.events
    (artifact,) = [shown async for shown in client.artifacts.list(agent.key, session.key)]
    assert (await client.artifacts.get(agent.key, session.key, artifact.artifact_id)).data == b"abc"
    assert (await client.events.interrupt(agent.key, session.key)).turn_id == ""
    assert await client.inputs.list(agent.key, session.key) == []
    with pytest.raises(sessile.NotFound):
        await client.inputs.withdraw(agent.key, session.key, answer.events[0].id)
    assert await client.sessions.outstanding_client_tool_calls(agent.key, session.key) == []
    assert (await client.events.hide(agent.key, session.key, logged[0].id)).hidden
    assert not (await client.events.unhide(agent.key, session.key, logged[0].id)).hidden
    assert (await client.sessions.check(agent.key, session.key)).ok
    exported = await client.sessions.export(agent.key, session.key)
    assert (await client.sessions.import_(agent.key, exported, key="imported")).status == "stopped"
    for event in logged:
        assert not isinstance(event, UnknownEvent)
        assert await client.events.get(agent.key, session.key, event.id) == event
    await client.events.delete(agent.key, session.key, logged[0].id)
    await client.sessions.delete(agent.key, session.key)
    await client.agents.delete(agent.key)
    with tool_server_process.echo() as uri:
        await every_operation_on_tools(client, uri)
    assert await client.health()
    assert await client.ready()
    assert (await client.openapi())["openapi"].startswith("3.1")


async def every_operation_on_tools(client: AsyncClient, uri: str) -> None:
    server = await client.tool_servers.create(name="Echo", uri=uri, transport="streamable-http", headers={"x-a": "b"})
    assert (server.headers, server.enabled) == ({"x-a": "***"}, True)
    await client.tool_servers.sync(server.id)
    assert (await client.tool_servers.update(server.id, name="Other")).name == "Other"
    assert (await client.tool_servers.get(server.id)).headers == {"x-a": "***"}
    assert server.id in {shown.id async for shown in client.tool_servers.list(limit=100)}
    tools = {tool.name: tool async for tool in client.tools.list(tool_server_id=server.id, limit=3)}
    assert tools["echo"].server_id == server.id
    assert (await client.tools.update(tools["echo"].id, enabled=False)).enabled is False
    assert (await client.tools.get(tools["echo"].id)).enabled is False
    await client.tools.delete(tools["echo"].id)
    assert [tool.id async for tool in client.tools.list(type="lambda")] == ["tol_order"]
    await client.tool_servers.delete(server.id)


async def test_the_client_makes_every_operation_of_the_server_and_no_other(stage: Stage) -> None:
    transport = Recording(stage.server.url)
    async with AsyncClient(api_key=stage.server.key, transport=transport) as client:
        await every_operation(client)
    patterns = {(route.method, route.path): compile_path(route.path)[0] for route in ROUTES}
    patterns["GET", "/openapi.json"] = compile_path("/openapi.json")[0]
    made = set()
    for method, path in transport.requests:
        (route,) = [row for row, pattern in patterns.items() if row[0] == method and pattern.match(path)]
        made.add(route)
    assert made == patterns.keys()


async def test_inputs_that_wait(client: AsyncClient, upstream: Upstream) -> None:
    agent, go_on = await an_agent(client), asyncio.Event()
    upstream.add(wait_for(go_on), say("One.")).add(say("Two.")).add(say("Three."))
    first = asyncio.create_task(client.events.send(agent, "first", "1"))
    await upstream.arrived(1)
    with pytest.raises(sessile.SessionRunning):
        await client.events.send(agent, "first", "2")
    async with client.events.stream(agent, "first", "2", behavior="steer") as stream:
        assert (stream.turn_id, stream.event_id) == ("", (await client.inputs.list(agent, "first"))[0].id)
        late = await client.events.send(agent, "first", "3", behavior="follow_up", timeout=0.05)
        assert (late.status, late.events, late.text) == ("running", [], "")
        waiting = await client.inputs.list(agent, "first")
        assert [(one.content, one.behavior, one.turn_id) for one in waiting] == [
            ("2", "steer", None),
            ("3", "follow_up", late.turn_id),
        ]
        whole = asyncio.create_task(client.events.send(agent, "first", "4", since="start"))
        while len(waiting) < 3:
            waiting = await client.inputs.list(agent, "first")
        await client.inputs.withdraw(agent, "first", waiting[1].id)
        go_on.set()
        assert [text async for text in stream.text()] == ["Two."]
        assert (stream.stop_reason, stream.turn_id[:4], stream.event_id[-20:]) == (
            *("end_turn", "trn_"),
            waiting[0].id[-20:],
        )
    assert (await whole).text == "One.Two.Three."
    assert (await first).text == "One."
    with pytest.raises(sessile.InputTaken):
        await client.inputs.withdraw(agent, "first", waiting[0].id)


async def test_agents(client: AsyncClient) -> None:
    key = a_key()
    made = await client.agents.create(
        key=key,
        name="Helper",
        model=MODEL,
        description="Helps",
        metadata={"team": ["a", 1, None]},
        first_step=instructions("Be kind."),
        tool_configurations={
            "order": {"type": "lambda"},
            "remote": {"type": "mcp"},
            "off": {"type": "lambda", "enabled": False},
        },
    )
    assert (made.id, made.key, made.enabled, made.description) == (key, key, True, "Helps")
    assert made.metadata == {"team": ["a", 1, None]}
    assert made.first_step["instructions"][0]["template"] == "Be kind."
    assert made.inactive_tools == {"remote": "mcp", "off": "lambda"}
    assert await client.agents.get(key) == made
    with pytest.raises(sessile.KeyTaken) as taken:
        await client.agents.create(key=key, name="Helper", model=MODEL)
    assert (taken.value.status, taken.value.code) == (400, "key_taken")
    changed = await client.agents.update(key, description=None, enabled=False, tool_configurations={"remote": None})
    assert (changed.description, changed.enabled, set(changed.tool_configurations)) == (None, False, {"order", "off"})
    assert key in {agent.key async for agent in client.agents.list(enabled=False, limit=100)}
    assert key not in {agent.key async for agent in client.agents.list(enabled=True, limit=100)}
    replaced = await client.agents.replace(key, name="New", model=MODEL)
    assert (replaced.metadata, replaced.tool_configurations, replaced.enabled) == ({}, {}, True)
    with pytest.raises(sessile.UnknownModel):
        await client.agents.update(key, model="no-such-model")
    with pytest.raises(sessile.InvalidRequest) as invalid:
        await client.agents.create(name="", model=MODEL)
    assert invalid.value.field_errors is not None
    assert "name" in invalid.value.field_errors
    await client.agents.delete(key)
    with pytest.raises(sessile.NotFound) as gone:
        await client.agents.get(key)
    assert (gone.value.id, gone.value.status) == (key, 404)
    assert (gone.value.request_id or "").startswith("req_")


async def test_sessions(client: AsyncClient) -> None:
    agent = await an_agent(client)
    session = await client.sessions.create(agent, key="second", description="About", metadata={"a": {"b": 1}})
    assert (session.agent_key, session.status, session.stop_reason, session.etag) == (agent, "unstarted", None, '"1"')
    assert (session.description, session.metadata, session.last_event_id) == ("About", {"a": {"b": 1}}, None)
    changed = await client.sessions.update(agent, "second", if_match=session.etag, description=None, enabled=False)
    assert (changed.etag, changed.description, changed.enabled) == ('"2"', None, False)
    with pytest.raises(sessile.PreconditionFailed):
        await client.sessions.update(agent, "second", if_match=session.etag, name="x")
    with pytest.raises(sessile.SessionDisabled):
        await client.events.send(agent, "second", "Hello")
    with pytest.raises(sessile.PreconditionFailed):
        await client.sessions.delete(agent, "second", if_match=session.etag)
    assert [(shown.key, shown.etag) async for shown in client.sessions.list(agent)] == [
        ("second", None),
        ("first", None),
    ]
    await client.sessions.delete(agent, "second", if_match=changed.etag)
    with pytest.raises(sessile.NotFound):
        await client.sessions.get(agent, "second")


async def test_lists_go_over_any_number_of_pages(client: AsyncClient, upstream: Upstream) -> None:
    agent = await an_agent(client)
    keys = [(await client.sessions.create(agent)).key for _ in range(6)]
    assert [session.key async for session in client.sessions.list(agent, limit=2)] == [*reversed(keys), "first"]
    pages = [page async for page in client.sessions.list(agent, limit=3).pages()]
    assert [len(page.items) for page in pages] == [3, 3, 1]
    listing = client.sessions.list(agent, limit=3)
    first = await listing.page()
    assert [session.key for session in (await listing.page(first.page_key)).items] == [keys[2], keys[1], keys[0]]
    with pytest.raises(sessile.InvalidPageKey):
        await listing.page("no page key of this list")
    with pytest.raises(sessile.InvalidParameter):
        await client.sessions.list(agent, limit=101).page()
    for number in range(5):
        upstream.add(say(f"Answer {number}."))
        await client.events.send(agent, "first", f"Input {number}.")
    events = [event async for event in client.events.list(agent, "first", limit=3)]
    assert [event_type(event) for event in events] == ["input_message", "agent_output"] * 5
    newest = [event async for event in client.events.list(agent, "first", order="desc", limit=4)]
    assert newest == events[::-1]
    outputs = [event async for event in client.events.list(agent, "first", types=["agent_output", "x"], limit=1)]
    assert [event.content for event in outputs if isinstance(event, AgentOutputEvent)] == [
        f"Answer {number}." for number in range(5)
    ]
    recorded = [event_type(event) async for event in client.events.list(agent, "first", records=True, limit=7)]
    assert recorded == ["input_message", "turn_started", "agent_output", "turn_ended"] * 5
    with pytest.raises(sessile.InvalidParameter):
        await client.events.list(agent, "first", types=["no type"]).page()


async def test_a_stream_with_thinking_and_tools(client: AsyncClient, upstream: Upstream) -> None:
    agent = await an_agent(client, tool_configurations=lambdas("order"))
    upstream.add(think("I look it up."), say("One moment."), call("order", {"number": 7}), usage(10, 5))
    upstream.add(say("It is sent “so” to you\u2028today."))
    async with client.events.stream(agent, "first", "Where is it?") as turn:
        assert turn.turn_id.startswith("trn_")
        frames = [frame async for frame in turn]
    seen = [name for name in dict.fromkeys(map(event_type, frames)) if not name.startswith("streaming")]
    assert seen == ["input_message", "context_consumed", "thinking", "tool_input", "tool_output", "end"]
    (asked,) = [frame for frame in frames if isinstance(frame, ToolInputEvent)]
    (told,) = [frame for frame in frames if isinstance(frame, ToolOutputEvent)]
    assert (asked.tool_name, asked.tool_input) == ("order", {"number": 7})
    assert (told.tool_output, told.error) == ({"number": 7, "state": "sent"}, False)
    text = "".join(frame.content for frame in frames if isinstance(frame, StreamingAgentOutput))
    assert text == "One moment.It is sent “so” to you\u2028today."
    assert (turn.status, turn.stop_reason, turn.error) == ("stopped", "end_turn", None)
    logged = [event async for event in client.events.list(agent, "first")]
    assert turn.event_id == logged[0].id
    assert (await client.turns.get(agent, "first", turn.turn_id)).input_event_id == turn.event_id


async def test_a_whole_answer(client: AsyncClient, upstream: Upstream) -> None:
    agent = await an_agent(client, tool_configurations=lambdas("order"))
    upstream.add(say("One moment."), call("order", {"number": -1}))
    upstream.add(say(" I cannot find it."))
    answer = await client.events.send(
        agent, "first", [{"type": "text", "content": "Where"}, {"type": "text", "content": "?"}]
    )
    assert answer.text == "One moment. I cannot find it."
    assert (answer.session_key, answer.status, answer.stop_reason, answer.error) == (
        "first",
        "stopped",
        "end_turn",
        None,
    )
    assert answer.events == [event async for event in client.events.list(agent, "first")]
    assert upstream.requests[0].messages[-1]["content"] == "Where\n?"


async def test_a_turn_that_ends_badly_does_not_raise(client: AsyncClient, upstream: Upstream) -> None:
    agent = await an_agent(client)
    upstream.add(status(401, {"error": {"message": "no"}}))
    answer = await client.events.send(agent, "first", "Hello")
    assert (answer.status, answer.stop_reason, answer.text) == ("stopped", "error", "")
    assert answer.error is not None
    assert answer.error.code == "model_unauthorized"
    upstream.add(status(503, {"error": {"message": "no"}}))
    turn = client.events.stream(agent, "first", "Hello")
    assert event_type([frame async for frame in turn][-2]) == "error"
    assert turn.stop_reason == "error"
    assert turn.error is not None
    assert turn.error.code == "model_unavailable"


async def test_time_limits_leave_the_turn_running(client: AsyncClient, upstream: Upstream) -> None:
    agent = await an_agent(client)
    goes_on = asyncio.Event()
    upstream.add(say("One two", whole=True), wait_for(goes_on), say(" three.", whole=True))
    answer = await client.events.send(agent, "first", "Count", timeout=0.3)
    assert (answer.status, answer.stop_reason) == ("running", None)
    with pytest.raises(sessile.SessionRunning) as running:
        await client.events.send(agent, "first", "Hello?")
    assert running.value.id == answer.turn_id
    with pytest.raises(sessile.RequestTimedOut):
        await client.turns.wait(agent, "first", answer.turn_id, timeout=0.1)
    goes_on.set()
    turn = await client.turns.wait(agent, "first", answer.turn_id)
    assert (turn.status, turn.stop_reason) == ("stopped", "end_turn")
    outputs = [event async for event in client.events.list(agent, "first", types=["agent_output"])]
    assert [event.content for event in outputs if isinstance(event, AgentOutputEvent)] == ["One two three."]
    goes_on.clear()
    upstream.add(say("One", whole=True), wait_for(goes_on))
    async with client.events.stream(agent, "first", "Count", timeout=0.3) as stream:
        assert "".join([text async for text in stream.text()]) in ("", "One")
    assert (stream.status, stream.stop_reason) == ("running", None)
    goes_on.set()
    assert (await client.turns.wait(agent, "first", stream.turn_id)).stop_reason == "end_turn"


async def test_who_may_do_what(stage: Stage) -> None:
    async with AsyncClient(stage.server.url, "sk-not-the-right-one") as stranger:
        with pytest.raises(sessile.Unauthenticated) as refused:
            await stranger.agents.list().page()
        assert refused.value.status == 401
        assert "sk-not" not in f"{refused.value} {stranger!r} {vars(stranger)!r}"
        assert await stranger.health()


async def test_settings_of_the_environment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSILE_URL", f"{stage.server.url}/")
    monkeypatch.setenv("SESSILE_API_KEY", f"{stage.server.key}\n")
    async with AsyncClient() as client:
        assert await client.agents.list(limit=1).page()
    async with AsyncClient(api_key="sk-other") as client:
        with pytest.raises(sessile.Unauthenticated):
            await client.agents.list().page()
    monkeypatch.delenv("SESSILE_API_KEY")
    async with AsyncClient() as client:
        with pytest.raises(sessile.Unauthenticated):
            await client.agents.list().page()


async def test_many_calls_at_once(stage: Stage, client: AsyncClient) -> None:
    agent = await client.agents.create(
        key=a_key(), name="Helper", model={"name": "demo", "parameters": {"word_delay": 0}}
    )

    async def talk(number: int) -> str:
        session = await client.sessions.create(agent.key)
        async with client.events.stream(agent.key, session.key, f"Number {number}") as turn:
            text = "".join([text async for text in turn.text()])
        logged = [event async for event in client.events.list(agent.key, session.key, limit=1)]
        assert isinstance(logged[-1], AgentOutputEvent)
        assert logged[-1].content == text
        return text

    texts = await asyncio.gather(*(talk(number) for number in range(150)))
    assert all(f"Number {number}" in text for number, text in enumerate(texts))


async def by_asyncio(client: AsyncClient, agent: str) -> list[Any]:
    seen: list[Any] = []
    made = await client.agents.create(key=agent, name="Helper", model=MODEL, tool_configurations=lambdas("order"))
    seen += [made.model, made.inactive_tools]
    for number in range(3):
        seen.append((await client.sessions.create(agent, key=f"s{number}", metadata={"n": number})).etag)
    seen += [session.key async for session in client.sessions.list(agent, limit=2)]
    seen += [len(page.items) async for page in client.sessions.list(agent, limit=2).pages()]
    seen.append((await client.sessions.list(agent).page()).page_key)
    try:
        await client.sessions.update(agent, "s0", if_match='"9"', name="x")
    except sessile.PreconditionFailed as error:
        seen.append((error.code, error.status, str(error)))
    answer = await client.events.send(agent, "s0", "First")
    seen += [answer.text, answer.status, list(map(event_type, answer.events))]
    async with client.events.stream(agent, "s0", "Second") as turn:
        seen += [(event_type(frame), getattr(frame, "content", None)) async for frame in turn]
    seen += [turn.status, turn.stop_reason, turn.error, bool(turn.turn_id), bool(turn.event_id)]
    stream = client.events.stream(agent, "s1", "Third")
    seen += [text async for text in stream.text()]
    seen += [stream.stop_reason, stream.error and stream.error.code]
    waited = await client.turns.wait(agent, "s0", turn.turn_id, timeout=30)
    seen += [waited.usage, waited.stop_reason]
    seen += [event_type(event) async for event in client.events.list(agent, "s0", order="desc", records=True, limit=3)]
    seen += [await client.health(), await client.ready(), len(await client.openapi())]
    await client.agents.delete(agent)
    try:
        await client.agents.get(agent)
    except sessile.NotFound as error:
        seen.append((error.code, error.status, str(error).replace(agent, "AGENT")))
    return seen


def plainly(client: Client, agent: str) -> list[Any]:
    seen: list[Any] = []
    made = client.agents.create(key=agent, name="Helper", model=MODEL, tool_configurations=lambdas("order"))
    seen += [made.model, made.inactive_tools]
    for number in range(3):
        seen.append(client.sessions.create(agent, key=f"s{number}", metadata={"n": number}).etag)
    seen += [session.key for session in client.sessions.list(agent, limit=2)]
    seen += [len(page.items) for page in client.sessions.list(agent, limit=2).pages()]
    seen.append(client.sessions.list(agent).page().page_key)
    try:
        client.sessions.update(agent, "s0", if_match='"9"', name="x")
    except sessile.PreconditionFailed as error:
        seen.append((error.code, error.status, str(error)))
    answer = client.events.send(agent, "s0", "First")
    seen += [answer.text, answer.status, list(map(event_type, answer.events))]
    with client.events.stream(agent, "s0", "Second") as turn:
        seen += [(event_type(frame), getattr(frame, "content", None)) for frame in turn]
    seen += [turn.status, turn.stop_reason, turn.error, bool(turn.turn_id), bool(turn.event_id)]
    stream = client.events.stream(agent, "s1", "Third")
    seen += list(stream.text())
    seen += [stream.stop_reason, stream.error and stream.error.code]
    waited = client.turns.wait(agent, "s0", turn.turn_id, timeout=30)
    seen += [waited.usage, waited.stop_reason]
    seen += [event_type(event) for event in client.events.list(agent, "s0", order="desc", records=True, limit=3)]
    seen += [client.health(), client.ready(), len(client.openapi())]
    client.agents.delete(agent)
    try:
        client.agents.get(agent)
    except sessile.NotFound as error:
        seen.append((error.code, error.status, str(error).replace(agent, "AGENT")))
    return seen


def script() -> list[list[Step]]:
    return [
        [say("To the first.")],
        [think("Let me see.", whole=True), call("order", {"number": 7}), usage(10, 5)],
        [say("To the second.", whole=True), usage(20, 5)],
        [status(401, {"error": {"message": "no"}})],
    ]


async def test_both_faces_do_the_same(stage: Stage, client: AsyncClient, upstream: Upstream) -> None:
    def run_plainly(agent: str) -> list[Any]:
        with Client(stage.server.url, stage.server.key) as plain:
            return plainly(plain, agent)

    runs: list[Callable[[str], Awaitable[list[Any]]]] = [
        lambda agent: by_asyncio(client, agent),
        lambda agent: asyncio.to_thread(run_plainly, agent),
    ]
    results = []
    for run in runs:
        upstream.reset()
        for steps in script():
            upstream.add(*steps)
        results.append(await run(a_key()))
        assert len(upstream.requests) == len(script())
    assert results[0] == results[1]
    assert "To the first." in results[0]
    assert "model_unauthorized" in results[0]


async def test_an_interrupt_stops_a_turn_and_tells_what_was_kept(client: AsyncClient, upstream: Upstream) -> None:
    agent = await an_agent(client)
    upstream.add(say("Half", whole=True), hang())
    async with client.events.stream(agent, "first", "Hello") as turn:
        while not isinstance(await anext(turn), StreamingAgentOutput):
            pass
        answer = await client.events.interrupt(agent, "first", timeout=60)
        rest = [event_type(frame) async for frame in turn]
    assert (answer.turn_id, answer.status, answer.stop_reason) == (turn.turn_id, "stopped", "interrupted")
    assert (answer.text, answer.error) == ("Half", None)
    assert rest == ["streaming_agent_output_end", "session_interrupted", "end"]
    assert (turn.status, turn.stop_reason, turn.error) == ("stopped", "interrupted", None)
    idle = await client.events.interrupt(agent, "first")
    assert (idle.turn_id, idle.events, idle.stop_reason) == ("", [], "interrupted")
    with pytest.raises(sessile.NotFound):
        await client.events.interrupt(agent, "nothing")
