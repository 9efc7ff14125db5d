from typing import Any

import pytest

from sessile.domain.context import chars
from sessile.domain.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from sessile.testing.conversation import build
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    InputMessageEvent,
    SessionInterruptedEvent,
    SkillPart,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Usage

MANY = 1_000_000
UNKNOWN = '{"error":"The outcome of this call is unknown.","code":"tool_outcome_unknown"}'


def said(text: str, **envelope: Any) -> InputMessageEvent:
    return InputMessageEvent(messages=[TextPart(text)], content=text, **envelope)


def answered(text: str, output_id: str = "o1", **envelope: Any) -> AgentOutputEvent:
    return AgentOutputEvent(content=text, output_id=output_id, **envelope)


def called(id: str, **envelope: Any) -> ToolInputEvent:
    return ToolInputEvent(
        tool_call_id=id, tool_configuration_name="plus", tool_name="add", tool_input={"a": 1}, **envelope
    )


def returned(id: str, **envelope: Any) -> ToolOutputEvent:
    return ToolOutputEvent(
        tool_call_id=id,
        tool_configuration_name="plus",
        tool_name="add",
        tool_output={"result": id},
        error=False,
        **envelope,
    )


def ended() -> TurnEndedRecord:
    return TurnEndedRecord(stop_reason="interrupted", error=None, usage=Usage())


def call(id: str) -> ToolCall:
    return ToolCall(id, "plus", '{"a":1}')


def result(id: str, of: str | None = None) -> ToolMessage:
    return ToolMessage(id, "plus", f'{{"result":"{of or id}"}}')


def read(*events: AnyEvent) -> list[Message]:
    return build("", events, MANY)


def test_a_conversation_with_tools() -> None:
    events = [
        said("hi", sequence=1),
        TurnStartedRecord(input_event_id="aev_1"),
        ThinkingEvent(content="hm", output_id="o1"),
        answered("Let me see.", "o1"),
        called("c1"),
        called("c2"),
        returned("c2"),
        returned("c1"),
        ThinkingEvent(content="so", output_id="o2"),
        answered("Two.", "o2"),
        TurnEndedRecord(stop_reason="end_turn", error=None, usage=Usage()),
        said("thanks"),
    ]
    assert build("Be brief.", events, MANY) == [
        SystemMessage("Be brief."),
        UserMessage("hi"),
        AssistantMessage("Let me see.", (call("c1"), call("c2"))),
        result("c1"),
        result("c2"),
        AssistantMessage("Two."),
        UserMessage("thanks"),
    ]


def test_input_parts() -> None:
    parts = [TextPart("one"), SkillPart("tidy"), TextPart("two")]
    event = InputMessageEvent(messages=parts, content="one\ntwo")
    assert read(event) == [UserMessage('one\nUse the skill "tidy".\ntwo')]


def test_hidden_events_are_left_out() -> None:
    assert read(said("a", hidden=True), answered("b"), said("c"), answered("d", hidden=True)) == [
        AssistantMessage("b"),
        UserMessage("c"),
    ]


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_hiding_one_half_of_a_call_hides_the_other(first: bool, second: bool) -> None:
    events = [said("q"), called("c1", hidden=first), called("c2"), returned("c1", hidden=second), returned("c2")]
    assert read(*events) == [UserMessage("q"), AssistantMessage("", (call("c2"),)), result("c2")]


def test_a_call_without_output_is_closed_and_an_output_without_call_skipped() -> None:
    assert read(said("q"), returned("c0"), called("c1"), said("r")) == [
        UserMessage("q"),
        AssistantMessage("", (call("c1"),)),
        ToolMessage("c1", "plus", UNKNOWN),
        UserMessage("r"),
    ]


def test_ids_that_a_model_uses_again_are_told_apart() -> None:
    events = [said("q"), called("c"), returned("c"), called("c", sequence=7), returned("c"), called("c", sequence=7)]
    assert read(*events) == [
        UserMessage("q"),
        AssistantMessage("", (call("c"),)),
        result("c"),
        AssistantMessage("", (call("c_7"),)),
        result("c_7", "c"),
        AssistantMessage("", (call("c_7_"),)),
        ToolMessage("c_7_", "plus", UNKNOWN),
    ]


