"""The Python client when things go wrong: cut connections, and servers that are not there, stop or keep silent."""

import asyncio
import contextlib
import gc
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import web

import sessile
from acceptance.stage import WAIT_SECONDS, Stage, eventually, model_config
from sessile.client import AsyncClient, Client, call, event_type, http
from sessile.client.errors import ConnectionLost
from sessile.testing.script import say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.events import AgentOutputEvent, StreamingAgentOutput

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


class Wire:
    """A TCP proxy before the server. Each connection is told to a hook, which may end it or make it keep silent.

    `hook(sent, data)` sees what the server answers, with all that the client has sent on this connection, and says
    whether to go on; False cuts the connection in both directions, None swallows the data.
    """

    def __init__(self, url: str, hook: Callable[[bytes, bytes], bool | None] = lambda sent, data: True) -> None:
        parts = urlsplit(url)
        self.hook = hook
        self.sent: list[bytearray] = []
        """What came from the client, by connection."""
        self.left = asyncio.Event()
        """A client has closed a connection."""
        self._server_at = (parts.hostname, parts.port)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def requests(self, method: str) -> int:
        """How many requests of a method have come."""
        return sum(bytes(sent).count(f"{method} /".encode()) for sent in self.sent)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        sent = bytearray()
        self.sent.append(sent)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server_at)
            try:
                await self._between(reader, writer, server_reader, server_writer, sent)
            finally:
                server_writer.close()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _between(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        sent: bytearray,
    ) -> None:
        up = asyncio.ensure_future(self._up(reader, server_writer, sent))
        down = asyncio.ensure_future(self._down(server_reader, writer, sent))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytearray) -> None:
        with contextlib.suppress(ConnectionResetError):  # so ends a connection with something unread
            while data := await reader.read(65536):
                sent += data
                writer.write(data)
                await writer.drain()
        self.left.set()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytearray) -> None:
        while data := await reader.read(65536):
            goes_on = self.hook(bytes(sent), data)
            if goes_on is False:
                return
            if goes_on:
                writer.write(data)
                await writer.drain()


def cuts(marker: bytes, times: int = 1) -> Callable[[bytes, bytes], bool]:
    """A hook that lets no answer through while the marker was sent, the first few times."""
    left = [times]

    def hook(sent: bytes, data: bytes) -> bool:
        if marker in sent and left[0] > 0:
            left[0] -= 1
            return False
        return True

    return hook


async def a_session(client: AsyncClient) -> str:
    model: Any = {"name": "scripted", "retry_configuration": {"enabled": False}}
    agent = await client.agents.create(key=f"agt_{secrets.token_hex(6)}", name="Helper", model=model)
    await client.sessions.create(agent.key, key="first")
    return agent.key


async def log_of(client: AsyncClient, agent: str) -> list[str]:
    return [event_type(event) async for event in client.events.list(agent, "first", limit=100)]


@pytest.fixture(scope="module")
def settings() -> str:
    return "heartbeat_seconds = 0.05"


@pytest_asyncio.fixture(loop_scope="module")
async def direct(stage: Stage) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        yield client


async def test_a_cut_stream_is_told_and_the_log_has_the_whole_answer(
    stage: Stage, upstream: Upstream, direct: AsyncClient
) -> None:
    agent = await a_session(direct)
    goes_on = asyncio.Event()
    upstream.add(say("One", whole=True), wait_for(goes_on), say(" two.", whole=True))
    cut = False
    async with (
        Wire(stage.server.url, lambda sent, data: not cut) as wire,
        AsyncClient(wire.url, stage.server.key) as client,
    ):
        texts = []
        with pytest.raises(sessile.StreamBroken) as broken:  # noqa: PT012 - what came before is looked at
            async with client.events.stream(agent, "first", "Count") as turn:
                async for text in turn.text():
                    texts.append(text)
                    cut = True
        assert texts == ["One"]
        assert wire.requests("POST") == 4, "the input, and what tried to join its turn"
        assert broken.value.turn_id == turn.turn_id
        assert isinstance(broken.value.__cause__, ConnectionLost)
        cut = False
        goes_on.set()
        assert (await client.turns.wait(agent, "first", broken.value.turn_id)).stop_reason == "end_turn"
        asked, answered = [event async for event in client.events.list(agent, "first")]
        assert asked.id == broken.value.event_id
        assert isinstance(answered, AgentOutputEvent)
        assert answered.content == "One two."


