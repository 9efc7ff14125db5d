"""What creates something is sent again by the client when its answer is lost, and still happens once; streams go on."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import sessile
from acceptance.stage import WAIT_SECONDS, Stage, eventually, lambdas, model_config
from acceptance.test_client_faults import Wire, a_session, cuts, log_of
from sessile.client import AsyncClient, Client, event_type
from sessile.testing.script import call, say, think, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.events import StreamingAgentOutput
from sessile.wire.inputs import Behavior

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

FRAMES = 12
"""More frames than the stream has that is cut after each."""


@pytest.fixture(scope="module")
def settings() -> str:
    return "heartbeat_seconds = 0.05"


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"rejoin_tools": 'def add(a: int, b: int) -> int:\n    """Add."""\n    return a + b\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.add]\nfunction = "rejoin_tools:add"\n'


@pytest_asyncio.fixture(loop_scope="module")
async def direct(stage: Stage) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        yield client


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("warm", [False, True], ids=["on a new connection", "on a kept connection"])
async def test_an_input_whose_answer_is_lost_is_sent_again_and_taken_once(
    stage: Stage, upstream: Upstream, direct: AsyncClient, streamed: bool, warm: bool
) -> None:
    agent = await a_session(direct)
    upstream.add(say("Done."))
    async with Wire(stage.server.url, cuts(b"POST ", times=2)) as wire:
        async with AsyncClient(wire.url, stage.server.key) as client:
            if warm:
                assert await client.health()
            if streamed:
                async with client.events.stream(agent, "first", "Do it") as turn:
                    assert "".join([text async for text in turn.text()]) == "Done."
            else:
                assert (await client.events.send(agent, "first", "Do it")).text == "Done."
        assert wire.requests("POST") == 3
    assert await log_of(direct, agent) == ["input_message", "agent_output"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_an_input_whose_every_answer_is_lost_is_told_and_was_taken_once(
    stage: Stage, upstream: Upstream, direct: AsyncClient, streamed: bool
) -> None:
    agent = await a_session(direct)
    upstream.add(say("Done."))
    async with Wire(stage.server.url, cuts(b"POST ", times=9)) as wire:
        async with AsyncClient(wire.url, stage.server.key) as client:
            with pytest.raises(sessile.ConnectionLost) as lost:
                await (
                    client.events.stream(agent, "first", "Do it").__aenter__()
                    if streamed
                    else client.events.send(agent, "first", "Do it", idempotency_key="mine")
                )
            assert (lost.value.request_id or "").startswith("req_")
        assert wire.requests("POST") == 3
    session = await stage.stopped(f"/v2/agents/{agent}/sessions/first")
    assert session["stop_reason"] == "end_turn"
    assert await log_of(direct, agent) == ["input_message", "agent_output"]
    if not streamed:
        assert (await direct.events.send(agent, "first", "Do it", idempotency_key="mine")).text == "Done."
        with pytest.raises(sessile.IdempotencyKeyReused):
            await direct.events.send(agent, "first", "Do that", idempotency_key="mine")
        assert await log_of(direct, agent) == ["input_message", "agent_output"]


async def test_creates_whose_answers_are_lost_create_once(stage: Stage, direct: AsyncClient) -> None:
    async with Wire(stage.server.url, cuts(b"POST ", times=2)) as wire:
        async with AsyncClient(wire.url, stage.server.key) as client:
            agent = await client.agents.create(name="Once", model="demo")
        assert wire.requests("POST") == 3
    async with Wire(stage.server.url, cuts(b"POST ", times=2)) as wire:
        async with AsyncClient(wire.url, stage.server.key) as client:
            session = await client.sessions.create(agent.key, key="mine")
        assert wire.requests("POST") == 3
    assert (session.key, session.etag) == ("mine", '"1"')
    assert [one.key async for one in direct.sessions.list(agent.key)] == ["mine"]
    assert [one.key async for one in direct.agents.list() if one.name == "Once"] == [agent.key]


class CutAfter:
    """A hook that cuts the connection after so many frames of streamed answers, once."""

    def __init__(self, frames: int) -> None:
        self.left = frames
        self.cut = False

    def __call__(self, sent: bytes, data: bytes) -> bool:
        self.left -= data.count(b"\n\n")
        if self.left < 0 and not self.cut:
            self.cut = True
            return False
        return True


@pytest.mark.parametrize("frames", range(0, FRAMES))
async def test_wherever_a_stream_is_cut_it_shows_everything_once(
    stage: Stage, upstream: Upstream, direct: AsyncClient, frames: int
) -> None:
    agent = (await direct.agents.create(name="Helper", model="scripted", tool_configurations=lambdas("add"))).key
    await direct.sessions.create(agent, key="first")
    upstream.add(think("Sum."), say("Let me see."), call("add", {"a": 1, "b": 2}))
    upstream.add(say("It is three."))
    async with (
        Wire(stage.server.url, CutAfter(frames)) as wire,
        AsyncClient(wire.url, stage.server.key) as client,
        client.events.stream(agent, "first", "Count") as turn,
    ):
        shown = [frame async for frame in turn]
    kinds = [event_type(frame) for frame in shown]
    deltas = [frame for frame in shown if isinstance(frame, StreamingAgentOutput)]
    assert "".join(frame.content for frame in deltas) == "Let me see.It is three."
    for output_id in {frame.output_id for frame in deltas}:
        ours = [frame for frame in deltas if frame.output_id == output_id]
        assert [frame.offset for frame in ours] == [sum(len(f.content) for f in ours[:n]) for n in range(len(ours))]
    for once in ("input_message", "thinking", "tool_input", "tool_output", "end"):
        assert kinds.count(once) == 1, kinds
    assert kinds.count("streaming_agent_output_end") == 2
    assert turn.stop_reason == "end_turn"
    assert (await log_of(direct, agent)).count("input_message") == 1
    assert len(upstream.requests) == 2


async def test_a_stream_that_is_cut_while_the_model_speaks_goes_on(
    stage: Stage, upstream: Upstream, direct: AsyncClient
) -> None:
    agent = await a_session(direct)
    steps = [asyncio.Event() for _ in range(2)]
    paused = [wait_for(step) for step in steps]
    upstream.add(say("One", whole=True), paused[0], say(" two", whole=True), paused[1], say(" three.", whole=True))
    cutting = False
    async with (
        Wire(stage.server.url, lambda sent, data: not cutting) as wire,
        AsyncClient(wire.url, stage.server.key, retries=5) as client,
    ):
        texts = []
        async with client.events.stream(agent, "first", "Count") as turn:
            async for text in turn.text():
                texts.append(text)
                if len(texts) == 1:
                    cutting = True  # the next thing that comes, be it a heartbeat, cuts
                    await eventually(lambda: asyncio.sleep(0, not wire._tasks))
                    steps[0].set()
                    cutting = False
                elif len(texts) == 2:
                    steps[1].set()
        assert texts == ["One", " two", " three."]
        assert wire.requests("POST") == 2
    assert await log_of(direct, agent) == ["input_message", "agent_output"]


async def test_after_a_crash_the_stream_goes_on_with_the_turn(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        with ServerProcess(tmp_path, model_config(upstream)) as server:
            async with Wire(server.url) as wire, AsyncClient(wire.url, server.key, retries=8) as client:
                agent = await a_session(client)
                hangs = asyncio.Event()
                upstream.add(say("One", whole=True), wait_for(hangs))
                async with client.events.stream(agent, "first", "Count") as turn:
                    assert await anext(turn.text()) == "One"
                    await asyncio.to_thread(server.kill)
                    upstream.add(say("Two", whole=True))
                    await asyncio.to_thread(server.start)
                    host, _, port = server.url.removeprefix("http://").rpartition(":")
                    wire._server_at = (host, int(port))
                    frames = [frame async for frame in turn]
                kinds = [event_type(frame) for frame in frames]
                assert [kind for kind in kinds if kind.startswith("streaming")] == [
                    "streaming_agent_output",
                    "streaming_agent_output_end",
                ]
                assert "input_message" not in kinds
                assert [frame.content for frame in frames if isinstance(frame, StreamingAgentOutput)] == ["Two"]
                assert (kinds[-1], turn.stop_reason) == ("end", "end_turn")
                assert await log_of(client, agent) == ["input_message", "agent_output"]


@pytest.mark.parametrize("behavior", ["follow_up", "steer"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_an_input_that_waits_when_the_server_stops_is_waited_for(
    tmp_path: Path, behavior: Behavior, streamed: bool
) -> None:
    async with Upstream() as upstream:
        with ServerProcess(tmp_path, f"drain_seconds = 0.1\n{model_config(upstream)}") as server:
            async with Wire(server.url) as wire, AsyncClient(wire.url, server.key, retries=20) as client:
                agent = await a_session(client)
                upstream.add(say("One", whole=True), wait_for(asyncio.Event()))
                first = asyncio.create_task(client.events.send(agent, "first", "Count"))
                await upstream.arrived(1)

                async def sent() -> tuple[str, str, str | None, str | None]:
                    if not streamed:
                        limit = WAIT_SECONDS if behavior == "steer" else None
                        answer = await client.events.send(agent, "first", "And on", timeout=limit, behavior=behavior)
                        return answer.text, answer.status, answer.stop_reason, answer.reason
                    async with client.events.stream(agent, "first", "And on", behavior=behavior) as turn:
                        text = "".join([text async for text in turn.text()])
                        return text, turn.status, turn.stop_reason, turn.reason

                second = asyncio.create_task(sent())
                await eventually(lambda: client.inputs.list(agent, "first"))
                await asyncio.to_thread(server.terminate)
                upstream.reset()
                upstream.add(say("One, two."))
                upstream.add(say("Three."))
                await asyncio.to_thread(server.start)
                host, _, port = server.url.removeprefix("http://").rpartition(":")
                wire._server_at = (host, int(port))
                text = "Three." if behavior == "follow_up" else "One, two."
                async with asyncio.timeout(WAIT_SECONDS):
                    assert await second == (text, "stopped", "end_turn", None)
                    assert (await first).stop_reason == "end_turn"
                assert await log_of(client, agent) == (
                    ["input_message", "agent_output"] * 2
                    if behavior == "follow_up"
                    else ["input_message", "input_message", "agent_output"]
                )


async def test_a_condition_that_fails(stage: Stage, upstream: Upstream, direct: AsyncClient) -> None:
    agent = await a_session(direct)
    upstream.add(say("One."))
    await direct.events.send(agent, "first", "Hello", if_match="start")
    with pytest.raises(sessile.PreconditionFailed):
        await direct.events.send(agent, "first", "Hello", if_match="start")
    last = (await direct.sessions.get(agent, "first")).last_event_id
    upstream.add(say("Two."))
    async with direct.events.stream(agent, "first", "Hello", if_match=last) as turn:
        assert "".join([text async for text in turn.text()]) == "Two."


async def test_the_plain_client_and_the_command_line_go_on_too(
    stage: Stage, upstream: Upstream, direct: AsyncClient
) -> None:
    def plainly(url: str) -> str:
        with Client(url, stage.server.key) as client, client.events.stream(agent, "first", "Count") as turn:
            return "".join(turn.text())

    async def by_command(url: str) -> str:
        command = ("-m", "sessile", "events", "send", agent, "first", "Count")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command),
            env={**os.environ, "SESSILE_URL": url, "SESSILE_API_KEY": stage.server.key},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
        assert process.returncode == 0
        return out.decode()

    agent = await a_session(direct)
    made: list[Callable[[str], Any]] = [lambda url: asyncio.to_thread(plainly, url), by_command]
    for number, make in enumerate(made, 1):
        upstream.add(say("One two three."))
        async with Wire(stage.server.url, cuts(b"POST ")) as wire:
            assert "One two three." in await make(wire.url)
            assert wire.requests("POST") == 2
        assert (await log_of(direct, agent)).count("input_message") == number
