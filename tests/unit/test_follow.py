"""What a stream that follows a session shows of the nodes that a tail brings."""

from typing import Any

import msgspec
import pytest

from sessile.api.follow import Following
from sessile.domain.log import Entry, draft
from sessile.live.channel import Node
from sessile.wire.events import (
    AgentOutputEvent,
    Event,
    SessionState,
    StreamingAgentOutput,
    StreamingThinking,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Usage

STATE = SessionState(status="running", stop_reason=None, turn_id="trn_1", last_event_id="aev_1")


def node(sequence: int, event: Event, hidden: bool = False) -> Node:
    made = draft(event)
    return Node(Entry(f"aev_{sequence}", "s", sequence, "trn_1", made.type, 0, hidden, made.body), None, 0)


def output(sequence: int, text: str, output_id: str = "out_1", hidden: bool = False) -> Node:
    return node(sequence, AgentOutputEvent(content=text, output_id=output_id), hidden)


def ended(sequence: int) -> Node:
    return node(sequence, TurnEndedRecord(stop_reason="end_turn", error=None, usage=Usage()))


def started(sequence: int, hidden: bool = False) -> Node:
    return node(sequence, TurnStartedRecord(input_event_id="aev_1"), hidden)


def delta(text: str, offset: int = 0, output_id: str = "out_1", snapshot: bool = False) -> Node:
    frame = StreamingAgentOutput(
        content=text, output_id=output_id, offset=offset, turn_id="trn_1", created_at="", snapshot=snapshot
    )
    return Node(None, frame, 0)


def following(**options: Any) -> Following:
    return Following("start", STATE, **{"deltas": True, "include_hidden": False, **options})


def told(rendered: bytes) -> list[str]:
    """Blocks in short: an id and a type, the text of a delta, what became of an output."""
    found = []
    for block in rendered.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        data = msgspec.json.decode(lines["data"])
        if lines["event"] == "streaming_agent_output":
            assert "id" not in lines
            found.append(("|" if data.get("snapshot") else "") + f"{data['offset']}:{data['content']}")
        elif lines["event"] == "streaming_agent_output_end":
            found.append(f"{data['output_id']} {data.get('event_id', 'void')}")
        else:
            found.append(" ".join(filter(None, (lines.get("id"), lines["event"]))))
    return found


def test_the_opening_is_a_position_that_dispatches_nothing_and_the_state() -> None:
    position, _, state = following().opening().partition(b"\n\n")
    assert position == b"id: start"
    assert state.startswith(b"event: session_state\ndata: {")


def test_an_output_that_was_shown_gets_its_rest_and_its_end_before_its_event() -> None:
    stream = following()
    rendered = stream.render([delta("Hello ", snapshot=True), delta("you", 6), output(3, "Hello you all"), ended(4)])
    assert told(rendered) == [
        *("|0:Hello ", "6:you", "9: all", "out_1 aev_3", "aev_3 agent_output", "aev_4 turn_ended"),
    ]


def test_a_second_snapshot_is_cut_to_what_is_new() -> None:
    rendered = following().render([delta("Hel"), delta("Hello", snapshot=True), delta("lo", 3), output(3, "Hello")])
    assert told(rendered) == ["0:Hel", "3:lo", "out_1 aev_3", "aev_3 agent_output"]


def test_an_output_of_which_nothing_was_shown_comes_alone_and_no_delta_of_it_after() -> None:
    assert told(following().render([output(3, "Hello"), delta("Hello", snapshot=True)])) == ["aev_3 agent_output"]


@pytest.mark.parametrize(
    ("then", "shown"),
    [
        (ended(3), ["out_1 void", "aev_3 turn_ended"]),
        (delta("New", output_id="out_2"), ["out_1 void", "0:New"]),
    ],
)
def test_an_output_without_an_event_is_void(then: Node, shown: list[str]) -> None:
    assert told(following().render([delta("Old"), then])) == ["0:Old", *shown]


def test_without_deltas_only_what_is_durable() -> None:
    thinking = StreamingThinking(content="Hm", output_id="out_1", offset=0, turn_id="trn_1", created_at="")
    nodes = [delta("Hello"), Node(None, thinking, 0), output(3, "Hello"), ended(4)]
    assert told(following(deltas=False).render(nodes)) == ["aev_3 agent_output", "aev_4 turn_ended"]


def test_hidden_events_are_shown_on_demand_only() -> None:
    nodes = [started(2), output(3, "Hello", hidden=True), ended(4)]
    assert told(following().render(nodes)) == ["aev_2 turn_started", "aev_4 turn_ended"]
    assert told(following(include_hidden=True).render(nodes))[1] == "aev_3 agent_output"


def test_a_frame_is_encoded_once_for_all_followers() -> None:
    live, durable = delta("Hello"), started(2)
    for stream in (following(), following()):
        stream.render([live, durable])
    assert live.sse is live.sse
    assert durable.sse_with_id is durable.sse_with_id
