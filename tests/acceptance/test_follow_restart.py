"""Following a session while connections break and servers stop, crash and start again."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.following import Block, following, joined
from acceptance.stage import WAIT_SECONDS, Stage, eventually, lambdas, model_config
from sessile.client import AsyncClient, Client, event_type
from sessile.testing.faults import Cut
from sessile.testing.script import call, hang, say, think, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.errors import SessileError
from sessile.wire.events import (
    AgentOutputEvent,
    StreamEnd,
    StreamingAgentOutput,
    StreamingAgentOutputEnd,
    TurnEndedRecord,
)

pytestmark = pytest.mark.acceptance

STOP_SECONDS = 5.0
TOOL = 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> ServerProcess:
    """A server that is not started yet, and always comes back on the same port."""
    (tmp_path / "tools.py").write_text(TOOL)
    config = model_config(upstream) + '[tools.ping]\nfunction = "tools:ping"\n'
    return ServerProcess(
        tmp_path,
        "heartbeat_seconds = 0.2\ndrain_seconds = 0.2\nshutdown_seconds = 1\n" + config,
        arguments=("--port", str(free_port())),
    )


@asynccontextmanager
async def started(server: ServerProcess, upstream: Upstream) -> AsyncIterator[Stage]:
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            yield Stage(server, upstream, client)


async def stop(server: ServerProcess) -> None:
    began = time.monotonic()
    assert await asyncio.to_thread(server.terminate) == 0
    assert time.monotonic() - began < STOP_SECONDS


async def test_a_drain_ends_every_stream_after_the_last_event(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        session, idle = await stage.conversation(), await stage.conversation()
        upstream.add(say("One "), hang())
        async with (
            stage.stream(session) as turn,
            following(stage.client, session) as busy,
            following(stage.client, idle) as quiet,
        ):
            await turn.until("streaming_agent_output")
            await busy.until("streaming_agent_output")
            await quiet.until("session_state")
            stopping = asyncio.create_task(stop(server))
            for stream in (busy, quiet):
                last = (await stream.rest())[-1]
                assert last == Block(type="end", data={"type": "end", "reason": "drain"})
            await turn.rest()
            await stopping
        assert [event["type"] for event in busy.durable] == ["input_message", "turn_started"]
        assert joined(busy.deltas()) == "One "


async def test_a_drain_does_not_wait_for_a_reader_that_does_not_read(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation()
        for _ in range(8):
            upstream.add(say("x" * 500_000, whole=True))
            await stage.post(session)
        url = httpx.URL(server.url)
        head = f"GET {session}/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n"
        with socket.create_connection((url.host, url.port or 80)) as connection:
            connection.sendall(f"{head}x-api-key: {server.key}\r\n\r\n".encode())
            async with following(stage.client, session) as reads:
                await reads.until("turn_ended", 8)
                await stop(server)
                assert (await reads.rest())[-1].data["reason"] == "drain"


class Shown:
    """What a follower of the client gave, put together as its reader would."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.text: dict[str, str] = {}
        self.lost: list[SessileError] = []
        self.found = asyncio.Event()

    def take(self, item: Any) -> None:
        self.items.append(item)
        match item:
            case StreamingAgentOutput():
                before = self.text.setdefault(item.output_id, "")
                assert item.offset == len(before)
                self.text[item.output_id] = before + item.content
            case StreamingAgentOutputEnd() if not item.event_id:
                del self.text[item.output_id]

    @property
    def durable(self) -> list[int]:
        return [item.sequence for item in self.items if getattr(item, "sequence", 0)]

    def check(self, log: list[Any]) -> None:
        """Every event of the log once, in order; every output that was shown is its durable text."""
        assert [item.id for item in self.items if getattr(item, "sequence", 0)] == [event["id"] for event in log]
        outputs = {item.output_id: item.content for item in self.items if isinstance(item, AgentOutputEvent)}
        assert {id: outputs[id] for id in self.text} == self.text


