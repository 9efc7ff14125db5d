"""`sessile events follow`: a session on a terminal and in a pipe, over a crash of the server too."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from acceptance.cli_support import SESSILE, environment, run, terminal
from acceptance.stage import WAIT_SECONDS, Stage, lambdas, model_config, types
from sessile.testing.script import call, hang, say, think
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.ping]\nfunction = "tools:ping"\n'


def keys(path: str) -> tuple[str, str]:
    """Agent and session of a path."""
    _, _, _, agent, _, session = path.split("/")
    return agent, session


async def end_of_session(stage: Stage, path: str) -> None:
    assert (await stage.client.delete(path)).status_code == 204


async def test_a_session_on_a_terminal_as_in_a_conversation(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation(tool_configurations=lambdas("ping"))
    upstream.add(think("Hm."), call("ping")).add(say("It is there.")).add(say("Again."))
    await stage.post(path, "Look, please.")
    async with terminal(environment(stage.server.url), "events", "follow", *keys(path)) as shown:
        await shown.until("> Look, please.")
        await shown.until("ping()")
        await shown.until("It is there.")
        await stage.post(path, "And now?")
        await shown.until("> And now?")
        await shown.until("Again.")
        await end_of_session(stage, path)
        await shown.until("The session was deleted.")
        assert await shown.ended() == 0
        for words in ("Look, please.", "It is there.", "Again."):
            assert shown.screen.count(words) == 1


async def test_as_json_it_is_what_the_server_sends(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Hello there."))
    await stage.post(path)
    log = await stage.log(path, records="true")
    async with piped(stage.server.url, *keys(path), "--json", "--no-deltas") as process:
        lines = [await line(process) for _ in range(1 + len(log))]
        await end_of_session(stage, path)
        lines.append(await line(process))
        assert await process.wait() == 0
    assert lines[0]["type"] == "session_state"
    assert [without_defaults(one) for one in lines[1:-1]] == [without_defaults(event) for event in log]
    assert (lines[-1]["type"], lines[-1]["reason"]) == ("end", "deleted")


async def test_since_an_event_and_ctrl_c(stage: Stage, upstream: Upstream) -> None:
    path = await stage.conversation()
    upstream.add(say("Hello there."))
    await stage.post(path)
    log = await stage.log(path, records="true")
    async with piped(stage.server.url, *keys(path), "--json", "--since", log[1]["id"]) as process:
        lines = [await line(process) for _ in range(1 + len(log) - 2)]
        assert types(lines) == ["session_state", "agent_output", "turn_ended"]
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert process.stderr is not None
        assert f"--since {log[-1]['id']}" in (await process.stderr.read()).decode()


async def test_refusals(stage: Stage) -> None:
    path = await stage.conversation()
    env = environment(stage.server.url)
    done = await run(env, "events", "follow", *keys(path), "--since", "aev_1", "--json")
    assert (done.code, done.error()["code"]) == (1, "unknown_cursor")
    assert (await run(env, "events", "follow", keys(path)[0], "nowhere")).code == 4
    assert (await run(environment("http://127.0.0.1:1"), "events", "follow", "a", "s")).code == 3


async def test_a_crash_in_the_middle_of_an_answer_is_gone_over(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with Upstream() as upstream:
        with ServerProcess(tmp_path, model_config(upstream), arguments=("--port", str(port))) as server:
            async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS) as client:
                stage = Stage(server, upstream, client)
                path = await stage.conversation()
                async with terminal(environment(server.url), "events", "follow", *keys(path)) as shown:
                    upstream.add(say("Half of the ans"), hang())
                    posting = asyncio.create_task(client.post(f"{path}/events", json={"content": "First."}))
                    await shown.until("Half of the ans")
                    await asyncio.to_thread(server.kill)
                    with pytest.raises(httpx.HTTPError):
                        await posting
                    await shown.until("connection to the server is lost")
                    upstream.reset()
                    upstream.add(say("Once more, in full."))
                    await asyncio.to_thread(server.start)
                    await shown.until("The server is there again.")
                    await shown.until("The text above is withdrawn.")
                    await shown.until("Once more, in full.")
                    upstream.reset()
                    upstream.add(say("The whole answer."))
                    await stage.post(path, "Second.")
                    await shown.until("> Second.")
                    await shown.until("The whole answer.")
                    for words in (
                        "> First.",
                        "Half of the ans",
                        "Once more, in full.",
                        "> Second.",
                        "The whole answer.",
                    ):
                        assert shown.screen.count(words) == 1
                    shown.interrupt()
                    assert await shown.ended() == 130


@asynccontextmanager
async def piped(url: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command with its output in pipes."""
    process = await asyncio.create_subprocess_exec(
        *(*SESSILE, "events", "follow", *arguments),
        env=environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> Any:
    """The next line of its output, as JSON."""
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        return msgspec.json.decode(await process.stdout.readline())


def without_defaults(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if value not in (False, None)}