async def test_a_silent_stream_is_told(
    stage: Stage, upstream: Upstream, direct: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await a_session(direct)
    goes_on = asyncio.Event()
    upstream.add(say("One", whole=True), wait_for(goes_on), say(" two.", whole=True))
    silent = False
    async with (
        Wire(stage.server.url, lambda sent, data: None if silent else True) as wire,
        AsyncClient(wire.url, stage.server.key) as client,
    ):
        monkeypatch.setattr(call, "STREAM_SILENCE_SECONDS", 1.0)
        with pytest.raises(sessile.StreamBroken, match="silent"):  # noqa: PT012
            async with client.events.stream(agent, "first", "Count") as turn:
                async for _text in turn.text():
                    await asyncio.sleep(1.5)  # heartbeats alone keep a stream alive
                    silent = True
        await asyncio.wait_for(wire.left.wait(), WAIT_SECONDS)
    goes_on.set()
    await direct.turns.wait(agent, "first", turn.turn_id)


@pytest.mark.parametrize("warm", [False, True], ids=["on a new connection", "on a kept connection"])
async def test_what_changes_something_is_sent_once(stage: Stage, direct: AsyncClient, warm: bool) -> None:
    agent = await a_session(direct)
    calls: dict[str, Callable[[AsyncClient], Any]] = {
        "PATCH": lambda client: client.agents.update(agent, description="x"),
        "PUT": lambda client: client.agents.replace(agent, name="Other", model="demo"),
        "DELETE": lambda client: client.agents.delete(agent),
    }
    for method, make in calls.items():
        async with Wire(stage.server.url, cuts(method.encode() + b" ", times=9)) as wire:
            async with AsyncClient(wire.url, stage.server.key) as client:
                if warm:
                    assert await client.health()
                with pytest.raises(sessile.ConnectionLost):
                    await make(client)
            assert wire.requests(method) == 1
    with pytest.raises(sessile.NotFound):
        await direct.agents.get(agent)


async def test_what_only_reads_is_sent_again(stage: Stage, direct: AsyncClient) -> None:
    agent = await a_session(direct)
    async with Wire(stage.server.url, cuts(b"GET ", times=2)) as wire:
        async with AsyncClient(wire.url, stage.server.key) as client:
            assert (await client.agents.get(agent)).key == agent
        assert wire.requests("GET") == 3
    async with Wire(stage.server.url, cuts(b"GET ", times=9)) as wire:
        async with AsyncClient(wire.url, stage.server.key, retries=0) as client:
            with pytest.raises(sessile.ConnectionLost):
                await client.agents.get(agent)
        assert wire.requests("GET") == 1


async def test_a_server_that_does_not_answer(stage: Stage, direct: AsyncClient) -> None:
    async with Wire(stage.server.url, lambda sent, data: None) as wire:
        async with AsyncClient(wire.url, stage.server.key, timeout=1.0) as client:
            with pytest.raises(sessile.RequestTimedOut) as late:
                await client.agents.list().page()
            assert isinstance(late.value, TimeoutError)
        assert wire.requests("GET") == 1


async def test_nobody_is_there() -> None:
    async with Wire("http://127.0.0.1:1") as wire:
        url = wire.url
    async with AsyncClient(url, "sk-secret") as client:
        for make in (client.health, lambda: client.events.send("a", "s", "Hello")):
            with pytest.raises(sessile.ServerUnreachable) as absent:
                await make()
            assert str(absent.value) == f"No Sessile server answers at {url}: connection refused."
            assert isinstance(absent.value, ConnectionError)


async def test_a_client_finds_a_server_that_starts_late(stage: Stage) -> None:
    async with Wire(stage.server.url) as wire:
        port = urlsplit(wire.url).port
    late = Wire(stage.server.url)

    async def start() -> Any:
        await asyncio.sleep(0.1)
        return await asyncio.start_server(late._connected, "127.0.0.1", port)

    starting = asyncio.ensure_future(start())
    async with AsyncClient(f"http://127.0.0.1:{port}", stage.server.key, retries=8) as client:
        assert await client.health()
    server = await starting
    server.close()
    await eventually(lambda: asyncio.sleep(0, not late._tasks))


async def test_a_stream_that_is_left_closes_its_connection(
    stage: Stage, upstream: Upstream, direct: AsyncClient
) -> None:
    async def forgets(client: AsyncClient, agent: str) -> None:
        async for frame in client.events.stream(agent, "first", "Count"):
            if isinstance(frame, StreamingAgentOutput):
                break

    async def leaves(client: AsyncClient, agent: str) -> None:
        async with client.events.stream(agent, "first", "Count") as turn:
            async for _text in turn.text():
                break

    async def is_cancelled(client: AsyncClient, agent: str) -> None:
        reading = asyncio.Event()

        async def reads() -> None:
            async with client.events.stream(agent, "first", "Count") as turn:
                async for _text in turn.text():
                    reading.set()

        task = asyncio.ensure_future(reads())
        await asyncio.wait_for(reading.wait(), WAIT_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for leave in (forgets, leaves, is_cancelled):
        agent = await a_session(direct)
        goes_on = asyncio.Event()
        upstream.add(say("One", whole=True), wait_for(goes_on), say(" two.", whole=True))
        async with Wire(stage.server.url) as wire, AsyncClient(wire.url, stage.server.key) as client:
            await leave(client, agent)
            gc.collect()
            await asyncio.wait_for(wire.left.wait(), WAIT_SECONDS)
            goes_on.set()
            assert (await stage.stopped(f"/v2/agents/{agent}/sessions/first"))["stop_reason"] == "end_turn"
            assert await client.health()


async def test_a_stream_that_is_read_to_its_end_keeps_its_connection(
    stage: Stage, upstream: Upstream, direct: AsyncClient
) -> None:
    agent = await a_session(direct)
    async with Wire(stage.server.url) as wire, AsyncClient(wire.url, stage.server.key) as client:
        for _ in range(3):
            upstream.add(say("One two three."))
            async with client.events.stream(agent, "first", "Count") as turn:
                assert [text async for text in turn.text()]
        assert wire.requests("POST") == 3
        assert len(wire.sent) == 1


async def test_waiting_for_a_frame_can_be_given_up_and_taken_up_again(upstream: Upstream, direct: AsyncClient) -> None:
    agent = await a_session(direct)
    goes_on = asyncio.Event()
    upstream.add(say("One", whole=True), wait_for(goes_on), say(" two.", whole=True))
    texts = []
    async with direct.events.stream(agent, "first", "Count") as turn:
        while True:
            try:
                frame = await asyncio.wait_for(anext(turn), 0.2)
            except TimeoutError:
                goes_on.set()
                continue
            except StopAsyncIteration:
                break
            if isinstance(frame, StreamingAgentOutput):
                texts.append(frame.content)
    assert "".join(texts) == "One two."
    assert goes_on.is_set()


async def test_redirects_are_not_followed() -> None:
    seen: list[dict[str, str]] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.json_response({"status": "ok"})

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(f"{target}/elsewhere")

    async with serving(elsewhere) as target, serving(redirect) as url, AsyncClient(url, "sk-secret") as client:
        with pytest.raises(sessile.UnexpectedAnswer, match="redirects to") as redirected:
            await client.health()
        assert redirected.value.status == 307
        with pytest.raises(sessile.UnexpectedAnswer):
            await client.events.send("a", "s", "Hello")
    assert seen == []


async def test_what_is_no_sessile_server() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome</html>", content_type="text/html")

    async with serving(page) as url, AsyncClient(url, retries=0) as client:
        with pytest.raises(sessile.UnexpectedAnswer, match="text/html"):
            await client.agents.list().page()
        with pytest.raises(sessile.UnexpectedAnswer):
            async with client.events.stream("a", "s", "Hello"):
                pass


async def test_an_answer_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65536)
        ended.set()
        return response

    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1_000_000)
    async with serving(endless) as url, AsyncClient(url) as client:
        with pytest.raises(sessile.UnexpectedAnswer, match="larger than 1000000 bytes"):
            await client.agents.list().page()
        await asyncio.wait_for(ended.wait(), WAIT_SECONDS)