def test_an_output_after_the_next_input_goes_to_its_call() -> None:
    assert read(said("q"), called("c"), said("r"), returned("c"), answered("a")) == [
        UserMessage("q"),
        AssistantMessage("", (call("c"),)),
        result("c"),
        UserMessage("r"),
        AssistantMessage("a"),
    ]


def test_outputs_of_two_attempts_are_two_messages() -> None:
    events = [
        said("q"),
        answered("a", "o1", partial=True),
        ThinkingEvent(content="", output_id="o2"),
        called("c"),
        returned("c"),
        answered("b", "o3"),
        answered("d", "o4"),
    ]
    assert read(*events) == [
        UserMessage("q"),
        AssistantMessage("a"),
        AssistantMessage("", (call("c"),)),
        result("c"),
        AssistantMessage("b"),
        AssistantMessage("d"),
    ]


def test_empty_outputs_are_left_out() -> None:
    assert read(said("q"), answered("")) == [UserMessage("q")]
    assert read() == []
    assert build("x", [], 0) == [SystemMessage("x")]


def test_the_oldest_whole_turns_are_dropped() -> None:
    events = [said("1" * 10), called("c"), returned("c"), said("2" * 10), answered("b" * 10), said("3" * 10)]
    whole = build("s" * 10, events, MANY)
    total = sum(map(chars, whole))
    assert build("s" * 10, events, total) == whole
    assert build("s" * 10, events, total - 1) == [whole[0], *whole[4:]]
    assert build("s" * 10, events, 40) == [whole[0], *whole[4:]]
    assert build("s" * 10, events, 39) == [whole[0], whole[-1]]
    assert build("s" * 10, events, 0) == [whole[0], whole[-1]]


def test_of_an_interrupted_turn_the_model_reads_what_was_kept() -> None:
    log = [said("Go"), answered("Half", partial=True), SessionInterruptedEvent(), ended(), said("Next")]
    assert read(*log) == [UserMessage("Go"), AssistantMessage("Half"), UserMessage("Next")]


def test_an_interrupted_turn_without_a_last_text_gets_a_remark() -> None:
    remark = AssistantMessage("(Interrupted before an answer was given.)")
    nothing = [said("Go"), SessionInterruptedEvent(), ended()]
    assert read(*nothing, said("Next")) == [UserMessage("Go"), remark, UserMessage("Next")]
    closed = [said("Go"), called("c1"), returned("c1"), SessionInterruptedEvent(), ended()]
    messages = read(*closed, said("Next"))
    assert messages[1:] == [AssistantMessage("", (call("c1"),)), result("c1"), remark, UserMessage("Next")]


def test_what_is_hidden_of_an_interrupted_turn_gets_no_remark() -> None:
    assert read(said("Go"), SessionInterruptedEvent(hidden=True), ended()) == [UserMessage("Go")]
    assert read(said("Go", hidden=True), SessionInterruptedEvent(), ended()) == []
    before = [said("One"), answered("Two")]
    assert read(*before, said("Go", hidden=True), SessionInterruptedEvent()) == read(*before)


def test_inputs_that_join_a_turn_stand_where_they_were_read() -> None:
    first, second, third = (said(text, turn_id="t1") for text in ("a", "b", "c"))
    assert read(first, second, called("1"), returned("1"), third, answered("d")) == [
        UserMessage("a\nb"),
        AssistantMessage("", (call("1"),)),
        result("1"),
        UserMessage("c"),
        AssistantMessage("d"),
    ]


def test_a_turn_that_others_have_joined_is_dropped_and_kept_whole() -> None:
    older = [said("x" * 100, turn_id="t1"), ended()]
    last = [said("y" * 100, turn_id="t2"), called("1"), returned("1"), said("z" * 100, turn_id="t2")]
    assert build("", [*older, *last], 10) == read(*last)
