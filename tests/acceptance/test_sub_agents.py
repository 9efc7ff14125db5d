"""Agents as tools of other agents, over a real server: where they answer, what they are told, what stops them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import sessile
from acceptance.stage import WAIT_SECONDS, Stage, eventually, model_config, types
from sessile.testing.script import call, hang, say, status, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.events import AgentOutputEvent, InputMessageEvent, ToolActivity

pytestmark = pytest.mark.acceptance

CLIENT_TOOL = {"approve": {"type": "client", "tool_id": "tol_approve"}}
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
async def stage(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Stage]:
    with ServerProcess(tmp_path, model_config(upstream)) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            stage = Stage(server, upstream, client)
            yield stage
            assert stage.defects() == []


def asks(agent: str, **configuration: Any) -> dict[str, Any]:
    """The tool `helper`: another agent."""
    own = {"agent_key": agent, **configuration}
    return {"tool_configurations": {"helper": {"type": "sub_agent", "sub_agent_configuration": own}}}


async def pair(stage: Stage, child: dict[str, Any] | None = None, **configuration: Any) -> tuple[str, str, str]:
    """An agent that may ask another one: its key, a session of its own, the other one's key."""
    helper = await stage.agent(**(child or {}))
    parent = await stage.agent(**asks(helper, **configuration))
    return parent, await stage.session(parent), helper


def output(events: list[dict[str, Any]]) -> Any:
    """The output of the first call."""
    (told, *_) = [event for event in events if event["type"] == "tool_output"]
    return told["tool_output"]


async def asked(stage: Stage, session: str, arguments: dict[str, Any], answer: str = "42.") -> dict[str, Any]:
    """One turn in which the parent asks once; the output of its call."""
    stage.upstream.add(call("helper", arguments))
    stage.upstream.add(say(answer))
    stage.upstream.add(say("Done."))
    answered = await stage.post(session)
    assert (answered["stop_reason"], answered["error"]) == ("end_turn", None)
    return dict(output(answered["events"]))


async def children(stage: Stage, agent: str) -> list[dict[str, Any]]:
    """The sessions of an agent, oldest first."""
    listed: list[dict[str, Any]] = (await stage.get(f"/v2/agents/{agent}/sessions", limit=100))["sessions"]
    return listed[::-1]


async def child_of(stage: Stage, agent: str) -> str:
    """The path of the only session of an agent, once it is there."""

    async def probe() -> Any:
        return await children(stage, agent)

    (found,) = await eventually(probe)
    return f"/v2/agents/{agent}/sessions/{found['key']}"


async def test_an_agent_asks_another_one(stage: Stage, upstream: Upstream) -> None:
    parent, session, helper = await pair(stage, session_metadata={"case": 7})
    shown = await stage.client.get(f"/v2/agents/{parent}")
    assert "x-sessile-inactive" not in shown.headers
    upstream.add(call("helper", {"message": "What is six times seven?", "session_tti_minutes": 5}))
    upstream.add(say("It is 42."))
    upstream.add(say("They say 42."))
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    child = await child_of(stage, helper)
    created = await stage.get(child)
    assert created["created_by_agent_key"] == parent
    assert f"/v2/agents/{parent}/sessions/{created['created_by_session_key']}" == session
    assert (created["metadata"], created["tti_minutes"], created["stop_reason"]) == ({"case": 7}, 5, "end_turn")
    assert "created_by_agent_key" not in await stage.get(session)
    events = await stage.log(session)
    assert types(events) == ["input_message", "tool_input", "tool_output", "agent_output"]
    assert output(events) == {"agent_key": helper, "session_key": created["key"], "sub_agent_response": "It is 42."}
    told = await stage.log(child)
    assert types(told) == ["input_message", "agent_output"]
    assert told[0]["content"] == "What is six times seven?"
    relayed = [data for name, data in frames if name == "tool_activity"]
    assert [data["agent_event"] for data in relayed] == told
    assert {(data["activity_type"], data["tool_configuration_name"]) for data in relayed} == {("sub_agent", "helper")}
    (offered,) = upstream.requests[0].body["tools"]
    assert offered["function"]["parameters"]["required"] == ["message"]
    assert helper in offered["function"]["description"]
    for listed in (await children(stage, helper), (await stage.get("/v2/sessions", agent_key=helper))["sessions"]):
        assert listed == [created]
    for path in (session, child):
        assert (await stage.get(f"{path}/check"))["ok"] is True