async def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def proxy(request: web.Request) -> web.Response:
        asked.append((str(request.url), request.headers.get("x-api-key"), request.headers.get("authorization")))
        return web.json_response({"status": "ok"})

    async with serving(proxy) as url:
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("http_proxy", url)
        async with AsyncClient("http://sessile.example/below/", "sk-secret") as client:
            assert await client.health()
        assert asked == [("http://sessile.example/below/healthz", "sk-secret", None)]
        async with AsyncClient(stage.server.url) as client:
            assert await client.health()
        monkeypatch.setenv("no_proxy", "sessile.example")
        assert AsyncClient("http://sessile.example")._transport._proxy is None  # type: ignore[attr-defined]
        assert len(asked) == 1
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
        with pytest.raises(ValueError, match="proxy"):
            AsyncClient("http://sessile.example")


async def test_a_server_that_stops_and_one_that_crashes(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        hangs = asyncio.Event()
        with ServerProcess(tmp_path, model_config(upstream)) as server:
            async with AsyncClient(server.url, server.key) as client:
                agent = await a_session(client)
                upstream.add(say("One", whole=True), wait_for(hangs))
                async with client.events.stream(agent, "first", "Count") as turn:
                    assert await anext(turn.text()) == "One"
                    stopping = asyncio.ensure_future(asyncio.to_thread(server.terminate))
                    with pytest.raises(sessile.StreamBroken, match="the server stopped"):
                        _ = [frame async for frame in turn]
                await stopping
                assert (turn.status, turn.stop_reason) == ("running", None)
                with pytest.raises(sessile.ServerUnreachable):
                    await client.events.send(agent, "first", "Hello?")
            upstream.reset()
            upstream.add(say("One, two."))
            await asyncio.to_thread(server.start)
            async with AsyncClient(server.url, server.key) as client:
                assert (await client.turns.wait(agent, "first", turn.turn_id)).stop_reason == "end_turn"
                upstream.add(say("One", whole=True), wait_for(hangs))
                stream = client.events.stream(agent, "first", "Count")
                assert await anext(stream.text()) == "One"
                await asyncio.to_thread(server.kill)
                with pytest.raises(sessile.StreamBroken) as broken:
                    _ = [frame async for frame in stream]
            upstream.add(say("One, two, three"))
            await asyncio.to_thread(server.start)
            async with AsyncClient(server.url, server.key) as client:
                ended = await client.turns.wait(agent, "first", broken.value.turn_id)
                assert ended.stop_reason == "end_turn"


async def test_the_plain_client_meets_the_same(stage: Stage, upstream: Upstream, direct: AsyncClient) -> None:
    def plainly(url: str, agent: str) -> tuple[list[str], str]:
        nonlocal cut
        texts = []
        with Client(url, stage.server.key) as client:
            try:
                with client.events.stream(agent, "first", "Count") as turn:
                    for text in turn.text():
                        texts.append(text)
                        cut = True
            except sessile.StreamBroken as broken:
                return texts, broken.turn_id
        return texts, ""

    agent = await a_session(direct)
    goes_on = asyncio.Event()
    upstream.add(say("One", whole=True), wait_for(goes_on), say(" two.", whole=True))
    cut = False
    async with Wire(stage.server.url, lambda sent, data: not cut) as wire:
        texts, turn_id = await asyncio.to_thread(plainly, wire.url, agent)
    goes_on.set()
    assert texts == ["One"]
    assert (await direct.turns.wait(agent, "first", turn_id)).stop_reason == "end_turn"


@contextlib.asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    """A server on a free port that answers everything with one handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
