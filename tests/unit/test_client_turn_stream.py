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
from sessile.wire.errors import NotFound, SessionRunning
from sessile.wire.events import StreamEnd, StreamingAgentOutput, StreamingAgentOutputEnd, TurnError
from unit.client_script import EVENTS, Reply, Script, Waits, caller, refusal


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


def streamed(*chunks: bytes | Exception, retries: int = 0) -> tuple[AsyncTurnStream, Reply, Script]:
    reply = Reply(201, headers=EVENTS, chunks=chunks)
    script = Script(reply)
    return AsyncEvents(caller(script, retries=retries)).stream("a", "s", "Hello"), reply, script


def broken(*chunks: bytes) -> Reply:
    return Reply(201, headers=EVENTS, chunks=[*chunks, ConnectionLost()])


def joined(*answers: Reply | Exception, waits: Waits | None = None) -> tuple[AsyncTurnStream, Script]:
    script = Script(*answers)
    return AsyncEvents(caller(script, waits)).stream("a", "s", "Hello"), script


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


def piece(content: str, offset: int, output: str = "out_1", kind: str = "streaming_agent_output") -> bytes:
    return frame(kind, content=content, output_id=output, offset=offset, turn_id="trn_1", created_at="")


def entry(kind: str, sequence: int, **fields: Any) -> bytes:
    place = {"id": f"aev_{sequence}", "session_key": "s", "created_at": "", "sequence": sequence, "turn_id": "trn_1"}
    return frame(kind, **place, **fields)


INPUT = entry("input_message", 1, messages=[], content="Hello")
THOUGHT = entry("thinking", 3, content="Hm.", output_id="out_1")
ENDED = frame("streaming_agent_output_end", output_id="out_1", turn_id="trn_1", created_at="", event_id="aev_4")
SECOND = [piece("One ", 0, "out_2"), piece("two.", 4, "out_2")]


async def test_a_stream_that_joins_again_shows_nothing_twice() -> None:
    first = broken(INPUT, piece("Hm.", 0, kind="streaming_thinking"), THOUGHT, piece("Hel", 0), piece("lo.", 3))
    second = broken(INPUT, THOUGHT, piece("Hello.", 0), ENDED, piece("One", 0, "out_2"))
    third = Reply(201, headers=EVENTS, chunks=[INPUT, THOUGHT, piece("Hello.", 0), ENDED, *SECOND, END])
    waits = Waits()
    turn, script = joined(first, second, third, waits=waits)
    frames = [frame async for frame in turn]
    assert [event_type(frame) for frame in frames] == [
        "input_message",
        "streaming_thinking",
        "thinking",
        "streaming_agent_output",
        "streaming_agent_output",
        "streaming_agent_output_end",
        "streaming_agent_output",
        "streaming_agent_output",
        "streaming_agent_output",
        "end",
    ]
    deltas = [(f.output_id, f.offset, f.content) for f in frames if isinstance(f, StreamingAgentOutput)]
    assert deltas[2:] == [("out_2", 0, "One"), ("out_2", 3, " "), ("out_2", 4, "two.")]
    assert "".join(content for _, _, content in deltas) == "Hello.One two."
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
    assert len({request.body for request in script.requests}) == 1
    assert waits.seconds == [0.25, 0.25], "what is new starts the count again"
    assert (first.closed, second.closed, third.closed) == (1, 1, 1)


@pytest.mark.parametrize("cut", range(9))
async def test_wherever_it_breaks_the_text_is_whole(cut: int) -> None:
    whole = [INPUT, piece("Hel", 0), piece("lo.", 3), ENDED, *SECOND]
    error = frame("error", messages=["No."], code="model_rejected")
    whole += [entry("tool_input", 5, tool_call_id="c", tool_configuration_name="t", tool_name="t", tool_input={})]
    whole += [error, frame("end", status="stopped", stop_reason="error")]
    late = [INPUT, piece("Hello.", 0), ENDED, piece("One two.", 0, "out_2"), *whole[-3:]]
    turn, _ = joined(broken(*whole[:cut]), Reply(201, headers=EVENTS, chunks=late))
    frames = [frame async for frame in turn]
    kinds = [event_type(frame) for frame in frames]
    assert "".join(f.content for f in frames if isinstance(f, StreamingAgentOutput)) == "Hello.One two."
    for kind in ("input_message", "streaming_agent_output_end", "tool_input", "error", "end"):
        assert kinds.count(kind) == 1, kind
    assert (turn.status, turn.stop_reason) == ("stopped", "error")