async def test_what_followers_of_the_caller_see_is_bounded(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage)
    upstream.add(call("helper", {"message": "Tell all."}))
    upstream.add(say("x" * 70_000))
    upstream.add(say("That was long."))
    async with stage.stream(session) as stream:
        frames = await stream.rest()
    shown = [data["agent_event"]["type"] for name, data in frames if name == "tool_activity"]
    assert shown == ["input_message"], "an event as large as that is read in its own session"
    assert len(output(await stage.log(session))["sub_agent_response"]) == 70_000
    assert types(await stage.log(await child_of(stage, helper))) == ["input_message", "agent_output"]


async def test_the_python_client(stage: Stage, upstream: Upstream) -> None:
    parent, session, helper = await pair(stage)
    key = session.rsplit("/", 1)[1]
    upstream.add(call("helper", {"message": "Hello?"}))
    upstream.add(say("42."))
    upstream.add(say("They say 42."))
    async with sessile.AsyncClient(stage.server.url, stage.server.key) as client:
        async with client.events.stream(parent, key, "Go.") as stream:
            frames = [frame async for frame in stream]
        told = [frame.agent_event for frame in frames if isinstance(frame, ToolActivity)]
        assert [type(event) for event in told] == [InputMessageEvent, AgentOutputEvent]
        (child,) = [shown async for shown in client.sessions.list(helper)]
        assert (child.created_by_agent_key, child.created_by_session_key) == (parent, key)
        assert [event.id async for event in client.events.list(helper, child.key)] == [event.id for event in told]


async def test_a_structured_answer_and_fixed_arguments(stage: Stage, upstream: Upstream) -> None:
    parser = {"type": "structured", "json_schema": {"name": "sum", "schema": SCHEMA}}
    helper = await stage.agent(first_step={"name": "only", "output_parser": parser})
    configuration = asks(helper)
    configuration["tool_configurations"]["helper"]["argument_override"] = {"message": "Add up."}
    session = await stage.conversation(**configuration)
    answer = await asked(stage, session, {}, '{"sum": 3}')
    assert answer["sub_agent_response"] == {"sum": 3}
    assert "message" not in upstream.requests[0].body["tools"][0]["function"]["parameters"]["properties"]
    assert (await stage.log(await child_of(stage, helper)))[0]["content"] == "Add up."


@pytest.mark.parametrize(
    ("mode", "of_one_session", "of_two_sessions"),
    [("ephemeral", 2, 3), ("persistent", 1, 2), ("session_scoped", 1, 2), ("agent_scoped", 1, 1)],
)
async def test_where_it_answers(stage: Stage, mode: str, of_one_session: int, of_two_sessions: int) -> None:
    parent, session, helper = await pair(stage, session_mode=mode)
    for _ in range(2):
        await asked(stage, session, {"message": "Hello?"})
    assert len(await children(stage, helper)) == of_one_session
    await asked(stage, await stage.session(parent), {"message": "Hello?"})
    assert len(await children(stage, helper)) == of_two_sessions


async def test_the_model_chooses_the_session(stage: Stage) -> None:
    parent, session, helper = await pair(stage, session_mode="llm_controlled")
    first = await asked(stage, session, {"message": "Hello?"})
    again = await asked(stage, session, {"message": "And?", "session_key": first["session_key"]})
    assert again["session_key"] == first["session_key"]
    assert len(await stage.log(await child_of(stage, helper))) == 4
    await asked(stage, session, {"message": "Anew?"})
    assert len(await children(stage, helper)) == 2
    private = (await stage.session(helper, key="private")).rsplit("/", 1)[1]
    elsewhere = await stage.session(parent)
    for place, key in ((session, private), (session, "missing"), (elsewhere, first["session_key"])):
        stage.upstream.reset()
        stage.upstream.add(call("helper", {"message": "Hello?", "session_key": key}))
        stage.upstream.add(say("No."))
        refusal = output((await stage.post(place))["events"])
        assert refusal["code"] == "sub_agent_refused", key
    assert await stage.log(f"/v2/agents/{helper}/sessions/{private}") == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "tool_arguments_invalid"),
        ({"message": 3}, "tool_arguments_invalid"),
        ({"message": "a", "session_key": "b"}, "tool_arguments_invalid"),
        ({"message": "a", "session_tti_minutes": 0}, "tool_arguments_invalid"),
        ({"message": "a"}, "sub_agent_refused"),
    ],
)
async def test_what_is_refused(stage: Stage, upstream: Upstream, arguments: dict[str, Any], code: str) -> None:
    session = await stage.conversation(**asks("nobody"))
    upstream.add(call("helper", arguments))
    upstream.add(say("A pity."))
    answered = await stage.post(session)
    assert (answered["stop_reason"], output(answered["events"])["code"]) == ("end_turn", code)


