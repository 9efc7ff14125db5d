"""What a stream shows of the nodes that a tail brings."""

import msgspec

from sessile.api.turn_answer import TurnAnswer
from sessile.domain.log import Entry, draft
from sessile.live.channel import Node
from sessile.rows import AgentRow, Claim, Fence, SessionRow
from sessile.wire.events import (
    AgentOutputEvent,
    ClientToolPendingEvent,
    Event,
    InputMessageEvent,
    StreamingAgentOutput,
    TextPart,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Usage

OURS, THEIRS = "trn_1", "trn_2"


def entry(sequence: int, event: Event, turn_id: str = OURS) -> Entry:
    made = draft(event)
    return Entry(f"aev_{sequence}", "s", sequence, turn_id, made.type, 0, False, made.body)


def ended(sequence: int, turn_id: str = OURS) -> Node:
    return Node(entry(sequence, TurnEndedRecord(stop_reason="end_turn", error=None, usage=Usage()), turn_id), None, 0)


def output(sequence: int, text: str) -> Node:
    return Node(entry(sequence, AgentOutputEvent(content=text, output_id="out_1")), None, 0)


def delta(text: str, offset: int = 0, turn_id: str = OURS, snapshot: bool = False) -> Node:
    frame = StreamingAgentOutput(
        content=text, output_id="out_1", offset=offset, turn_id=turn_id, created_at="", snapshot=snapshot
    )
    return Node(None, frame, 0)


def stream() -> TurnAnswer:
    agent = AgentRow(id=1, tenant_id=1, key="a", enabled=True, version=1, document=b"{}", created_at=0, updated_at=0)
    session = SessionRow(
        id=1,
        tenant_id=1,
        agent_id=1,
        agent_key="a",
        key="s",
        name="s",
        description=None,
        metadata=b"{}",
        enabled=True,
        tti_minutes=0,
        version=1,
        status="unstarted",
        stop_reason=None,
        last_sequence=0,
        last_event_id=None,
        usage=b"{}",
        context_usage=None,
        created_at=0,
        updated_at=0,
    )
    opened = [entry(1, TurnStartedRecord(input_event_id="aev_1"))]
    return TurnAnswer(Claim(agent=agent, session=session, turn_id=OURS, fence=Fence(1, 1, 1), opened=opened))


def types(rendered: bytes) -> list[str]:
    return [line[7:] for line in rendered.decode().split("\n") if line.startswith("event: ")]


def text(rendered: bytes) -> str:
    lines = [line[6:] for line in rendered.decode().split("\n") if line.startswith("data: ")]
    frames = [msgspec.json.decode(line) for line in lines]
    return "".join(frame["content"] for frame in frames if frame["type"] == "streaming_agent_output")


def test_nothing_follows_the_end() -> None:
    made = stream()
    rendered = made.render([ended(2), delta("late"), output(3, "late"), ended(4)])
    assert types(rendered) == ["end"]


def test_what_the_stream_opens_with_is_not_shown_again() -> None:
    said = InputMessageEvent(messages=[TextPart(content="Hello")], content="Hello")
    assert stream().render([Node(entry(1, said), None, 0)]) == b""


def test_frames_of_another_turn_are_not_shown() -> None:
    assert stream().render([delta("theirs", turn_id=THEIRS)]) == b""


def test_deltas_and_a_snapshot_make_the_durable_text_once() -> None:
    made = stream()
    rendered = made.render([delta("Hel"), delta("Hello", snapshot=True), delta("lo", 3), output(2, "Hello you")])
    assert text(rendered) == "Hello you"
    assert types(rendered)[-1] == "streaming_agent_output_end"


def test_deltas_that_come_after_their_output_are_dropped() -> None:
    made = stream()
    made.render([output(2, "Hello")])
    assert made.render([delta("Hello")]) == b""


def test_a_turn_that_waits_for_client_tools_ends_its_answer() -> None:
    made = stream()
    waits = Node(entry(2, ClientToolPendingEvent(pending_calls=[])), None, 0)
    rendered = made.render([waits, output(3, "of those who answered")])
    assert types(rendered) == ["client_tool_pending", "end"]
    assert b'"stop_reason":"requires_action"' in rendered
    assert made.ended


def test_a_server_that_stops_leaves_the_turn_running_and_a_deleted_session_does_not() -> None:
    assert b'"status":"running","reason":"drain"' in stream().closed("drain")
    assert b'"status":"stopped","reason":"deleted"' in stream().closed("deleted")
