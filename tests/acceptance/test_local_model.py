"""What a newcomer gets without any key: a real server with the sample agent, answered by the offline model."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.stage import WAIT_SECONDS, EventStream, eventually, frame_types, text_of
from processes import children, gone
from sessile.models import local
from sessile.models.local import CONTEXT_WINDOW
from sessile.models.providers import ENDPOINTS
from sessile.testing.server import ServerProcess

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not local.installed(), reason=f"the offline model is not installed: {local.INSTALL}"),
]

SUPPORT = Path(__file__).parents[2] / "examples" / "support"
SESSION = "/v2/agents/agt_customer_support/sessions/welcome"
QUESTION = "Where is my order A-1042?"
WITHOUT_KEYS = {endpoint.key_variable: None for endpoint in ENDPOINTS.values() if endpoint.key_variable}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    made = ServerProcess(
        tmp_path,
        (SUPPORT / "sessile.toml").read_text(),
        arguments=["--sample", str(SUPPORT / "agent.json")],
        env={**WITHOUT_KEYS, "SESSILE_DEFAULT_MODEL": None, "PYTHONPATH": str(SUPPORT)},
    )
    with made:
        yield made


async def ask(client: httpx.AsyncClient) -> EventStream:
    """Ask the sample agent and read the whole streamed answer."""
    body = {"content": QUESTION, "stream_response": True}
    async with client.stream("POST", f"{SESSION}/events", json=body, timeout=2 * WAIT_SECONDS) as response:
        assert response.status_code == 201
        stream = EventStream(response)
        await stream.rest()
        return stream


def client_of(server: ServerProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS)


def is_real(stream: EventStream) -> None:
    """Check that the offline model gave this answer, and not the demo, whose window is another and which confesses."""
    (used,) = [data["session_context_usage"] for name, data in stream.frames if name == "context_consumed"]
    assert used["model_context_window"] == CONTEXT_WINDOW
    assert used["input_tokens"]["count"] > 0
    assert used["output_tokens"]["count"] > 0
    assert text_of(stream.frames).strip()
    assert "demo" not in stream.text
    assert stream.frames[-1] == ("end", {"type": "end", "status": "stopped", "stop_reason": "end_turn"})


async def test_the_sample_agent_streams_an_answer_of_the_real_model(server: ServerProcess) -> None:
    assert "SmolLM2-135M-Instruct" in server.stdout
    assert "makes things up" in server.stdout
    async with client_of(server) as client:
        stream = await ask(client)
        is_real(stream)
        assert frame_types(stream.frames) == [
            *("input_message", "streaming_agent_output", "context_consumed", "streaming_agent_output_end", "end")
        ]
        deltas = [data for name, data in stream.frames if name == "streaming_agent_output"]
        assert len(deltas) > 1
        log = (await client.get(f"{SESSION}/events")).json()["events"]
        assert [event["type"] for event in log] == ["input_message", "agent_output"]
        assert log[1]["content"] == text_of(stream.frames)
    assert len(children(server.process.pid)) == 1


async def test_its_process_is_there_before_anybody_asks(server: ServerProcess) -> None:
    async def started() -> bool:
        return len(await asyncio.to_thread(children, server.process.pid)) == 1

    await eventually(started)


async def test_its_process_is_replaced_when_it_dies(server: ServerProcess) -> None:
    async with client_of(server) as client:
        is_real(await ask(client))
        (first,) = children(server.process.pid)
        os.kill(first, signal.SIGKILL)
        await gone(first)
        is_real(await ask(client))
        (second,) = children(server.process.pid)
        assert second != first
        assert '"event":"local_model_ended"' in server.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_nothing_is_left_of_it_when_the_server_ends(server: ServerProcess, how: signal.Signals) -> None:
    async with client_of(server) as client:
        is_real(await ask(client))
    (child,) = children(server.process.pid)
    server.process.send_signal(how)
    status = await asyncio.to_thread(server.process.wait, WAIT_SECONDS)
    assert status == (-how if how == signal.SIGKILL else 0)
    await gone(child)
    server.kill()
    assert [line for line in server.stderr.splitlines() if json.loads(line)["level"] != "info"] == []


def test_the_commands_about_models(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in {*WITHOUT_KEYS, "SESSILE_DEFAULT_MODEL"}}

    def models(*arguments: str, **env: str) -> tuple[int, list[dict[str, Any]]]:
        command = [sys.executable, "-m", "sessile", "models", *arguments, "--json"]
        done = subprocess.run(
            command, cwd=tmp_path, env={**kept, **env}, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stdout + done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    (tmp_path / "sessile.toml").write_text('[models.far]\nprovider = "vllm"\nbase_url = "http://127.0.0.1:9/v1"\n')
    status, listed = models("list")
    assert status == 0
    assert [model["name"] for model in listed] == ["default", "demo", "far", "local"]
    assert listed[0]["stands_for"] == "local"
    _, listed = models("list", OPENAI_API_KEY="secret")
    assert (listed[0]["stands_for"], listed[0]["key_variable"]) == ("openai:gpt-6-luna", "OPENAI_API_KEY")
    assert listed[0]["key_is_set"] is True

    status, checked = models("check")
    assert status == 1
    assert [(one["name"], one["ok"]) for one in checked] == [("default", True), ("far", False)]
    assert checked[0]["output_tokens"] > 0
    assert checked[1]["code"] == "model_unavailable"
    assert models("check", "local", "demo")[0] == 0
    status, checked = models("check", "nothing")
    assert (status, checked[0]["code"]) == (1, "unknown_model")
