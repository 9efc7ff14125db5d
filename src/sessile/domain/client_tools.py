"""Client tools: calls that whoever talks to a session answers. What waits, and what an answer makes of it. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from sessile.wire.events import ClientToolPendingEvent, PendingToolCall, ToolInputEvent, ToolOutputEvent

_NO_DESCRIPTION = "A tool of the application that talks to you."


class CallOutput(Struct, frozen=True):
    """What a client says of one call. `event_id`: its `tool_input`; `output`: an object, also of an error."""

    event_id: str
    output: dict[str, Any]
    error: bool = False


def description(configuration: Mapping[str, Any]) -> str:
    """What the model is told that the tool is for."""
    text: str = configuration.get("description") or configuration.get("description_template") or _NO_DESCRIPTION
    return text


def input_schema(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of the arguments: an object of whatever the model likes, where none is given."""
    return {"type": "object", **configuration.get("input_schema", {"properties": {}})}


def failed(event_id: str, error: Any) -> CallOutput:
    """A client's word that a call has no result."""
    return CallOutput(event_id, {"error": error, "code": "tool_failed"}, error=True)


def pending_call(call: ToolInputEvent) -> PendingToolCall:
    """A call as clients see it while it waits."""
    return PendingToolCall(
        event_id=call.id,
        tool_configuration_name=call.tool_configuration_name,
        tool_name=call.tool_name,
        arguments=call.tool_input,
    )


def pending(calls: Iterable[ToolInputEvent]) -> ClientToolPendingEvent:
    """The event that says which calls wait."""
    return ClientToolPendingEvent(pending_calls=[pending_call(call) for call in calls])


def answered(call: ToolInputEvent, output: CallOutput) -> ToolOutputEvent:
    """The event that answers a call."""
    return ToolOutputEvent(
        tool_call_id=call.tool_call_id,
        tool_configuration_name=call.tool_configuration_name,
        tool_name=call.tool_name,
        tool_output=output.output,
        error=output.error,
    )
