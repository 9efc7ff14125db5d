"""A stream whose reader is slow."""

import asyncio
import gc
from collections.abc import MutableMapping
from typing import Any

from sessile.api.follow import Following
from sessile.api.live_stream import LiveStream
from sessile.live.channel import MAX_LAG_BYTES, Node
from sessile.wire.events import SessionState
from unit.test_tail import SESSION, World

PIECE = "x" * 1000


def nodes() -> int:
    gc.collect()
    return sum(type(found) is Node for found in gc.get_objects())


async def test_a_reader_that_stops_reading_holds_no_more_than_it_may_be_behind() -> None:
    world = World()
    state = SessionState(status="running", stop_reason=None, turn_id="trn_1", last_event_id=None)
    rendering = Following("start", state, deltas=True, include_hidden=False)
    opened, stuck, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def send(message: MutableMapping[str, Any]) -> None:
        if b"event: input_message" in message.get("body", b""):
            opened.set()
        if b"streaming_agent_output" in message.get("body", b""):
            stuck.set()
            await never.wait()

    async def receive() -> MutableMapping[str, Any]:
        await never.wait()
        return {"type": "http.disconnect"}

    before = nodes()
    world.write("input_message")
    stream = LiveStream(rendering, world.follow(), 200)
    serving = asyncio.create_task(stream({"type": "http"}, receive, send))
    await asyncio.wait_for(opened.wait(), 10)
    world.speak(PIECE)
    await asyncio.wait_for(stuck.wait(), 10)
    pieces = 4 * MAX_LAG_BYTES // len(PIECE)
    for number in range(1, pieces):
        world.speak(PIECE, number * len(PIECE))
    assert nodes() - before < pieces // 2
    serving.cancel()
    await asyncio.wait([serving])
    assert world.hub._channels[SESSION].places == set()
