"""Start, stop and crash: what a process leaves behind, and what the next one makes of it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.stage import WAIT_SECONDS, EventStream, Stage, eventually, lambdas, model_config, text_of, types
from sessile.testing.script import call, hang, say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = pytest.mark.acceptance

STOP_SECONDS = 5.0
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
    """Waits, and takes its time when it is cancelled."""
    Path("started").touch()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(60)
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
TOOL_TABLES = "\n".join(
    f'[tools.{n}]\nfunction = "lifecycle_tools:{n}"\ntimeout_seconds = 50' for n in ("sleeps", "waits", "stays")
)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> ServerProcess:
    """A server that is not started yet."""
    (tmp_path / "lifecycle_tools.py").write_text(TOOLS)
    return ServerProcess(tmp_path, model_config(upstream) + TOOL_TABLES)


@asynccontextmanager
async def started(server: ServerProcess, upstream: Upstream) -> AsyncIterator[Stage]:
    """Start the server; whatever the test does, it does not run afterwards."""
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
            yield Stage(server, upstream, client)


async def stop(server: ServerProcess, how: Callable[[], int]) -> int:
    """End the server while the model goes on to be served; returns the exit status."""
    began = time.monotonic()
    status = await asyncio.to_thread(how)
    assert time.monotonic() - began < STOP_SECONDS
    return status


async def read_what_comes(stream: EventStream) -> None:
    """Read to the end, which the death of the server makes an error."""
    with pytest.raises(httpx.RemoteProtocolError):
        await stream.rest()


async def tool_started(server: ServerProcess) -> None:
    marker = server.folder / "started"

    async def probe() -> bool:
        return marker.exists()

    await eventually(probe)


async def turn_of(stage: Stage, session: str) -> Any:
    return await stage.get(f"{session}/turns/{(await stage.log(session))[0]['turn_id']}")


async def goes_on(stage: Stage, session: str) -> None:
    """Check that the session takes the next input."""
    stage.upstream.reset()
    stage.upstream.add(say("I am back."))
    body = await stage.post(session, "Are you there?")
    assert (body["stop_reason"], body["events"][-1]["content"]) == ("end_turn", "I am back.")
    assert stage.defects() == []


async def test_sigterm_leaves_an_open_model_call_to_the_next_start(server: ServerProcess, upstream: Upstream) -> None:
    keyed = {"idempotency-key": "once"}
    async with started(server, upstream) as stage:
        session = await stage.conversation()
        upstream.add(say("Half an answer", whole=True), hang())
        async with stage.stream(session, headers=keyed) as stream:
            await stream.until("streaming_agent_output")
            stopping = asyncio.create_task(stop(server, server.terminate))
            frames = await stream.rest()
            assert await stopping == 0
        await upstream.requests[0].gone()
        assert [name for name, _ in frames[1:]] == ["streaming_agent_output", "end"]
        assert frames[-1][1] == {"type": "end", "status": "running", "reason": "drain"}
        assert stage.defects() == []
    gate = asyncio.Event()
    upstream.add(wait_for(gate), say("The whole answer."))
    async with started(server, upstream) as stage:
        assert types(await stage.log(session)) == ["input_message"]
        async with stage.stream(session, headers=keyed) as stream:
            gate.set()
            frames = await stream.rest()
        assert text_of(frames) == "The whole answer."
        assert frames[-1][1]["stop_reason"] == "end_turn"
        assert types(await stage.log(session)) == ["input_message", "agent_output"]
        assert types(await stage.log(session, records="true", type="turn_ended")) == ["turn_ended"]
        await goes_on(stage, session)


async def test_sigterm_lets_a_turn_end(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation()
        gate = asyncio.Event()
        upstream.add(say("Half ", whole=True), wait_for(gate), say("and whole."))
        async with stage.stream(session) as stream:
            await stream.until("streaming_agent_output")
            stopping = asyncio.create_task(stop(server, server.terminate))
            await refuses_input(stage, session)
            gate.set()
            frames = await stream.rest()
            assert await stopping == 0
        assert text_of(frames) == "Half and whole."
        assert frames[-1][1]["stop_reason"] == "end_turn"


async def refuses_input(stage: Stage, session: str) -> None:
    """Wait until the server takes no connection or no input any more."""

    async def probe() -> bool:
        try:
            answer = await stage.client.post(f"{session}/events", json={"content": "More."})
        except httpx.TransportError:
            return True
        return answer.status_code == 503

    await eventually(probe)


async def test_sigterm_answers_those_who_wait_for_a_whole_turn(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation()
        upstream.add(hang())
        posting = asyncio.create_task(stage.post(session))
        await upstream.arrived(1)
        assert await stop(server, server.terminate) == 0
        body = await posting
        assert (body["status"], body["stop_reason"], body["error"]) == ("running", None, None)
        assert types(body["events"]) == ["input_message"]


@pytest.mark.parametrize("tool", ["sleeps", "waits", "stays"])
async def test_sigterm_does_not_wait_long_for_a_tool(server: ServerProcess, upstream: Upstream, tool: str) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation(tool_configurations=lambdas(tool))
        upstream.add(call(tool))
        posting = asyncio.create_task(stage.post(session))
        await tool_started(server)
        assert await stop(server, server.terminate) == 0
        body = await posting
        assert types(body["events"]) == ["input_message", "tool_input"]
        assert body["status"] == "running"
    upstream.add(say("I do not know."))
    async with started(server, upstream) as stage:
        await until_stopped(stage, session)
        output, said = (await stage.log(session))[-2:]
        assert (output["error"], output["tool_output"]["code"]) == (True, "tool_outcome_unknown")
        assert said["content"] == "I do not know."
        await goes_on(stage, session)


async def test_sigterm_of_an_idle_server_ends_kept_connections(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        await stage.conversation()
        assert await stop(server, server.terminate) == 0
        assert stage.defects() == []


async def until_stopped(stage: Stage, session: str) -> dict[str, Any]:
    """The last turn of a session, once it has stopped."""

    async def stopped() -> dict[str, Any] | None:
        turn = await turn_of(stage, session)
        return turn if turn["status"] == "stopped" else None

    turn: dict[str, Any] = await eventually(stopped)
    return turn


async def test_a_crash_in_a_model_call_has_it_made_again_at_the_next_start(
    server: ServerProcess, upstream: Upstream
) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation()
        upstream.add(say("Half an answer", whole=True), hang())
        async with stage.stream(session) as stream:
            await stream.until("streaming_agent_output")
            await stop(server, server.kill)
            await read_what_comes(stream)
    upstream.add(say("The whole answer."))
    async with started(server, upstream) as stage:
        turn = await until_stopped(stage, session)
        assert (turn["stop_reason"], turn["error"]) == ("end_turn", None)
        log = await stage.log(session)
        assert [(event["type"], event["content"]) for event in log[1:]] == [("agent_output", "The whole answer.")]
        await goes_on(stage, session)
        records = types(await stage.log(session, records="true"))
        assert records.count("turn_started") == records.count("turn_ended") == 2
    async with started(server, upstream) as stage:
        assert types(await stage.log(session, records="true")) == records


@pytest.mark.parametrize("tool", ["sleeps", "waits", "stays"])
async def test_a_crash_in_a_tool_call_answers_the_call_at_the_next_start(
    server: ServerProcess, upstream: Upstream, tool: str
) -> None:
    async with started(server, upstream) as stage:
        session = await stage.conversation(tool_configurations=lambdas(tool))
        upstream.add(say("I try. "), call(tool, id="one"), call(tool, id="two"))
        async with stage.stream(session) as stream:
            await stream.until("tool_input")
            await tool_started(server)
            await stop(server, server.kill)
            await read_what_comes(stream)
    upstream.add(say("I do not know."))
    async with started(server, upstream) as stage:
        assert (await until_stopped(stage, session))["stop_reason"] == "end_turn"
        log = await stage.log(session)
        calls = ["agent_output", "tool_input", "tool_input", "tool_output", "tool_output"]
        assert types(log[1:]) == [*calls, "agent_output"]
        assert [event["tool_call_id"] for event in log[2:-1]] == ["one", "two", "one", "two"]
        assert [(e["error"], e["tool_output"]["code"]) for e in log[4:-1]] == [(True, "tool_outcome_unknown")] * 2
        roles = [message["role"] for message in upstream.requests[-1].messages]
        assert roles == ["user", "assistant", "tool", "tool"]
        await goes_on(stage, session)


async def test_what_was_answered_survives_a_crash(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        agent = await stage.agent()
        session = await stage.session(agent, metadata={"a": 1})
        upstream.add(say("Remember me."))
        await stage.post(session)
        gone = await stage.session(agent)
        await stage.client.delete(gone)
        before = [await stage.get(path) for path in (session, f"{session}/events", f"/v2/agents/{agent}")]
        await stop(server, server.kill)
    async with started(server, upstream) as stage:
        assert [await stage.get(path) for path in (session, f"{session}/events", f"/v2/agents/{agent}")] == before
        assert (await stage.client.get(gone)).status_code == 404


def refuses_to_start(server: ServerProcess) -> str:
    """Check that the server ends with status 1 and one line; returns the line."""
    with pytest.raises(RuntimeError):
        server.start()
    assert server.process.returncode == 1
    assert "Traceback" not in server.stderr
    lines = server.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("sessile: ")
    return lines[0]


async def test_a_second_server_on_the_same_data_refuses_to_start(server: ServerProcess, upstream: Upstream) -> None:
    async with started(server, upstream) as stage:
        second = ServerProcess(server.folder, model_config(upstream) + TOOL_TABLES)
        assert f"is in use by the process {server.process.pid}" in await asyncio.to_thread(refuses_to_start, second)
        assert (await stage.client.get("/readyz")).status_code == 200


def test_the_owner_key_is_printed_on_the_first_start_only(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, env={"SESSILE_OWNER_KEY": None})
    with server:
        found = re.search(r"Owner key, shown this once: (sk-sessile-[0-9A-Za-z_-]{43})\n", server.stdout)
        assert found is not None, server.stdout
        headers = {"x-api-key": found[1]}
        assert httpx.get(f"{server.url}/v2/agents", headers=headers).status_code == 200
        assert server.terminate() == 0
    with server:
        assert "sk-sessile" not in server.stdout
        assert httpx.get(f"{server.url}/v2/agents", headers=headers).status_code == 200
        assert httpx.get(f"{server.url}/v2/agents").status_code == 401
    assert not [path for path in (tmp_path / "data").iterdir() if found[1].encode() in path.read_bytes()]


def test_the_owner_key_of_the_environment_replaces_the_one_before(tmp_path: Path) -> None:
    old, new = "old-owner-key-0123", "new-owner-key-0123"
    with ServerProcess(tmp_path, env={"SESSILE_OWNER_KEY": old}) as server:
        assert httpx.get(f"{server.url}/v2/agents", headers={"x-api-key": old}).status_code == 200
        assert old not in server.stdout + server.stderr
    with ServerProcess(tmp_path, env={"SESSILE_OWNER_KEY": new}) as server:
        assert httpx.get(f"{server.url}/v2/agents", headers={"x-api-key": new}).status_code == 200
        assert httpx.get(f"{server.url}/v2/agents", headers={"x-api-key": old}).status_code == 401
    with pytest.raises(RuntimeError, match="was revoked"):
        ServerProcess(tmp_path, env={"SESSILE_OWNER_KEY": old}).start()


def test_no_auth_works_on_loopback(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, arguments=["--no-auth"]) as server:
        answer = httpx.get(f"{server.url}/v2/agents")
        assert (answer.status_code, answer.json()["agents"]) == (200, [])
        assert "--no-auth" in server.stdout
        assert httpx.get(f"{server.url}/v2/agents", headers={"origin": "http://evil.example"}).status_code == 403
        assert httpx.get(f"{server.url}/v2/agents", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_auth_refuses_to_be_open_to_other_machines(tmp_path: Path, host: str) -> None:
    server = ServerProcess(tmp_path, arguments=["--host", host, "--no-auth"])
    assert "loopback" in refuses_to_start(server)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("port = ", "sessile.toml"),
        ("nonsense = 1", "nonsense"),
        ('[tools.a]\nfunction = "absent_module:a"', "absent_module"),
        ('[tools.a]\nfunction = "raises_it:a"', "RuntimeError"),
        ('[models.a]\nprovider = "imaginary"\nmodel = "m"', "imaginary"),
        ('host = "203.0.113.1"', "203.0.113.1"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "raises_it.py").write_text("raise RuntimeError('not today')\n")
    assert words in refuses_to_start(ServerProcess(tmp_path, config))


def test_an_owner_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    assert "SESSILE_OWNER_KEY" in refuses_to_start(ServerProcess(tmp_path, env={"SESSILE_OWNER_KEY": "short"}))


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with ServerProcess(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        second = ServerProcess(tmp_path / "other", arguments=["--port", port])
        assert port in refuses_to_start(second)


def test_data_that_is_not_a_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sessile.db").write_text("This is not a database. " * 100)
    assert "database" in refuses_to_start(ServerProcess(tmp_path))
