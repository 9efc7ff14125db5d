"""Talking with an agent while connections break and servers go away: nothing is lost, nothing is shown twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import httpx
import pytest
import pytest_asyncio

from acceptance.cli_support import Terminal, environment, run, terminal
from acceptance.stage import WAIT_SECONDS, Stage, eventually, model_config
from sessile.testing.script import hang, say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


class Relay:
    """Passes connections on to a server, and breaks them when told to.

    `loses` is what becomes of the next input: `request`, it never reaches the server; `answer`, its answer is lost.
    """

    def __init__(self, target: str) -> None:
        self.url = ""
        self.requests: list[str] = []
        """The first line of every request."""
        self.loses: Literal["nothing", "request", "answer"] = "nothing"
        self._host, self._port = target.removeprefix("http://").split(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._serving)
            await server.wait_closed()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.get_running_loop().create_future()
        self._serving.append(ended)
        far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        both = {writer, far_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, far_writer))
                group.create_task(self._down(far_reader, writer))
        except* ConnectionError:
            pass
        finally:
            for each in both:
                each.transport.abort()
            self._writers -= both
            ended.set_result(None)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if data.startswith((b"GET ", b"POST ")):
                self.requests.append(data.partition(b"\r\n")[0].decode())
            if self.loses == "request" and data.startswith(b"POST "):
                self.loses = "nothing"
                raise ConnectionResetError
            writer.write(data)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.loses == "answer" and data.startswith(b"HTTP/1.1 201 "):
                self.loses = "nothing"
                raise ConnectionResetError
            writer.write(data)
        raise ConnectionResetError


@pytest_asyncio.fixture(loop_scope="module")
async def relay(stage: Stage) -> AsyncIterator[Relay]:
    async with Relay(stage.server.url).running() as relay:
        yield relay


async def leave(shown: Terminal) -> None:
    await shown.until("> ")
    shown.enter("/exit")
    assert await shown.ended() == 0


async def test_the_rest_of_a_turn_is_shown_after_its_stream_broke(
    stage: Stage, upstream: Upstream, relay: Relay
) -> None:
    session = await stage.conversation()
    agent, key = session.split("/")[3], session.split("/")[5]
    for _ in range(30):
        upstream.add(say("Before."))
        await stage.post(session, "Earlier.")
    released = asyncio.Event()
    async with terminal(environment(relay.url), "chat", agent, "--session", key) as shown:
        await shown.until("> ")
        upstream.add(say("Half an "), wait_for(released), say("answer."))
        shown.enter("Hello?")
        await shown.until("Half an ")
        relay.requests.clear()
        relay.cut()
        await shown.until("The connection to the server broke.")
        await shown.until("Waiting for a turn")
        released.set()
        await shown.until("answer.\n")
        assert len([line for line in relay.requests if "/events?" in line]) == 1, "it read more than what was new"
        upstream.add(say("Another one."))
        await shown.until("> ")
        shown.enter("And now?")
        await shown.until("Another one.\n")
        await leave(shown)
    assert [shown.screen.count(text) for text in ("Half an ", "answer.", "Another one.")] == [1, 1, 1]
    said = [event["content"] for event in await stage.log(session)][60:]
    assert said == ["Hello?", "Half an answer.", "And now?", "Another one."]


async def test_an_input_whose_answer_is_lost_is_found_in_the_log(
    stage: Stage, upstream: Upstream, relay: Relay
) -> None:
    session = await stage.conversation()
    agent, key = session.split("/")[3], session.split("/")[5]
    async with terminal(environment(relay.url), "chat", agent, "--session", key) as shown:
        await shown.until("> ")
        upstream.add(say("Here I am."))
        relay.loses = "answer"
        shown.enter("Hello?")
        await shown.until("The connection to the server broke.")
        await shown.until("Here I am.\n")
        await leave(shown)
    assert [event["content"] for event in await stage.log(session)] == ["Hello?", "Here I am."]


async def test_an_input_that_never_arrived_is_offered_again(stage: Stage, upstream: Upstream, relay: Relay) -> None:
    session = await stage.conversation()
    agent, key = session.split("/")[3], session.split("/")[5]
    async with terminal(environment(relay.url), "chat", agent, "--session", key) as shown:
        await shown.until("> ")
        upstream.add(say("Here I am."))
        relay.loses = "request"
        shown.enter("Hello?")
        await shown.until("The server never got the message.")
        await shown.until("> Hello?")
        shown.enter("")
        await shown.until("Here I am.\n")
        await leave(shown)
    assert [event["content"] for event in await stage.log(session)] == ["Hello?", "Here I am."]


class Restartable:
    """A server that can be killed, and started again at the same address."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self._folder, self._config = folder, model_config(upstream)
        self.server = ServerProcess(folder, self._config)
        self.server.start()
        self.url = self.server.url

    def start_again(self) -> None:
        """On the same port, with the same data."""
        port = self.url.rpartition(":")[2]
        self.server = ServerProcess(self._folder, self._config, arguments=["--port", port])
        self.server.start()
        assert self.server.url == self.url

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.server.headers, timeout=WAIT_SECONDS)


