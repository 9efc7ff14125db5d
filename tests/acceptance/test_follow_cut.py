"""A follower whose every connection is cut after so many frames, for every number: it still sees exactly the log."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from acceptance.following import Block, following
from acceptance.stage import WAIT_SECONDS, Stage, lambdas, types
from log_rules import problems
from sessile.testing.faults import Cut
from sessile.testing.script import Step, call, hang, say, sleep, think
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

FEWEST = 3
"""Frames that a connection must give before a client gets on: its position, the state, and one event."""
TYPES = ["input_message", "turn_started", "thinking", "agent_output", "tool_input", "tool_output"]
TYPES += ["agent_output", "turn_ended"]
TYPES += ["input_message", "turn_started", "thinking", "agent_output", "session_interrupted", "turn_ended"]
TYPES += ["input_message", "turn_started", "agent_output", "turn_ended"]


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"tools": 'def ping() -> str:\n    """Answer."""\n    return "pong"\n'}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    return '[tools.ping]\nfunction = "tools:ping"\n'


def slowly(text: str) -> list[Step]:
    """Word by word, with a moment for followers in between."""
    return [step for word in text.split() for step in (say(f"{word} ", whole=True), sleep(0.002))]


async def converse(stage: Stage, upstream: Upstream, session: str) -> None:
    """Three turns: one with thinking and a tool, one that is interrupted in the middle, a plain one."""
    upstream.reset()
    upstream.add(think("I should look."), *slowly("Let me see what I find."), call("ping")).add(*slowly("It is there."))
    await stage.post(session, "First.")
    upstream.add(think("Hm."), *slowly("This will never"), hang())
    async with stage.stream(session, "Second.") as turn:
        while "never" not in turn.text:
            await turn.next()
        answer = await stage.client.post(f"{session}/events", json={"type": "interrupt"})
        assert answer.json()["stop_reason"] == "interrupted"
    upstream.add(*slowly("That was all."))
    await stage.post(session, "Third.")


class Union:
    """What a client has over all its connections."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.last_id: str | None = None
        self.connections = 0
        self.ended: dict[str, str] = {}
        """The text of each output that was said to have ended on a connection, by the id of its event."""

    def take(self, blocks: list[Block]) -> None:
        """The frames of one connection."""
        self.connections += 1
        texts: dict[str, str] = {}
        for block in blocks:
            self.last_id = block.id or self.last_id
            if block.id and block.type:
                self.events.append(block.data)
            if block.type == "streaming_agent_output":
                delta = block.data
                before = texts.get(delta["output_id"], "")
                assert delta["offset"] == len(before), "a connection gives each output from its beginning"
                texts[delta["output_id"]] = before + delta["content"]
            if block.type == "streaming_agent_output_end" and "event_id" in block.data:
                self.ended[block.data["event_id"]] = texts[block.data["output_id"]]

    def check(self, log: list[dict[str, Any]]) -> None:
        """It is the log, once and in order, and what was shown of outputs is what they became."""
        assert self.events == log
        contents = {event["id"]: event["content"] for event in log if event["type"] == "agent_output"}
        assert self.ended.items() <= contents.items()


async def follow(client: httpx.AsyncClient, session: str, turns: int) -> Union:
    """Come back after every cut until so many turns have ended."""
    union = Union()
    async with asyncio.timeout(WAIT_SECONDS):
        while types(union.events).count("turn_ended") < turns:
            async with following(client, session, union.last_id) as stream:
                with contextlib.suppress(httpx.TransportError):
                    while types(union.events + stream.durable).count("turn_ended") < turns:
                        await stream.next()
            union.take(stream.blocks)
    return union


@contextlib.asynccontextmanager
async def cut_after(stage: Stage, frames: list[int]) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose connections are cut."""
    cut = Cut(stage.server.url)
    cut.after_frames = frames
    async with cut.listening() as url, httpx.AsyncClient(base_url=url, headers=stage.server.headers) as client:
        yield client


async def test_a_recorded_session_cut_after_any_frame(stage: Stage, upstream: Upstream) -> None:
    session = await stage.conversation(tool_configurations=lambdas("ping"))
    await converse(stage, upstream, session)
    log = await stage.log(session, records="true")
    assert types(log) == TYPES
    assert problems(log) == []
    for frames in range(1, len(log) + FEWEST):
        events = frames - FEWEST + 1
        async with cut_after(stage, [frames]) as client:
            union = await follow(client, session, 3)
        union.check(log)
        assert union.connections == (2 if events < len(log) else 1)
        if events > 0:
            async with cut_after(stage, [frames] * len(log)) as client:
                union = await follow(client, session, 3)
            union.check(log)
            assert union.connections == math.ceil(len(log) / events)


async def test_a_session_that_is_followed_live_cut_after_any_frame(stage: Stage, upstream: Upstream) -> None:
    shown: set[str] = set()
    for frames in range(FEWEST, 40):
        session = await stage.conversation(tool_configurations=lambdas("ping"))
        async with cut_after(stage, [frames] * 1000) as client:
            following_it = asyncio.create_task(follow(client, session, 3))
            await converse(stage, upstream, session)
            union = await following_it
        log = await stage.log(session, records="true")
        assert types(log) == TYPES
        union.check(log)
        shown.update(union.ended.values())
    assert {"Let me see what I find. ", "It is there. ", "This will never ", "That was all. "} == shown
