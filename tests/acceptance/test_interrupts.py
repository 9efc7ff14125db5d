"""Interrupts over a real server: what the interrupted caller sees, what the interrupting one is told, what stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.databases import database as database
from acceptance.following import following
from acceptance.stage import (
    WAIT_SECONDS,
    EventStream,
    Stage,
    eventually,
    frame_types,
    lambdas,
    model_config,
    refused,
    text_of,
    types,
)
from sessile.cli import admin
from sessile.config import Config
from sessile.testing.script import call, hang, say, think
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = pytest.mark.acceptance

STOP = {"type": "interrupt"}
TOOLS = '''
import asyncio
import time
from pathlib import Path


def sleeps() -> str:
    """Blocks its thread."""
    Path("started").touch()
    time.sleep(60)
    return "awake"


async def waits() -> str:
    """Waits, and lets itself be cancelled."""
    Path("started").touch()
    await asyncio.Event().wait()
    return "over"


async def stays() -> str:
    """Does not let itself be cancelled."""
    Path("started").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
'''
NAMES = ("sleeps", "waits", "stays")
TOOL_TABLES = "\n".join(f'[tools.{n}]\nfunction = "stop_tools:{n}"\ntimeout_seconds = 50' for n in NAMES)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> ServerProcess:
    """A server that is not started yet."""
    (tmp_path / "stop_tools.py").write_text(TOOLS)
    return ServerProcess(tmp_path, model_config(upstream) + TOOL_TABLES)


@asynccontextmanager
async def started(server: ServerProcess, upstream: Upstream) -> AsyncIterator[Stage]:
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            yield Stage(server, upstream, client)


@pytest.fixture
async def stage(server: ServerProcess, upstream: Upstream) -> AsyncIterator[Stage]:
    async with started(server, upstream) as stage:
        yield stage
        assert stage.defects() == []


async def interrupt(stage: Stage, session: str, **headers: str) -> Any:
    answer = await stage.client.post(f"{session}/events", json=STOP, headers=headers)
    assert answer.status_code == 201, answer.text
    assert "x-event-id" not in answer.headers
    assert answer.headers.get("x-turn-id") == answer.json()["turn_id"]
    return answer.json()


async def tool_started(stage: Stage) -> None:
    async def probe() -> bool:
        return (stage.server.folder / "started").exists()

    await eventually(probe)


async def goes_on(stage: Stage, session: str) -> list[str]:
    """Check that the session takes the next input at once; returns the roles that the model is given."""
    stage.upstream.reset()
    stage.upstream.add(say("I am back."))
    body = await stage.post(session, "Are you there?")
    assert (body["stop_reason"], body["events"][-1]["content"]) == ("end_turn", "I am back.")
    return [message["role"] for message in stage.upstream.requests[0].messages]


async def one_end(stage: Stage, session: str, stop_reason: str = "interrupted") -> dict[str, Any]:
    """Check that the log has one end of its only turn; returns it."""
    log = await stage.log(session, records="true")
    (ended,) = [event for event in log if event["type"] == "turn_ended"]
    assert ended is log[-1]
    assert ended["stop_reason"] == stop_reason
    return ended


async def test_a_streamed_answer_stops_and_what_was_shown_is_kept(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(think("Hm. ", whole=True), say("Half an answer", whole=True), hang())
    async with stage.stream(session) as stream:
        await stream.until("streaming_agent_output")
        body = await interrupt(stage, session)
        assert await goes_on(stage, session) == ["user", "assistant", "user"]
        frames = await stream.rest()
    assert frame_types(frames)[-4:] == ["thinking", "streaming_agent_output_end", "session_interrupted", "end"]
    assert text_of(frames) == "Half an answer"
    assert frames[-1][1] == {"type": "end", "status": "stopped", "stop_reason": "interrupted"}
    assert types(body["events"]) == ["thinking", "agent_output", "session_interrupted"]
    output, mark = body["events"][1:]
    assert (output["content"], output["partial"]) == ("Half an answer", True)
    assert frames[-3][1]["event_id"] == output["id"]
    assert frames[-2][1] == mark
    assert (body["status"], body["stop_reason"], body["error"]) == ("stopped", "interrupted", None)
    assert (await stage.log(session))[1:4] == body["events"]
    turn = await stage.get(f"{session}/turns/{body['turn_id']}")
    assert (turn["status"], turn["stop_reason"], turn["error"]) == ("stopped", "interrupted", None)


async def test_the_model_call_is_cancelled(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(hang())
    posting = asyncio.create_task(stage.post(session))
    received = await upstream.arrived(1)
    await interrupt(stage, session)
    await received.gone()
    body = await posting
    assert types(body["events"]) == ["input_message", "session_interrupted"]
    assert (body["status"], body["stop_reason"], body["error"]) == ("stopped", "interrupted", None)
    shown = await stage.get(session)
    assert (shown["status"], shown["stop_reason"]) == ("stopped", "interrupted")
    assert shown["last_event_id"] == body["events"][-1]["id"]
    assert await goes_on(stage, session) == ["user", "assistant", "user"]


@pytest.mark.parametrize("tool", NAMES)
async def test_a_tool_is_stopped_or_left_to_itself(stage: Stage, upstream: Upstream, tool: str) -> None:
    session = await stage.conversation(tool_configurations=lambdas(tool))
    upstream.add(say("I try. "), call(tool, id="one"), call("nothing", id="two"))
    async with stage.stream(session) as stream:
        await stream.until("tool_input")
        await tool_started(stage)
        body = await interrupt(stage, session)
        frames = await stream.rest()
    assert types(body["events"]) == ["tool_output", "tool_output", "session_interrupted"]
    closed = body["events"][0]
    assert (closed["tool_call_id"], closed["error"], closed["tool_output"]["code"]) == ("one", True, "turn_interrupted")
    kept = body["events"][1]
    assert (kept["tool_call_id"], kept["error"], kept["tool_output"]["code"]) == ("two", True, "tool_unknown")
    assert [name for name, _ in frames[-4:]] == ["tool_output", "tool_output", "session_interrupted", "end"]
    await one_end(stage, session)
    assert await goes_on(stage, session) == ["user", "assistant", "tool", "tool", "assistant", "user"]


async def test_an_interrupt_may_be_answered_as_a_stream(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("Half an answer", whole=True), hang())
    async with stage.stream(session) as stream:
        await stream.until("streaming_agent_output")
        body = {**STOP, "stream_response": True}
        async with stage.client.stream("POST", f"{session}/events", json=body) as response:
            assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
            assert response.headers["x-turn-id"] == stream.response.headers["x-turn-id"]
            frames = await EventStream(response).rest()
        theirs = await stream.rest()
    names = ["streaming_agent_output", "streaming_agent_output_end", "session_interrupted", "end"]
    assert [name for name, _ in frames] == names
    assert text_of(frames) == "Half an answer"
    assert frames[1:] == theirs[-3:]
    async with stage.client.stream("POST", f"{session}/events", json=body) as response:
        assert "x-turn-id" not in response.headers
        assert await EventStream(response).rest() == [
            ("end", {"type": "end", "status": "stopped", "stop_reason": "interrupted"})
        ]


async def test_a_follower_sees_it_and_goes_on(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("Half an answer", whole=True), hang())
    async with following(stage.client, session, since="now") as stream:
        posting = asyncio.create_task(stage.post(session))
        await stream.until("streaming_agent_output")
        body = await interrupt(stage, session)
        assert await stream.until("session_interrupted") == body["events"][-1]
        assert (await stream.until("turn_ended"))["stop_reason"] == "interrupted"
        await goes_on(stage, session)
        assert (await stream.until("turn_ended"))["stop_reason"] == "end_turn"
        assert stream.durable == await stage.log(session, records="true")
    await posting


async def test_an_interrupt_on_a_log_that_holds_the_rules(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("waits"))
    upstream.add(say("I try. "), call("waits", id="one"), call("nothing", id="two"))
    posting = asyncio.create_task(stage.post(session))
    await tool_started(stage)
    await interrupt(stage, session)
    await goes_on(stage, session)
    await posting
    checked = await stage.get(f"{session}/check")
    assert (checked["ok"], checked["violations"]) == (True, [])


async def test_an_idle_session(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    key = session.rpartition("/")[2]
    idle = {"events": [], "session_key": key, "turn_id": None, "status": "stopped", "stop_reason": None, "error": None}
    assert await interrupt(stage, session) == idle
    assert (await stage.get(session))["status"] == "unstarted"
    upstream.add(say("Hi."))
    await stage.post(session)
    assert await interrupt(stage, session) == idle | {"stop_reason": "end_turn"}
    await one_end(stage, session, "end_turn")


async def test_many_interrupts_at_once_are_all_answered(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(say("Half", whole=True), hang())
    async with stage.stream(session) as stream:
        await stream.until("streaming_agent_output")
        bodies = await asyncio.gather(*(interrupt(stage, session) for _ in range(8)))
    for body in bodies:
        assert (body["status"], body["stop_reason"]) == ("stopped", "interrupted")
        assert types(body["events"]) in ([], ["agent_output", "session_interrupted"])
    assert any(body["events"] for body in bodies)
    await one_end(stage, session)


async def test_the_wait_can_be_bounded(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("stays"))
    upstream.add(call("stays"))
    posting = asyncio.create_task(stage.post(session))
    await tool_started(stage)
    body = await interrupt(stage, session, **{"request-timeout-millis": "1"})
    assert (body["status"], body["stop_reason"], body["events"]) == ("running", None, [])
    assert (await posting)["stop_reason"] == "interrupted"
    refused(
        await stage.client.post(f"{session}/events", json=STOP, headers={"request-timeout": "0"}),
        400,
        "invalid_parameter",
    )


async def test_disabled_sessions_and_agents_can_be_interrupted(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    upstream.add(hang())
    posting = asyncio.create_task(stage.post(session))
    await upstream.arrived(1)
    for path in (session, session.rpartition("/sessions/")[0]):
        assert (await stage.client.patch(path, json={"enabled": False})).status_code == 200
    assert (await interrupt(stage, session))["stop_reason"] == "interrupted"
    await posting


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "interrupt", "content": "Stop!"}, "content"),
        ({"type": "interrupt", "since": "start"}, "since"),
        ({"type": "interrupt", "stream_response": "yes"}, "stream_response"),
        ({"type": "interrupts"}, "type"),
        ({"type": ["interrupt"]}, "type"),
    ],
)
async def test_what_is_no_interrupt(stage: Stage, upstream: Upstream, body: dict[str, Any], field: str) -> None:
    session = await stage.conversation()
    upstream.add(hang())
    posting = asyncio.create_task(stage.post(session))
    await upstream.arrived(1)
    refused(await stage.client.post(f"{session}/events", json=body), 400, "invalid_request", field)
    assert (await stage.get(session))["status"] == "running"
    await interrupt(stage, session)
    await posting


async def test_who_may_interrupt(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation()
    agent = session.split("/")[3]
    config = Config(data=str(stage.server.data))
    roles = [f"{agent}=agent_user"]
    user = await asyncio.to_thread(admin.create_key, config, "default", "user", [], roles)
    viewer = await asyncio.to_thread(admin.create_key, config, "default", "viewer", ["viewer"], [])
    stranger = await asyncio.to_thread(admin.create_tenant, config, "other", "Other")
    upstream.add(hang())
    posting = asyncio.create_task(stage.post(session))
    await upstream.arrived(1)
    events = f"{session}/events"
    refused(await stage.client.post(events, json=STOP, headers={"x-api-key": viewer}), 403, "forbidden")
    refused(await stage.client.post(events, json=STOP, headers={"x-api-key": stranger}), 404, "not_found")
    refused(await stage.client.post(f"{session}x/events", json=STOP), 404, "not_found")
    assert (await stage.get(session))["status"] == "running"
    answer = await stage.client.post(events, json=STOP, headers={"x-api-key": user})
    assert answer.json()["stop_reason"] == "interrupted"
    await posting


async def test_a_crash_after_the_interrupt_was_recorded(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation(tool_configurations=lambdas("stays"))
        upstream.add(say("I try. "), call("stays", id="one"))
        posting = asyncio.create_task(stage.client.post(f"{session}/events", json={"content": "Hello."}))
        await tool_started(stage)
        body = await interrupt(stage, session, **{"request-timeout-millis": "1"})
        assert body["status"] == "running"
        await asyncio.to_thread(server.kill)
        with pytest.raises(httpx.RemoteProtocolError):
            await posting
    async with started(server, upstream) as stage:
        log = await stage.log(session)
        assert types(log) == ["input_message", "agent_output", "tool_input", "tool_output", "session_interrupted"]
        assert log[3]["tool_output"]["code"] == "turn_interrupted"
        ended = await one_end(stage, session)
        assert (ended["turn_id"], ended["error"]) == (body["turn_id"], None)
        assert len(upstream.requests) == 1
        assert await goes_on(stage, session) == ["user", "assistant", "tool", "assistant", "user"]
        assert stage.defects() == []
