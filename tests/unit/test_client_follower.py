"""A followed session: each event once and every delta in its place, over any number of connections."""

import json
from typing import Any

import pytest

from sessile.client.errors import ConnectionLost, ServerUnreachable, UnexpectedAnswer
from sessile.client.events import AsyncEvents
from sessile.client.follower import LONGEST_WAIT_SECONDS, AsyncFollower
from sessile.client.unknown import UnknownEvent
from sessile.wire.errors import Forbidden, NotFound, SessileError, UnknownCursor
from unit.client_script import EVENTS, Reply, Script, Waits, caller, refusal

USAGE = {name: 0 for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "model_calls")}


def frame(kind: str, place: str = "", **fields: Any) -> bytes:
    return (f"id: {place}\n" if place else "").encode() + f"event: {kind}\n".encode() + data(kind, **fields)


def data(kind: str, **fields: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


def said(content: str, offset: int = 0, output_id: str = "out_1", kind: str = "output", **more: Any) -> bytes:
    type = f"streaming_{'agent_output' if kind == 'output' else kind}"
    return frame(type, content=content, output_id=output_id, offset=offset, turn_id="trn_1", created_at="", **more)


def event(sequence: int, kind: str, **fields: Any) -> bytes:
    id = f"aev_{sequence}"
    envelope = {"id": id, "session_key": "s", "created_at": "t", "sequence": sequence, "turn_id": "trn_1"}
    return frame(kind, id, **envelope, **fields)


def output(sequence: int, content: str, output_id: str = "out_1") -> bytes:
    return event(sequence, "agent_output", content=content, output_id=output_id)


def ended(sequence: int) -> bytes:
    return event(sequence, "turn_ended", stop_reason="end_turn", error=None, usage=USAGE)


def finished(output_id: str = "out_1") -> bytes:
    return frame("streaming_agent_output_end", output_id=output_id, turn_id="trn_1", created_at="", event_id="aev_9")


START = b"id: start\n\n"
STARTED = event(2, "turn_started", input_event_id="aev_1")
DELETED, DRAIN = frame("end", reason="deleted"), frame("end", reason="drain")


def stream(*chunks: bytes | Exception) -> Reply:
    return Reply(200, headers=EVENTS, chunks=[START, *chunks])


class World:
    """A follower over a script, with what it told of its connection."""

    def __init__(self, *answers: Reply | Exception, **options: Any) -> None:
        self.script, self.waits = Script(*answers), Waits()
        self.told: list[str] = []
        self.follower: AsyncFollower = AsyncEvents(caller(self.script, self.waits)).follow(
            "a", "s", on_lost=self._lost, on_found=lambda: self.told.append("found"), **options
        )

    def _lost(self, error: SessileError) -> None:
        self.told.append(type(error).__name__)

    async def all(self) -> list[str]:
        """Everything up to the end, in short."""
        return [short(item) async for item in self.follower]

    @property
    def places(self) -> list[str | None]:
        """Where each connection but the first started."""
        return [request.headers.get("last-event-id") for request in self.script.requests[1:]]


def short(item: Any) -> str:
    """A delta as its offset and text, an event as its sequence, an end as what became of the output."""
    kind = type(item).__name__
    if kind in ("StreamingAgentOutput", "StreamingThinking"):
        return f"{item.offset}:{item.content}"
    if kind == "StreamingAgentOutputEnd":
        return f"{item.output_id} {'ended' if item.event_id else 'void'}"
    return str(getattr(item, "sequence", 0) or kind)


async def test_it_asks_for_a_stream_and_ends_with_the_session() -> None:
    world = World(stream(STARTED, ended(3), DELETED), since="now", deltas=False, include_hidden=True)
    assert await world.all() == ["2", "3", "StreamEnd"]
    (request,) = world.script.requests
    path = "/v2/agents/a/sessions/s/events?deltas=false&include_hidden=true&since=now"
    assert (request.method, request.path, request.headers["accept"]) == ("GET", path, "text/event-stream")
    assert "last-event-id" not in request.headers
    assert (world.follower.reason, world.follower.last_event_id, world.told) == ("deleted", "aev_3", [])
    assert await world.all() == []


async def test_a_lost_connection_goes_on_after_the_last_whole_event() -> None:
    whole = output(3, "Hi.")
    for cut in range(1, len(whole)):
        world = World(stream(STARTED, whole[:cut], ConnectionLost()), stream(STARTED, whole), stream(ended(4), DELETED))
        assert await world.all() == ["2", "3", "4", "StreamEnd"], cut
        assert world.places == ["aev_2", "aev_3"]
        assert world.told == ["ConnectionLost", "found"] * 2


async def test_before_any_event_it_goes_on_from_the_position_of_the_stream() -> None:
    world = World(Reply(200, headers=EVENTS, chunks=[b"id: aev_7\n\n", ConnectionLost()]), stream(DELETED), since="now")
    await world.all()
    assert world.places == ["aev_7"]
    world = World(Reply(200, headers=EVENTS, chunks=[b"id: aev_7\n", ConnectionLost()]), stream(DELETED), since="now")
    await world.all()
    assert world.places == ["now"]


async def test_a_drain_is_a_lost_connection_that_says_so() -> None:
    world = World(stream(STARTED, DRAIN), ServerUnreachable(), refusal(503, "server_draining"), stream(DELETED))
    assert await world.all() == ["2", "StreamEnd"]
    assert world.told == ["ConnectionLost", "found"]
    assert world.waits.seconds == [0.25, 0.5, 1.0]


async def test_the_waits_grow_to_a_bound_and_begin_anew_after_an_event() -> None:
    world = World(stream(), *[ServerUnreachable()] * 8, stream(STARTED), ServerUnreachable(), stream(ended(3), DELETED))
    assert await world.all() == ["2", "3", "StreamEnd"]
    assert world.waits.seconds[:4] == [0.25, 0.5, 1.0, 2.0]
    assert world.waits.seconds[6:9] == [LONGEST_WAIT_SECONDS] * 3
    assert world.waits.seconds[9:] == [0.25, 0.5]


async def test_deltas_join_over_connections() -> None:
    world = World(
        stream(STARTED, said("Hello "), said("you", 6), ConnectionLost()),
        stream(said("Hello you two", snapshot=True), said(".", 13), finished(), output(3, "Hello you two."), DELETED),
    )
    assert await world.all() == ["2", "0:Hello ", "6:you", "9: two", "13:.", "out_1 ended", "3", "StreamEnd"]


async def test_an_output_that_became_durable_meanwhile_gets_its_rest_and_its_end() -> None:
    world = World(stream(said("Hel"), ConnectionLost()), stream(output(3, "Hello."), said("Hello."), DELETED))
    assert await world.all() == ["0:Hel", "3:lo.", "out_1 ended", "3", "StreamEnd"]
    world = World(stream(said("Hello."), ConnectionLost()), stream(output(3, "Hello."), DELETED))
    assert await world.all() == ["0:Hello.", "out_1 ended", "3", "StreamEnd"]


@pytest.mark.parametrize(
    ("after", "shown"),
    [
        ([ended(3)], ["out_1 void", "3"]),
        ([said("New", output_id="out_2")], ["out_1 void", "0:New"]),
        ([output(3, "New", "out_2")], ["out_1 void", "3"]),
    ],
)
async def test_what_a_crash_has_lost_is_taken_back(after: list[bytes], shown: list[str]) -> None:
    world = World(stream(said("Old"), ConnectionLost()), stream(*after, DELETED))
    assert await world.all() == ["0:Old", *shown, "StreamEnd"]


async def test_deltas_that_do_not_join_are_left_out() -> None:
    world = World(
        stream(
            *(said("late", 4), said("Hi"), said("Hi"), said("!", 7), finished("out_7"), said("i there", 1)),
            *(said("gone", 5, kind="thinking"), said("Hm", kind="thinking", output_id="out_2"), DELETED),
        )
    )
    assert await world.all() == ["0:Hi", "2: there", "0:Hm", "StreamEnd"]


async def test_thinking_is_shown_once_too() -> None:
    end = frame("streaming_thinking_end", output_id="out_1", turn_id="trn_1", created_at="")
    thought = event(3, "thinking", content="Hm, so.", output_id="out_1")
    world = World(
        stream(said("Hm, ", kind="thinking"), ConnectionLost()),
        stream(said(".", 6, kind="thinking"), end, thought, said("Hm", kind="thinking"), DELETED),
    )
    assert await world.all() == ["0:Hm, ", "StreamingThinkingEnd", "3", "StreamEnd"]


async def test_an_event_that_comes_twice_is_given_once() -> None:
    strange = event(5, "strange", news=1)
    world = World(stream(STARTED, STARTED, strange, strange, ended(3), DELETED))
    found = [item async for item in world.follower]
    assert [short(item) for item in found] == ["2", "5", "StreamEnd"]
    assert isinstance(found[1], UnknownEvent)
    assert found[1].data["news"] == 1


async def test_what_the_first_connection_is_refused_for_is_raised() -> None:
    for refused, kind in [
        (refusal(404, "not_found"), NotFound),
        (refusal(400, "unknown_cursor"), UnknownCursor),
        (ServerUnreachable(), ServerUnreachable),
    ]:
        world = World(refused)
        with pytest.raises(kind):
            await anext(world.follower)
        with pytest.raises(StopAsyncIteration):
            await anext(world.follower)


async def test_a_session_that_was_deleted_meanwhile_ends_and_other_refusals_are_raised() -> None:
    world = World(stream(STARTED), refusal(404, "not_found"))
    assert await world.all() == ["2", "StreamEnd"]
    assert world.follower.reason == "deleted"
    world = World(stream(STARTED), refusal(403, "forbidden"))
    with pytest.raises(Forbidden):
        await world.all()
    assert world.follower.reason is None


async def test_what_cannot_be_read_is_raised() -> None:
    world = World(stream(b"event: x\ndata: {\n\n"))
    with pytest.raises(UnexpectedAnswer):
        await world.all()


async def test_the_position_is_that_of_what_was_given() -> None:
    world = World(stream(STARTED + said("Hi.") + output(3, "Hi.") + ended(4) + DELETED))
    assert world.follower.last_event_id == "start"
    places = []
    async for _ in world.follower:
        places.append(world.follower.last_event_id)
    assert places == ["aev_2", "aev_2", "aev_2", "aev_3", "aev_4", "aev_4"]


async def test_closing_ends_it() -> None:
    world = World(stream(STARTED, said("Hi.")), stream(DELETED))
    async with world.follower as follower:
        await anext(follower)
        await follower.close()
        assert await world.all() == []
    assert len(world.script.requests) == 1
