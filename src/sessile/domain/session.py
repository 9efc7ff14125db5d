"""Folds the events of a log into the state of its session. Pure: the log is the truth, and this is how it is read."""

from collections.abc import Iterable

from msgspec import Struct, field

from sessile.wire.events import (
    RECORD_TYPES,
    AnyEvent,
    ClientToolPendingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Status, StopReason, Usage


class SessionState(Struct):
    """What follows from the log alone."""

    status: Status = "unstarted"
    stop_reason: StopReason | None = None
    running_turn: str | None = None
    """The turn that runs, or waits for client tools."""
    last_sequence: int = 0
    last_event_id: str | None = None
    open_tool_calls: dict[str, ToolInputEvent] = field(default_factory=dict)
    """Calls without an output, by tool call id, in log order."""
    usage: Usage = field(default_factory=Usage)


def fold(events: Iterable[AnyEvent], state: SessionState | None = None) -> SessionState:
    """The state after `events`, which are in log order and go on where `state` stopped."""
    state = state or SessionState()
    for event in events:
        state.last_sequence = event.sequence
        if event.__struct_config__.tag not in RECORD_TYPES:
            state.last_event_id = event.id
        match event:
            case TurnStartedRecord():
                state.status, state.stop_reason, state.running_turn = "running", None, event.turn_id
            case TurnEndedRecord():
                state.status, state.stop_reason, state.running_turn = "stopped", event.stop_reason, None
                state.usage += event.usage
            case ToolInputEvent():
                state.open_tool_calls[event.tool_call_id] = event
            case ToolOutputEvent():
                state.open_tool_calls.pop(event.tool_call_id, None)
                if state.stop_reason == "requires_action" and not state.open_tool_calls:
                    state.status, state.stop_reason = "running", None
            case ClientToolPendingEvent():
                state.status, state.stop_reason = "stopped", "requires_action"
    return state