async def test_a_stream_that_breaks_off_again_and_again_is_told() -> None:
    waits = Waits()
    turn, script = joined(broken(INPUT, piece("Hel", 0)), waits=waits)
    texts = []
    with pytest.raises(StreamBroken, match="connection was lost") as caught:  # noqa: PT012 - what came is looked at
        async for text in turn.text():
            texts.append(text)
    assert texts == ["Hel"]
    assert isinstance(caught.value.__cause__, ConnectionLost)
    assert len(script.requests) == 3
    assert waits.seconds == [0.25, 0.5]
    assert [frame async for frame in turn] == []


async def test_joining_again_may_be_refused() -> None:
    turn, script = joined(broken(INPUT), refusal(404, "not_found"))
    with pytest.raises(StreamBroken) as caught:
        _ = [frame async for frame in turn]
    assert isinstance(caught.value.__cause__, NotFound)
    assert len(script.requests) == 2


async def test_another_turn_is_not_taken_for_this_one() -> None:
    other = Reply(201, headers={**EVENTS, "x-turn-id": "trn_2"}, chunks=[INPUT, END])
    turn, _ = joined(broken(INPUT), other)
    with pytest.raises(StreamBroken):
        _ = [frame async for frame in turn]
    assert other.closed == 1


async def test_joining_again_can_be_given_up_and_taken_up_again() -> None:
    waiting = asyncio.Event()

    class Slow(Waits):
        async def __call__(self, seconds: float) -> None:
            await super().__call__(seconds)
            if len(self.seconds) == 1:
                waiting.set()
                await asyncio.Event().wait()

    waits = Slow()
    turn, script = joined(broken(INPUT), Reply(201, headers=EVENTS, chunks=[INPUT, END]), waits=waits)
    assert event_type(await anext(turn)) == "input_message"
    task = asyncio.ensure_future(anext(turn))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event_type(frame) async for frame in turn] == ["end"]
    assert len(script.requests) == 2
    await turn.close()


async def test_a_stream_that_was_left_while_broken_stays_left() -> None:
    turn, script = joined(broken(INPUT))
    async with turn:
        assert event_type(await anext(turn)) == "input_message"
        turn._broken_by = StreamBroken()
    assert [frame async for frame in turn] == []
    assert len(script.requests) == 1


DRAIN = frame("end", status="running", reason="drain")


async def test_the_stream_of_a_server_that_stops_goes_on_at_the_next_one() -> None:
    waits = Waits()
    first = Reply(201, headers=EVENTS, chunks=[INPUT + piece("Lost ", 0) + DRAIN])
    turn, script = joined(first, Reply(201, headers=EVENTS, chunks=[INPUT, *SECOND, END]), waits=waits)
    frames = [frame async for frame in turn]
    assert [f.output_id for f in frames if isinstance(f, StreamingAgentOutput)] == ["out_1", "out_2", "out_2"]
    assert [event_type(frame) for frame in frames][-1] == "end"
    assert (turn.status, turn.reason, waits.seconds) == ("stopped", None, [0.25])
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1


async def test_a_server_that_only_stops_is_not_asked_for_ever() -> None:
    turn, script = joined(Reply(201, headers=EVENTS, chunks=[INPUT, DRAIN]))
    with pytest.raises(StreamBroken, match="the server stopped"):
        _ = [frame async for frame in turn]
    assert turn.status == "running"
    assert len(script.requests) == 3


def whole(status: str, stop_reason: str | None) -> Reply:
    body = {"events": [], "session_key": "s", "turn_id": "trn_1", "status": status, "stop_reason": stop_reason}
    return Reply(201, {**body, "error": None})


async def test_a_whole_answer_of_a_server_that_stops_is_asked_for_again() -> None:
    waits = Waits()
    script = Script(whole("running", None), refusal(503, "server_draining"), whole("stopped", "end_turn"))
    answer = await AsyncEvents(caller(script, waits)).send("a", "s", "Hello")
    assert (answer.status, answer.stop_reason) == ("stopped", "end_turn")
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
    script = Script(whole("running", None))
    assert (await AsyncEvents(caller(script)).send("a", "s", "Hello")).status == "running"
    assert len(script.requests) == 3
    script = Script(whole("running", None))
    assert (await AsyncEvents(caller(script)).send("a", "s", "Hello", timeout=1)).status == "running"
    assert (await AsyncEvents(caller(script)).interrupt("a", "s")).status == "running"
    assert len(script.requests) == 2
    script = Script(whole("running", None), refusal(404, "not_found"))
    assert (await AsyncEvents(caller(script)).send("a", "s", "Hello")).status == "running"
