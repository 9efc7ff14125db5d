"""A server that is killed right before and right after every commit of a turn, by its own disk."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.stage import WAIT_SECONDS, lambdas, model_config
from log_rules import problems
from sessile.testing.fsync_shim import FsyncShim
from sessile.testing.script import Step, call, say, think
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Received, Upstream

pytestmark = pytest.mark.acceptance

TOOL = """
import pathlib


def once(session: str) -> str:
    \"\"\"Do something that must not happen twice.\"\"\"
    with open(pathlib.Path(__file__).parent / f"{session}.starts", "a") as starts:
        starts.write("x")
    return "done"
"""
COMMITS = ("the input", "the tool call", "its output", "the end")
TYPES = ["input_message", "turn_started", "thinking", "agent_output", "tool_input", "tool_output"]
TYPES += ["agent_output", "turn_ended"]
HEADERS = {"idempotency-key": "the-same"}


def decide(received: Received) -> Sequence[Step]:
    """The tool first, with what the input says; then an answer."""
    last = received.messages[-1]
    if last["role"] == "tool":
        return [say("It is done.")]
    return [think("Hm."), say("I do it. "), call("once", {"session": last["content"]})]


class Mortal:
    """A server that can be killed at a commit, and its clients."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        (folder / "tools.py").write_text(TOOL)
        self.folder = folder
        self.shim = FsyncShim(folder, folder / "data")
        config = model_config(upstream) + '[tools.once]\nfunction = "tools:once"\n'
        self.server = ServerProcess(folder, config, env=self.shim.env)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, headers=self.server.headers, timeout=WAIT_SECONDS)

    async def prepare(self, session: str) -> str:
        """A session; returns the path of its events."""
        async with self.client() as client:
            agent = {"key": "a", "name": "A", "model": {"name": "scripted"}, "tool_configurations": lambdas("once")}
            assert (await client.post("/v2/agents", json=agent)).status_code in (201, 400)
            assert (await client.post("/v2/agents/a/sessions", json={"key": session})).status_code == 201
        return f"/v2/agents/a/sessions/{session}/events"

    async def say(self, path: str, text: str) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json={"content": text}, headers=HEADERS)

    async def back(self) -> None:
        """Wait until the process is dead, and start the next one on a disk that works."""
        await asyncio.to_thread(self.server.process.wait, WAIT_SECONDS)
        self.server.kill()
        self.shim.work()
        await asyncio.to_thread(self.server.start)

    async def log(self, path: str) -> list[dict[str, Any]]:
        async with self.client() as client:
            answer = await client.get(path, params={"records": True, "limit": 100})
        events: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
        return events


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncIterator[Mortal]:
    async with Upstream(decide) as upstream:
        made = Mortal(tmp_path, upstream)
        with made.server:
            yield made


async def test_a_kill_at_any_commit_loses_and_doubles_nothing(mortal: Mortal) -> None:
    for commit, name in enumerate(COMMITS, 1):
        for when in ("before", "after"):
            session = f"{when}-{commit}"
            path = await mortal.prepare(session)
            mortal.shim.kill_at(commit, when)
            with pytest.raises(httpx.TransportError):
                await mortal.say(path, session)
            await mortal.back()
            there = [event["type"] for event in await mortal.log(path)]
            assert bool(there) == ((commit, when) != (1, "before")), (name, when)
            answer = (await mortal.say(path, session)).raise_for_status().json()
            assert answer["stop_reason"] == "end_turn", (name, when)
            log = await mortal.log(path)
            assert [event["type"] for event in log] == TYPES, (name, when)
            assert problems(log) == [], (name, when)
            never_started, ran = (commit, when) == (2, "after"), (commit, when) == (3, "before")
            assert log[5]["error"] == (never_started or ran), (name, when)
            starts = mortal.folder / f"{session}.starts"
            assert (starts.read_text() if starts.exists() else "") == ("" if never_started else "x"), (name, when)