async def test_an_agent_that_is_not_enabled(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage, {"enabled": False})
    upstream.add(call("helper", {"message": "Hello?"}))
    upstream.add(say("A pity."))
    assert output((await stage.post(session))["events"])["code"] == "sub_agent_refused"
    assert await children(stage, helper) == [], "what was refused leaves no session"


async def test_a_turn_that_fails(stage: Stage, upstream: Upstream) -> None:
    _, session, _helper = await pair(stage)
    upstream.add(call("helper", {"message": "Hello?"}))
    upstream.add(status(400, {"error": {"message": "No."}}))
    upstream.add(say("A pity."))
    answered = await stage.post(session)
    told = output(answered["events"])
    assert (answered["stop_reason"], told["code"]) == ("end_turn", "sub_agent_failed")
    assert "model_rejected" in told["error"]


async def test_depth(stage: Stage, upstream: Upstream) -> None:
    """An agent that asks itself."""
    key = "agt_loop"
    await stage.client.post("/v2/agents", json={"key": key, "name": "L", "model": {"name": "scripted"}, **asks(key)})
    session = await stage.session(key)
    for _ in range(6):
        upstream.add(call("helper", {"message": "Deeper."}))
    for number in range(6):
        upstream.add(say(f"{number}"))
    answered = await stage.post(session)
    assert output(answered["events"])["sub_agent_response"] == "4"
    sessions = await children(stage, key)
    assert len(sessions) == 6, "the first and five below it"
    deepest = await stage.log(f"/v2/agents/{key}/sessions/{sessions[-1]['key']}")
    assert output(deepest)["code"] == "sub_agent_too_deep"


async def test_an_agent_that_asks_itself_where_it_works(stage: Stage, upstream: Upstream) -> None:
    """One session for all calls of an agent: the second call comes from the turn that runs there."""
    key = "agt_narrow"
    tools = asks(key, session_mode="agent_scoped")
    await stage.client.post("/v2/agents", json={"key": key, "name": "N", "model": {"name": "scripted"}, **tools})
    session = await stage.session(key)
    upstream.add(call("helper", {"message": "Deeper."}))
    upstream.add(call("helper", {"message": "Deeper."}))
    upstream.add(say("I am busy."))
    upstream.add(say("It is busy."))
    answered = await stage.post(session)
    assert output(answered["events"])["sub_agent_response"] == "I am busy."
    below = (await children(stage, key))[-1]
    assert output(await stage.log(f"/v2/agents/{key}/sessions/{below['key']}"))["code"] == "sub_agent_refused"


async def test_an_interrupt_reaches_it(stage: Stage, upstream: Upstream) -> None:
    key = "agt_loop"
    await stage.client.post("/v2/agents", json={"key": key, "name": "L", "model": {"name": "scripted"}, **asks(key)})
    session = await stage.session(key)
    upstream.add(call("helper", {"message": "Deeper."}))
    upstream.add(call("helper", {"message": "Deeper."}))
    upstream.add(say("I think"), hang())
    turn = asyncio.create_task(stage.post(session))
    deepest = await upstream.arrived(3)
    answer = await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    assert answer.status_code == 201
    assert (await turn)["stop_reason"] == "interrupted"
    await deepest.gone()
    for found in await children(stage, key):
        path = f"/v2/agents/{key}/sessions/{found['key']}"
        assert (await stage.stopped(path))["stop_reason"] == "interrupted"
        assert (await stage.get(f"{path}/check"))["ok"] is True


async def test_an_interrupt_of_the_sub_agent_alone(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage)
    upstream.add(call("helper", {"message": "Hello?"}))
    upstream.add(hang())
    upstream.add(say("It was stopped."))
    turn = asyncio.create_task(stage.post(session))
    await upstream.arrived(2)
    await stage.client.post(f"{await child_of(stage, helper)}/events", json={"type": "interrupt"})
    answered = await turn
    assert (answered["stop_reason"], output(answered["events"])["code"]) == ("end_turn", "sub_agent_failed")


async def test_deleting(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage)
    upstream.add(call("helper", {"message": "Hello?"}))
    upstream.add(hang())
    upstream.add(say("It was deleted."))
    turn = asyncio.create_task(stage.post(session))
    await upstream.arrived(2)
    assert (await stage.client.delete(await child_of(stage, helper))).status_code == 204
    assert output((await turn)["events"])["code"] == "sub_agent_failed"
    upstream.reset()
    await asked(stage, session, {"message": "Hello?"})
    child = await child_of(stage, helper)
    assert (await stage.client.delete(session)).status_code == 204
    assert types(await stage.log(child)) == ["input_message", "agent_output"], "what an agent has done stays"