async def follow(client: AsyncClient, agent: str, session: str, shown: Shown, turns: int) -> None:
    """Follow until so many turns have ended."""
    follower = client.events.follow(agent, session, on_lost=shown.lost.append, on_found=shown.found.set)
    async with asyncio.timeout(WAIT_SECONDS), follower:
        async for item in follower:
            shown.take(item)
            turns -= isinstance(item, TurnEndedRecord)
            if not turns:
                return


async def has_stopped(stage: Stage, path: str) -> bool:
    """Whether no turn of the session runs."""
    return bool((await stage.client.get(path)).json()["status"] == "stopped")


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_a_follower_of_the_client_goes_on_over_a_restart(
    server: ServerProcess, upstream: Upstream, how: str
) -> None:
    async with started(server, upstream) as stage, AsyncClient(server.url, server.key) as client:
        path = await stage.conversation()
        agent, session = path.split("/")[3], path.split("/")[5]
        shown = Shown()
        task = asyncio.create_task(follow(client, agent, session, shown, 2))
        upstream.add(say("Lost or kept "), hang())
        async with stage.stream(path) as turn:
            while not shown.text:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(turn.next(), 0.05)
            await asyncio.to_thread(getattr(server, how))
            with contextlib.suppress(httpx.HTTPError):
                await turn.rest()
        upstream.reset()
        upstream.add(say("In full."))
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(shown.found.wait(), WAIT_SECONDS)
        await eventually(lambda: has_stopped(stage, path))
        upstream.reset()
        upstream.add(say("And again."))
        await stage.post(path)
        await task
        shown.check(await stage.log(path, records="true"))
        assert len(shown.lost) == 1
        assert [item.error for item in shown.items if isinstance(item, TurnEndedRecord)] == [None, None]
        voids = [item for item in shown.items if isinstance(item, StreamingAgentOutputEnd) and not item.event_id]
        assert len(voids) == 1


async def seen(task: asyncio.Task[None], shown: Shown, words: str) -> bool:
    return task.done() or words in "".join(shown.text.values())


async def test_a_follower_that_is_cut_everywhere_gives_everything_once(
    server: ServerProcess, upstream: Upstream
) -> None:
    """The first connections end after some bytes of their answers, wherever that is; the turn runs on meanwhile."""
    async with started(server, upstream) as stage:
        cut, lost = Cut(server.url), 0
        for after in range(400, 4000, 97):
            path = await stage.conversation(tool_configurations=lambdas("ping"))
            agent, session = path.split("/")[3], path.split("/")[5]
            gates = [asyncio.Event() for _ in range(3)]
            script: list[Any] = [think("I should look.")]
            for number, gate in enumerate(gates):
                script += [say(f"This is part {number} of it. "), wait_for(gate)]
            upstream.reset()
            upstream.add(*script, call("ping")).add(say("That was all."))
            cut.after_bytes = [after, after // 2, after]
            async with cut.listening() as url, AsyncClient(url, server.key) as client:
                client._caller._sleep = lambda seconds: asyncio.sleep(0)
                shown = Shown()
                posting = asyncio.create_task(stage.post(path))
                task = asyncio.create_task(follow(client, agent, session, shown, 1))
                for number, gate in enumerate(gates):
                    await eventually(partial(seen, task, shown, f"part {number}"))
                    gate.set()
                await task
                await posting
            shown.check(await stage.log(path, records="true"))
            lost += len(shown.lost)
        assert lost > 40


async def test_the_plain_client_follows_too(server: ServerProcess, upstream: Upstream) -> None:
    def plainly(agent: str, session: str) -> list[str]:
        with Client(server.url, server.key) as client:
            client.events.send(agent, session, "Hello.")
            with client.events.follow(agent, session) as follower:
                kinds = []
                for item in follower:
                    kinds.append(event_type(item))
                    if isinstance(item, TurnEndedRecord):
                        client.sessions.delete(agent, session)
                assert isinstance(item, StreamEnd)
                assert follower.reason == "deleted"
                return kinds

    async with started(server, upstream) as stage:
        path = await stage.conversation()
        upstream.add(say("Hi."))
        kinds = await asyncio.to_thread(plainly, path.split("/")[3], path.split("/")[5])
    assert kinds == ["session_state", "input_message", "turn_started", "agent_output", "turn_ended", "end"]