@pytest_asyncio.fixture(loop_scope="module")
async def fragile(tmp_path: Path) -> AsyncIterator[tuple[Restartable, Upstream]]:
    """A server of one's own, with an agent `frail`, and its model."""
    async with Upstream() as upstream:
        restartable = Restartable(tmp_path, upstream)
        try:
            async with restartable.client() as client:
                body = {"key": "frail", "name": "Frail", "model": {"name": "scripted"}}
                assert (await client.post("/v2/agents", json=body)).status_code == 201
                assert (await client.post("/v2/agents/frail/sessions", json={"key": "s"})).status_code == 201
            yield restartable, upstream
        finally:
            restartable.server.kill()


async def test_a_killed_server_is_waited_for_and_the_rest_shown(fragile: tuple[Restartable, Upstream]) -> None:
    server, upstream = fragile
    async with terminal(environment(server.url), "chat", "frail", "--session", "s") as shown:
        await shown.until("> ")
        upstream.add(say("Half an "), hang())
        shown.enter("Hello?")
        await shown.until("Half an ")
        server.server.kill()
        await shown.until("The connection to the server broke.")
        await shown.until("Waiting for the server")
        upstream.add(say("The whole answer."))
        server.start_again()
        await shown.until("The whole answer.")
        await shown.until("> ")
        upstream.add(say("All is well."))
        shown.enter("And now?")
        await shown.until("All is well.\n")
        await leave(shown)
    assert shown.screen.count("Half an ") == 1
    assert shown.screen.count("The whole answer.") == 1


async def test_an_input_for_a_server_that_is_away_is_not_lost(fragile: tuple[Restartable, Upstream]) -> None:
    server, upstream = fragile
    async with terminal(environment(server.url), "chat", "frail", "--session", "s") as shown:
        await shown.until("> ")
        server.server.kill()
        shown.enter("Hello?")
        await shown.until("answers at")
        await shown.until("> Hello?")
        server.start_again()
        upstream.add(say("Here I am."))
        shown.enter("")
        await shown.until("Here I am.\n")
        await leave(shown)
    async with server.client() as client:
        events = (await client.get("/v2/agents/frail/sessions/s/events?type=input_message")).json()["events"]
    assert [event["content"] for event in events] == ["Hello?"]


async def test_one_input_survives_a_restart_too(fragile: tuple[Restartable, Upstream]) -> None:
    server, upstream = fragile
    upstream.add(say("Half an "), hang())
    running = asyncio.ensure_future(run(environment(server.url), "chat", "frail", "--session", "s", "-m", "Hello?"))
    await upstream.arrived(1)
    async with server.client() as client:

        async def shows() -> bool:
            return (await client.get("/v2/agents/frail/sessions/s")).json()["status"] == "running"

        await eventually(shows)
    server.server.kill()
    upstream.add(say("The whole answer."))
    await asyncio.to_thread(server.start_again)
    done = await running
    assert done.code == 0
    assert done.stdout.endswith("The whole answer.\n")