async def test_deleting_the_caller_leaves_the_turn_below(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage)
    go_on = asyncio.Event()
    upstream.add(call("helper", {"message": "Hello?"}))
    upstream.add(say("4"), wait_for(go_on), say("2."))
    turn = asyncio.create_task(stage.post(session))
    await upstream.arrived(2)
    child = await child_of(stage, helper)
    assert (await stage.client.delete(session)).status_code == 204
    assert (await turn)["stop_reason"] is None
    go_on.set()
    assert (await stage.stopped(child))["stop_reason"] == "end_turn"
    assert (await stage.log(child))[-1]["content"] == "42."


async def test_a_client_tool_of_the_sub_agent(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage, {"tool_configurations": CLIENT_TOOL})
    upstream.add(call("helper", {"message": "May I?"}))
    upstream.add(call("approve", {}))
    async with stage.stream(session) as stream:
        while (await stream.until("tool_activity"))["agent_event"]["type"] != "client_tool_pending":
            pass
        child = await child_of(stage, helper)
        (pending,) = (await stage.get(f"{child}/outstanding_client_tool_calls"))["client_tool_calls"]
        upstream.add(say("You may."))
        upstream.add(say("I may."))
        approved = {"type": "success", "event_id": pending["event_id"], "output": {"yes": True}}
        body = {"type": "tool_output", "tool_outputs": [approved]}
        assert (await stage.client.post(f"{child}/events", json=body)).status_code == 201
        await stream.rest()
    assert output(await stage.log(session))["sub_agent_response"] == "You may."


async def test_an_interrupt_while_the_sub_agent_waits_for_a_client(stage: Stage, upstream: Upstream) -> None:
    _, session, helper = await pair(stage, {"tool_configurations": CLIENT_TOOL})
    upstream.add(call("helper", {"message": "May I?"}))
    upstream.add(call("approve", {}))
    turn = asyncio.create_task(stage.post(session))
    child = await child_of(stage, helper)
    assert (await stage.stopped(child))["stop_reason"] == "requires_action"
    await stage.client.post(f"{session}/events", json={"type": "interrupt"})
    assert (await turn)["stop_reason"] == "interrupted"

    async def probe() -> bool:
        return bool((await stage.get(child))["stop_reason"] == "interrupted")

    await eventually(probe)


async def test_two_calls_at_once(stage: Stage, upstream: Upstream) -> None:
    """In sessions of their own both are answered; in one that they share the second is refused."""
    for mode, answers, refused in (("ephemeral", 2, 0), ("persistent", 1, 1)):
        upstream.reset()
        _, session, _helper = await pair(stage, session_mode=mode)
        upstream.add(call("helper", {"message": "a"}), call("helper", {"message": "b"}))
        for _ in range(answers + 1):
            upstream.add(say("Done."))
        events = (await stage.post(session))["events"]
        outputs = [event["tool_output"] for event in events if event["type"] == "tool_output"]
        assert [told["sub_agent_response"] for told in outputs if "code" not in told] == ["Done."] * answers
        assert [told["code"] for told in outputs if "code" in told] == ["sub_agent_refused"] * refused


@pytest.mark.parametrize("kill", [True, False])
async def test_a_restart_in_the_middle(tmp_path: Path, upstream: Upstream, kill: bool) -> None:
    server = ServerProcess(tmp_path, model_config(upstream))
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            stage = Stage(server, upstream, client)
            _, session, helper = await pair(stage)
            upstream.add(call("helper", {"message": "Hello?"}))
            upstream.add(hang())
            turn = asyncio.create_task(client.post(f"{session}/events", json={"content": "Go"}))
            await upstream.arrived(2)
            await (asyncio.to_thread(server.kill) if kill else asyncio.to_thread(server.terminate))
            await asyncio.gather(turn, return_exceptions=True)
    upstream.add(say("42."))
    upstream.add(say("They say 42."))
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            stage = Stage(server, upstream, client)
            assert (await stage.stopped(session))["stop_reason"] == "end_turn"
            child = await child_of(stage, helper)
            assert types(await stage.log(child)) == ["input_message", "agent_output"], "it was asked once"
            assert output(await stage.log(session))["sub_agent_response"] == "42."
            for path in (session, child):
                assert (await stage.get(f"{path}/check"))["ok"] is True
            assert stage.defects() == []
