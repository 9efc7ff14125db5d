"""What somebody with nothing but curl can count on: an input that was cut off and is sent again is the same turn."""

import asyncio
import json
import re
import shutil
import subprocess

import pytest

from acceptance.stage import WAIT_SECONDS, Stage, types
from sessile.testing.script import say, wait_for
from sessile.testing.upstream import Upstream

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here"),
]


async def curl(stage: Stage, session: str) -> asyncio.subprocess.Process:
    body = json.dumps({"content": "Hello.", "stream_response": True})
    return await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--show-error", "--no-buffer", "--include", "--data", body),
        *("--header", "Content-Type: application/json"),
        *("--header", f"x-api-key: {stage.server.key}", "--header", "Idempotency-Key: my-only-key"),
        f"{stage.server.url}{session}/events",
        stdout=subprocess.PIPE,
    )


async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
    """What it printed, up to some words."""
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(WAIT_SECONDS):
        while words not in printed and (chunk := await process.stdout.read(4096)):
            printed += chunk.decode()
    return printed


def turn_of(printed: str) -> str:
    found = re.search(r"x-turn-id: (\S+)", printed, re.IGNORECASE)
    assert found is not None, printed
    return found[1]


def said(printed: str) -> str:
    frames = [json.loads(line.removeprefix("data: ")) for line in printed.split("\n") if line.startswith("data: ")]
    return "".join(frame["content"] for frame in frames if frame["type"] == "streaming_agent_output")


async def test_an_input_that_was_cut_off_and_sent_again_is_one_turn(stage: Stage, upstream: Upstream) -> None:
    session, goes_on = await stage.conversation(), asyncio.Event()
    upstream.add(say("One two"), wait_for(goes_on), say(" three."))
    first = await curl(stage, session)
    cut = await read_until(first, '" two"')
    first.kill()
    await first.wait()
    second = await curl(stage, session)
    joined = await read_until(second, "One two")
    goes_on.set()
    joined += (await second.communicate())[0].decode()
    assert second.returncode == 0
    third = await curl(stage, session)
    again = (await third.communicate())[0].decode()
    assert third.returncode == 0
    assert turn_of(cut) == turn_of(joined) == turn_of(again)
    assert said(joined) == said(again) == "One two three."
    assert types(await stage.log(session, records="true")) == [
        "input_message",
        "turn_started",
        "agent_output",
        "turn_ended",
    ]
    assert len(upstream.requests) == 1
