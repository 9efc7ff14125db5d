"""What may be posted to a session, and what a synchronous answer looks like."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sessile.wire.events import ArtifactReference, ContractEvent, InputPart, PendingToolCall, TurnError
from sessile.wire.ids import EventId, Key, Timestamp, TurnId
from sessile.wire.limits import (
    MAX_INPUT_CHARS,
    MAX_INPUT_MESSAGES,
    MAX_TOOL_CALLS_PER_ANSWER,
    MAX_TTL_DAYS,
    MAX_UPLOAD_FILES,
)
from sessile.wire.sessions import StopReason

_MAX_EVENT_ID_CHARS = 100
CompactionMessage = Annotated[str, Meta(min_length=1, max_length=10_000)]
InputText = Annotated[str, Meta(min_length=1, max_length=MAX_INPUT_CHARS)]
File = Annotated[str, Meta(extra_json_schema={"format": "binary"})]
_TTL = "How many days the files are kept; without it, as long as the session"
Behavior = Literal["steer", "follow_up"]
Since = Annotated[str, Meta(pattern=r"^(start|aev_[0-9a-zA-Z_-]+)\Z")]


class InputMessageRequest(Struct, kw_only=True, tag_field="type", tag="input_message", forbid_unknown_fields=True):
    """An input of one or more parts, or the shorthand `content` for one text. Exactly one of the two."""

    messages: Annotated[list[InputPart], Meta(min_length=1, max_length=MAX_INPUT_MESSAGES)] | UnsetType = UNSET
    content: InputText | UnsetType = UNSET
    stream_response: bool = False
    since: Since | UnsetType = UNSET
    behavior: Behavior | UnsetType = UNSET


class InterruptRequest(Struct, kw_only=True, tag_field="type", tag="interrupt", forbid_unknown_fields=True):
    """Stop the turn that runs. The answer comes when it has stopped."""

    stream_response: bool = False


class ToolSuccess(Struct, kw_only=True, tag_field="type", tag="success", forbid_unknown_fields=True):
    """The result of the client tool call whose `tool_input` is `event_id`."""

    event_id: str
    output: dict[str, Any]


class ToolFailure(Struct, kw_only=True, tag_field="type", tag="error", forbid_unknown_fields=True):
    """Why the client tool call whose `tool_input` is `event_id` has no result."""

    event_id: str
    error: Any


class ToolOutputRequest(Struct, kw_only=True, tag_field="type", tag="tool_output", forbid_unknown_fields=True):
    """Outputs of client tool calls. The turn goes on when no call is left without one."""

    tool_outputs: Annotated[list[ToolSuccess | ToolFailure], Meta(min_length=1, max_length=MAX_TOOL_CALLS_PER_ANSWER)]
    stream_response: bool = False


class CompactRequest(Struct, kw_only=True, tag_field="type", tag="compact", forbid_unknown_fields=True):
    """Summarise what came before the recent inputs, or all up to an event, in a turn of its own."""

    compact_up_to_event_id: Annotated[str, Meta(min_length=1, max_length=_MAX_EVENT_ID_CHARS)] | UnsetType = UNSET
    compaction_message: CompactionMessage | UnsetType = UNSET
    stream_response: bool = False


InputRequest = InputMessageRequest | InterruptRequest | ToolOutputRequest | CompactRequest
"""What may be posted to a session."""


class MultipartInput(Struct, kw_only=True, forbid_unknown_fields=True):
    """An input as multipart/form-data: a text, files, or both.

    `messages` is a JSON list, or one part of it in each of several fields; `message` is short for one text.
    """

    messages: Annotated[list[InputPart], Meta(min_length=1, max_length=MAX_INPUT_MESSAGES)] | UnsetType = UNSET
    message: InputText | UnsetType = UNSET
    files: Annotated[list[File], Meta(min_length=1, max_length=MAX_UPLOAD_FILES)] | UnsetType = UNSET
    ttl_days: Annotated[int, Meta(ge=1, le=MAX_TTL_DAYS, description=_TTL)] | UnsetType = UNSET
    stream_response: bool = False
    since: Since | UnsetType = UNSET
    behavior: Behavior | UnsetType = UNSET


class InputResponse(Struct, kw_only=True):
    """The durable events of the turn so far, the input first, and how the turn stands.

    To an interrupt: the events that came since it was recorded. `turn_id` is null when no turn ran. To tool outputs:
    those first. With `since`: all events after that place, up to the end of the turn.
    """

    events: list[ContractEvent]
    session_key: Key
    turn_id: TurnId | None
    status: Literal["running", "stopped"]
    stop_reason: StopReason | None
    error: TurnError | None
    reason: str | UnsetType = UNSET
    """Why no turn has taken an input that waited: `withdrawn`, `deleted`, or `drain` when the server stops."""


class OutstandingToolCalls(Struct):
    """The client tool calls of a session that wait for their outputs, in the order of the calls."""

    client_tool_calls: list[PendingToolCall]


class WaitingInput(Struct, kw_only=True, tag_field="type", tag="input_message"):
    """An input that was accepted, and that no turn has taken yet.

    `turn_id` is null for one that is to join the turn that runs; `artifacts` are the files that came with it.
    """

    id: EventId
    messages: list[InputPart]
    content: str
    artifacts: list[ArtifactReference] | UnsetType = UNSET
    behavior: Behavior
    turn_id: TurnId | None
    created_at: Timestamp


class ListInputsResponse(Struct, kw_only=True):
    """All inputs that wait, in the order of acceptance."""

    inputs: list[WaitingInput]
