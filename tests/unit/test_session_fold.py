from sessile.domain.session import SessionState, fold
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ClientToolPendingEvent,
    Event,
    InputMessageEvent,
    TextPart,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnError,
    TurnStartedRecord,
)
from sessile.wire.sessions import Usage

USED = Usage(10, 2, 5, 1, 1)


def log(*events: AnyEvent, turn: str = "trn_1", after: int = 0) -> list[AnyEvent]:
    """Events with the envelope a store gives them."""
    for sequence, event in enumerate(events, after + 1):
        assert isinstance(event, Event)
        event.id, event.sequence, event.turn_id = f"aev_{sequence:04}", sequence, turn
    return list(events)


def said() -> InputMessageEvent:
    return InputMessageEvent(messages=[TextPart("Hello")], content="Hello")


def started() -> TurnStartedRecord:
    return TurnStartedRecord(input_event_id="aev_0001")


def ended(stop_reason: str = "end_turn") -> TurnEndedRecord:
    error = TurnError("model_timeout", "Slow.") if stop_reason == "error" else None
    return TurnEndedRecord(stop_reason=stop_reason, error=error, usage=USED)  # type: ignore[arg-type]


def answered() -> AgentOutputEvent:
    return AgentOutputEvent(content="Hi.", output_id="out_1")


def called(call_id: str) -> ToolInputEvent:
    return ToolInputEvent(tool_call_id=call_id, tool_configuration_name="t", tool_name="t", tool_input={})


def returned(call_id: str) -> ToolOutputEvent:
    return ToolOutputEvent(
        tool_call_id=call_id, tool_configuration_name="t", tool_name="t", tool_output={}, error=False
    )


def test_an_empty_log_is_an_unstarted_session() -> None:
    assert fold([]) == SessionState()
    assert SessionState().status == "unstarted"


def test_a_started_turn_runs() -> None:
    state = fold(log(said(), started()))
    assert (state.status, state.running_turn, state.stop_reason) == ("running", "trn_1", None)


def test_an_ended_turn_stops_with_its_reason_and_usage() -> None:
    state = fold(log(said(), started(), answered(), ended("error")))
    assert (state.status, state.running_turn, state.stop_reason) == ("stopped", None, "error")
    assert state.usage == USED


def test_a_new_turn_forgets_the_last_reason_and_adds_to_the_usage() -> None:
    first = log(said(), started(), ended("limit"))
    second = log(said(), started(), turn="trn_2", after=3)
    state = fold(first + second)
    assert (state.status, state.stop_reason, state.running_turn) == ("running", None, "trn_2")
    state = fold(log(ended(), turn="trn_2", after=5), state)
    assert state.usage == USED + USED


def test_records_move_the_head_and_not_the_last_event() -> None:
    state = fold(log(said(), started(), answered(), ended()))
    assert (state.last_sequence, state.last_event_id) == (4, "aev_0003")


def test_open_tool_calls_are_those_without_an_output_in_log_order() -> None:
    state = fold(log(said(), started(), called("a"), called("b"), called("c"), returned("b")))
    assert list(state.open_tool_calls) == ["a", "c"]
    state = fold(log(returned("c"), returned("unknown"), after=6), state)
    assert list(state.open_tool_calls) == ["a"]


def test_a_turn_that_waits_for_client_tools_has_stopped_and_not_ended() -> None:
    waits = ClientToolPendingEvent(pending_calls=[])
    state = fold(log(said(), started(), called("a"), called("b"), waits))
    assert (state.status, state.stop_reason, state.running_turn) == ("stopped", "requires_action", "trn_1")
    state = fold(log(returned("b"), after=5), state)
    assert (state.status, state.stop_reason) == ("stopped", "requires_action")
    state = fold(log(returned("a"), after=6), state)
    assert (state.status, state.stop_reason, state.running_turn) == ("running", None, "trn_1")
    assert fold(log(ended(), after=7), state).stop_reason == "end_turn"


def test_folding_in_parts_is_folding_at_once() -> None:
    events = log(said(), started(), called("a"), returned("a"), called("b"), answered(), returned("b"), ended())
    whole = fold(events)
    for cut in range(len(events) + 1):
        assert fold(events[cut:], fold(events[:cut])) == whole


def test_two_folds_share_nothing() -> None:
    fold(log(called("a")))
    assert fold([]).open_tool_calls == {}
