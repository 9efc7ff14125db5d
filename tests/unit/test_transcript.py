"""Each rule of a transcript: a log that holds it passes, and one that breaks it is told where."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import UNSET

from sessile.domain.transcript import TranscriptCheck
from sessile.wire import ids
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ClientToolPendingEvent,
    CompactionEvent,
    Event,
    InputMessageEvent,
    PendingToolCall,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import StopReason, Usage


def said(turn: str = "t1") -> InputMessageEvent:
    return InputMessageEvent(messages=[TextPart(content="Hi")], content="Hi", turn_id=turn)


def started(turn: str = "t1", input_sequence: int = 1) -> TurnStartedRecord:
    return TurnStartedRecord(input_event_id=f"e{input_sequence}", turn_id=turn)


def thought(turn: str = "t1") -> ThinkingEvent:
    return ThinkingEvent(content="Hm", output_id="o", turn_id=turn)


def spoke(turn: str = "t1", partial: bool = False) -> AgentOutputEvent:
    return AgentOutputEvent(content="Hello", output_id="o", turn_id=turn, partial=partial)


def called(call: str = "c1", turn: str = "t1") -> ToolInputEvent:
    return ToolInputEvent(tool_call_id=call, tool_configuration_name="t", tool_name="t", tool_input={}, turn_id=turn)


def answered(call: str = "c1", turn: str = "t1") -> ToolOutputEvent:
    return ToolOutputEvent(
        tool_call_id=call, tool_configuration_name="t", tool_name="t", tool_output={}, error=False, turn_id=turn
    )


def pending(*calls: str, turn: str = "t1") -> ClientToolPendingEvent:
    waiting = [PendingToolCall(call, "t", "t", {}) for call in calls]
    return ClientToolPendingEvent(pending_calls=waiting, turn_id=turn)


def summed_up(through: int) -> CompactionEvent:
    up_to = ids.event_id(through) if through else UNSET
    return CompactionEvent(
        turns_compacted=1,
        events_compacted=2,
        summary_key="k",
        summary_text="Short.",
        up_to_event_id=up_to,
        turn_id="t1",
    )


def ended(turn: str = "t1", stop_reason: StopReason = "end_turn") -> TurnEndedRecord:
    return TurnEndedRecord(stop_reason=stop_reason, error=None, usage=Usage(), turn_id=turn)


def placed(events: list[Event]) -> Iterator[AnyEvent]:
    for number, event in enumerate(events, 1):
        event.id, event.sequence = f"e{number}", event.sequence or number
        yield event  # type: ignore[misc]


def broken(*events: Event) -> list[tuple[str, int]]:
    check = TranscriptCheck()
    found = [violation for event in placed(list(events)) for violation in check.feed(event)]
    found += check.end()
    assert all(violation.event_id == f"e{violation.sequence}" and violation.message for violation in found)
    return [(violation.rule, violation.sequence) for violation in found]


HOLDS: dict[str, list[Event]] = {
    "nothing yet": [],
    "a running turn": [said(), started()],
    "a whole turn": [said(), started(), thought(), spoke(), ended()],
    "tools": [said(), started(), thought(), called("a"), called("b"), answered("b"), answered("a"), spoke(), ended()],
    "text before tools": [said(), started(), spoke(), called(), answered(), thought(), spoke(), ended()],
    "a partial output": [said(), started(), spoke(partial=True), ended(stop_reason="error")],
    "two turns with the same call id": [
        *[said(), started(), called(), answered(), ended()],
        *[said("t2"), started("t2", 6), called(turn="t2"), answered(turn="t2"), ended("t2")],
    ],
    "inputs that join a turn": [said(), started(), said(), called(), answered(), said(), spoke(), ended()],
    "a parked turn": [said(), started(), called(), pending("e3")],
    "a summary": [said(), started(), summed_up(1), spoke(), ended()],
    "a summary that was deleted": [said(), started(), summed_up(0), spoke(), ended()],
    "answered in parts": [
        *[said(), started(), called("a"), called("b"), called("c"), answered("b"), pending("e3", "e5")],
        *[answered("c"), pending("e3"), answered("a"), thought(), spoke(), ended()],
    ],
}

BREAKS: dict[str, tuple[list[Event], list[tuple[str, int]]]] = {
    "turn_without_input": ([started("t1", 9)], [("turn_without_input", 1)]),
    "an input taken twice": (
        [said(), started(), ended(), started("t2", 1)],
        [("turn_without_input", 4)],
    ),
    "input_without_turn": ([said()], [("input_without_turn", 1)]),
    "turns_overlap": ([said(), started(), started("t2", 1)], [("turns_overlap", 3), ("turn_without_input", 3)]),
    "an input of the next turn too early": (
        [said(), started(), said("t2"), ended(), started("t2", 3), ended("t2")],
        [("outside_turn", 3)],
    ),
    "an input that joins a turn and is taken by another": (
        [said(), started(), said(), ended(), started("t2", 3)],
        [("turn_without_input", 5)],
    ),
    "outside_turn": ([said(), started(), spoke("t9")], [("outside_turn", 3)]),
    "after its end": ([said(), started(), ended(), spoke()], [("outside_turn", 4)]),
    "ended twice": ([said(), started(), ended(), ended()], [("outside_turn", 4)]),
    "call_doubled": ([said(), started(), called(), answered(), called()], [("call_doubled", 5)]),
    "output_without_call": ([said(), started(), answered()], [("output_without_call", 3)]),
    "answered twice": ([said(), started(), called(), answered(), answered()], [("output_without_call", 5)]),
    "call_open_at_model_call": (
        [said(), started(), called("a"), called("b"), answered("a"), thought()],
        [("call_open_at_model_call", 6)],
    ),
    "call_open_at_end": ([said(), started(), called(), ended()], [("call_open_at_end", 4)]),
    "pending_mismatch": ([said(), started(), called("a"), called("b"), pending("e3")], [("pending_mismatch", 5)]),
    "pending without a call": ([said(), started(), pending()], [("pending_mismatch", 3)]),
    "called again while it waits": (
        [said(), started(), called(), pending("e3"), thought()],
        [("call_open_at_model_call", 5)],
    ),
    "second_final_output": ([said(), started(), spoke(), spoke()], [("second_final_output", 4)]),
    "summary_misplaced": ([said(), started(), summed_up(3), spoke(), ended()], [("summary_misplaced", 3)]),
}


@pytest.mark.parametrize("name", HOLDS)
def test_a_log_that_holds_the_rules(name: str) -> None:
    assert broken(*HOLDS[name]) == []


@pytest.mark.parametrize("name", BREAKS)
def test_a_log_that_breaks_one(name: str) -> None:
    events, expected = BREAKS[name]
    assert broken(*events) == expected


def test_a_gap() -> None:
    first, second = said(), started()
    second.sequence = 3
    check = TranscriptCheck()
    first.id, first.sequence, second.id = "e1", 1, "e3"
    assert not list(check.feed(first))
    assert [(found.rule, found.sequence) for found in check.feed(second)] == [("sequence_gap", 3)]


def test_the_protocol_lists_every_rule() -> None:
    page = (Path(__file__).parents[2] / "PROTOCOL.md").read_text(encoding="utf-8")
    table = page.split("| Rule | What is broken |")[1].split("\n\n")[0]
    known = {rule for _, expected in BREAKS.values() for rule, _ in expected} | {"sequence_gap", "stale_session"}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == known
