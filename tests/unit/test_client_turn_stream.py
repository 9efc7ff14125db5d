"""A streamed turn: its frames, its end, and the ways in which it can go wrong."""

import asyncio
import gc
import json
from typing import Any

import pytest

from sessile.client.errors import ConnectionLost, RequestTimedOut, StreamBroken
from sessile.client.events import AsyncEvents, event_type
from sessile.client.turn_stream import AsyncTurnStream
from sessile.client.unknown import UnknownEvent
from sessile.wire.errors import SessionRunning
from sessile.wire.events import StreamEnd, StreamingAgentOutput, StreamingAgentOutputEnd, TurnError
from unit.client_script import EVENTS, Reply, Script, caller, refusal


def frame(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def said(content: str) -> bytes:
    return frame("streaming_agent_output", content=content, output_id="out_1", offset=0, turn_id="trn_1", created_at="")


END = frame("end", status="stopped", stop_reason="end_turn")
TALK = [
    said("Hel"),
    said("lo."),
    frame("streaming_agent_output_end", output_id="out_1", turn_id="trn_1", created_at=""),
]


def streamed(*chunks: bytes | Exception) -> tuple[AsyncTurnStream, Reply, Script]:
    reply = Reply(201, headers=EVENTS, chunks=chunks)
    script = Script(reply)
    return AsyncEvents(caller(script)).stream("a", "s", "Hello"), reply, script


async def test_frames_and_the_state_of_the_turn() -> None:
    turn, reply, script = streamed(b"".join(TALK)[:50], b"".join(TALK)[50:] + b": heartbeat\n", END)
    assert (turn.turn_id, turn.status) == ("", "running")
    assert script.requests == []
    async with turn:
        assert (turn.turn_id, turn.event_id) == ("trn_1", "aev_1")
        frames = [frame async for frame in turn]
    kinds = [StreamingAgentOutput, StreamingAgentOutput, StreamingAgentOutputEnd, StreamEnd]
    assert [type(frame) for frame in frames] == kinds
    assert event_type(frames[0]) == "streaming_agent_output"
    assert (turn.status, turn.stop_reason, turn.error, turn.reason) == ("stopped", "end_turn", None, None)
    assert reply.closed == 1
    assert len(script.requests) == 1


async def test_text_alone_without_entering() -> None:
    turn, reply, script = streamed(*TALK, END)
    assert [text async for text in turn.text()] == ["Hel", "lo."]
    assert [frame async for frame in turn] == []
    assert (turn.stop_reason, reply.closed, len(script.requests)) == ("end_turn", 1, 1)


async def test_a_turn_that_ends_badly_does_not_raise() -> None:
    error = frame("error", messages=["No money", "left."], code="model_rate_limited")
    turn, _, _ = streamed(*TALK, error, frame("end", status="stopped", stop_reason="error"))
    async for _frame in turn:
        pass
    assert turn.stop_reason == "error"
    assert turn.error == TurnError("model_rate_limited", "No money left.")


async def test_a_time_limit_leaves_the_turn_running() -> None:
    turn, _, _ = streamed(*TALK, frame("end", status="running"))
    assert "".join([text async for text in turn.text()]) == "Hello."
    assert (turn.status, turn.stop_reason) == ("running", None)


async def test_a_session_that_is_deleted_meanwhile() -> None:
    turn, _, _ = streamed(*TALK, frame("end", status="stopped", reason="deleted"))
    assert "".join([text async for text in turn.text()]) == "Hello."
    assert (turn.status, turn.stop_reason, turn.reason) == ("stopped", None, "deleted")


async def test_what_a_newer_server_sends() -> None:
    newer = frame("agent_mood", mood="good", id="aev_9", sequence=9)
    changed = frame("tool_output", tool_output="not an object any more", id=7)
    turn, _, _ = streamed(newer, changed, b"event: ping\ndata: [1]\n\n", END)
    mood, output, ping, end = [frame async for frame in turn]
    assert mood == UnknownEvent(
        type="agent_mood",
        id="aev_9",
        sequence=9,
        data={"type": "agent_mood", "mood": "good", "id": "aev_9", "sequence": 9},
    )
    assert isinstance(output, UnknownEvent)
    assert (output.type, output.id, output.data["tool_output"]) == ("tool_output", "", "not an object any more")
    assert ping == UnknownEvent(type="ping", data={"value": [1]})
    assert isinstance(end, StreamEnd)
    assert [event_type(frame) for frame in (mood, output, ping, end)] == ["agent_mood", "tool_output", "ping", "end"]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ((), "ended early"),
        ((END[:-1],), "ended early"),
        ((ConnectionLost(),), "connection was lost"),
        ((RequestTimedOut(),), "silent for too long"),
        ((b"data: {\n\n",), "cannot be read"),
        ((b'data: {"type":"end","status":"\xff"}\n\n',), "cannot be read"),
    ],
)
async def test_a_stream_that_breaks_off(rest: tuple[bytes | Exception, ...], words: str) -> None:
    turn, reply, _ = streamed(*TALK, *rest)
    texts = []
    with pytest.raises(StreamBroken, match=words) as caught:  # noqa: PT012 - what came before must have been given
        async for text in turn.text():
            texts.append(text)
    assert texts == ["Hel", "lo."]
    assert (caught.value.turn_id, caught.value.event_id) == ("trn_1", "aev_1")
    assert (turn.status, reply.closed) == ("running", 1)
    assert [frame async for frame in turn] == []


async def test_a_refused_input_raises_what_send_raises() -> None:
    script = Script(refusal(409, "session_running", id="trn_0"))
    with pytest.raises(SessionRunning) as caught:
        async with AsyncEvents(caller(script)).stream("a", "s", "Hello"):
            pass
    assert caught.value.id == "trn_0"


async def test_leaving_half_way_closes() -> None:
    turn, reply, _ = streamed(*TALK, END)
    async with turn:
        assert isinstance(await anext(turn), StreamingAgentOutput)
        assert reply.closed == 0
    assert reply.closed == 1
    await turn.close()
    assert reply.closed == 1


async def test_a_stream_that_is_forgotten_is_closed() -> None:
    turn, reply, _ = streamed(*TALK, END)
    async for _frame in turn:
        break
    del turn
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reply.closed == 1


async def test_a_body_that_does_not_end_after_the_last_frame_is_not_waited_for() -> None:
    class Endless(Reply):
        async def chunks(self) -> Any:
            yield END
            await asyncio.Event().wait()

    reply = Endless(201, headers=EVENTS)
    turn = AsyncEvents(caller(Script(reply))).stream("a", "s", "Hello")
    async with asyncio.timeout(30):
        assert [type(frame) async for frame in turn] == [StreamEnd]
    assert reply.closed == 1


async def test_parts() -> None:
    script = Script(Reply(201, headers=EVENTS, chunks=[END]))
    parts: Any = [{"type": "text", "content": "Hello"}, {"type": "skill", "skill_name": "greet"}]
    async with AsyncEvents(caller(script)).stream("a", "s", parts):
        pass
    assert json.loads(script.requests[0].body or b"") == {"messages": parts, "stream_response": True}
