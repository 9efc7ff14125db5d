"""Events: what stands in the log of a session, and what is only shown live.

A durable event is made as a draft (envelope empty, not encoded) and gets its envelope from the store: `id`,
`session_key`, `sequence`, `turn_id` and `created_at`. Its stored body is its JSON without the envelope.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from sessile.wire.agents import ListMetadata
from sessile.wire.ids import ArtifactId, EventId, Key, Timestamp, TurnId
from sessile.wire.sessions import SessionContextUsage, Status, StopReason, Usage

RECORD_TYPES = frozenset(
    {
        "turn_started",
        "turn_ended",
        "event_hidden",
        "event_unhidden",
        "event_deleted",
        "session_updated",
    }
)
"""Durable events that the contract does not have: in the JSON list only with `records=true`."""
VISIBILITY_TYPES = frozenset({"event_hidden", "event_unhidden", "event_deleted"})
"""Records of what callers did to events: they stand anywhere in a log and belong to no turn."""


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """A text of the user."""

    content: str


class SkillPart(Struct, tag_field="type", tag="skill", forbid_unknown_fields=True):
    """A skill that the user asks for by name."""

    skill_name: str


InputPart = TextPart | SkillPart


class TurnError(Struct):
    """Why a turn ended badly: a stable code and words for people."""

    code: str
    message: str


class Event(Struct, kw_only=True, tag_field="type", omit_defaults=True):
    """The envelope that all durable events share; empty in a draft."""

    id: EventId = ""
    session_key: Key = ""
    created_at: Timestamp = ""
    sequence: int = 0
    turn_id: TurnId = ""
    hidden: bool = False


class InputMessageEvent(Event, kw_only=True, tag="input_message"):
    """What the user said. `content` is the text parts joined by newlines."""

    messages: list[InputPart]
    content: str


class ThinkingEvent(Event, kw_only=True, tag="thinking"):
    """What the model thought before it spoke or acted."""

    content: str
    output_id: str


class ToolInputEvent(Event, kw_only=True, tag="tool_input"):
    """A tool call, durable before the tool starts."""

    tool_call_id: str
    tool_configuration_name: str
    tool_name: str
    tool_input: dict[str, Any]
    argument_override_paths: list[str] | UnsetType = UNSET


class ToolOutputEvent(Event, kw_only=True, tag="tool_output"):
    """The result of a tool call; with `error` true, `tool_output` has `error` (a message) and `code`."""

    tool_call_id: str
    tool_configuration_name: str
    tool_name: str
    tool_output: dict[str, Any]
    error: bool
    resolved_argument_overrides: dict[str, Any] | UnsetType = UNSET


class AgentOutputEvent(Event, kw_only=True, tag="agent_output"):
    """What the agent said. `partial` is true when the model was cut off."""

    content: str
    output_id: str
    partial: bool = False


class ArtifactReference(Struct):
    """A file of the session."""

    artifact_id: ArtifactId
    filename: str
    mime_type: str
    size_bytes: int


class StructuredOutputEvent(Event, kw_only=True, tag="structured_output"):
    """The answer of an agent whose output follows a JSON schema, in the place of an `agent_output`."""

    schema_name: str
    content: Any


class SkillLoadEvent(Event, kw_only=True, tag="skill_load"):
    """A skill was loaded. Not emitted yet."""

    skill_name: str
    content: str


class ArtifactUploadEvent(Event, kw_only=True, tag="artifact_upload"):
    """Files were added. `agent_upload_message` is what the model reads of it; absent when a tool call made them."""

    artifacts: list[ArtifactReference]
    agent_upload_message: str | UnsetType = UNSET


class ImageReadEvent(Event, kw_only=True, tag="image_read"):
    """An image was shown to the model. Not emitted yet."""

    artifact_id: str
    detail: Literal["auto", "low", "high"] | UnsetType = UNSET


class StepTransitionEvent(Event, kw_only=True, tag="step_transition"):
    """The agent went from one step to another. Not emitted yet."""

    from_step: str
    to_step: str
    content: str


class CompactionEvent(Event, kw_only=True, tag="compaction"):
    """A summary took the place of older events, those up to `up_to_event_id`.

    `stale`: something that it covers was deleted. Its text was erased, and another one is made before it is needed.
    """

    turns_compacted: int
    events_compacted: int
    summary_key: str
    summary_text: str | UnsetType = UNSET
    up_to_event_id: EventId | UnsetType = UNSET
    stale: bool = False


class ContextLimitExceededEvent(Event, kw_only=True, tag="context_limit_exceeded"):
    """The input does not fit into the model's window."""

    message: str
    context_limit: int | UnsetType = UNSET
    actual_tokens: int | UnsetType = UNSET


class StepTransitionLimitExceededEvent(Event, kw_only=True, tag="step_transition_limit_exceeded"):
    """Too many steps in one turn. Not emitted yet."""

    message: str
    transition_limit: int | UnsetType = UNSET


class SessionInterruptedEvent(Event, kw_only=True, tag="session_interrupted"):
    """The turn was interrupted."""


class PendingToolCall(Struct):
    """A client tool call that waits for its output. `event_id`: its `tool_input`."""

    event_id: str
    tool_configuration_name: str
    tool_name: str
    arguments: dict[str, Any]


class ClientToolPendingEvent(Event, kw_only=True, tag="client_tool_pending"):
    """Client tool calls wait for their outputs, and the turn with them."""

    pending_calls: list[PendingToolCall]


ContractEvent = (
    InputMessageEvent
    | SkillLoadEvent
    | ArtifactUploadEvent
    | ToolInputEvent
    | ToolOutputEvent
    | ThinkingEvent
    | AgentOutputEvent
    | StructuredOutputEvent
    | ContextLimitExceededEvent
    | StepTransitionLimitExceededEvent
    | SessionInterruptedEvent
    | ClientToolPendingEvent
    | ImageReadEvent
    | StepTransitionEvent
    | CompactionEvent
)
"""The event types of the Agents v2 contract."""


class CompactionOrder(Struct, kw_only=True, omit_defaults=True):
    """What a caller wants compacted: all up to an event; and how the model is asked, if not as the agent says."""

    up_to_event_id: EventId
    compaction_message: str | UnsetType = UNSET


class TurnStartedRecord(Event, kw_only=True, tag="turn_started"):
    """A turn took the input `input_event_id`, or the order of a compaction, which has no input in the log."""

    input_event_id: EventId | UnsetType = UNSET
    compaction: CompactionOrder | UnsetType = UNSET


class TurnEndedRecord(Event, kw_only=True, tag="turn_ended"):
    """A turn stopped. Exactly one for each accepted input."""

    stop_reason: StopReason
    error: TurnError | None
    usage: Usage


class EventHiddenRecord(Event, kw_only=True, tag="event_hidden"):
    """A caller hid the event `event_id`. Like all records of visibility, it belongs to no turn."""

    event_id: EventId


class EventUnhiddenRecord(Event, kw_only=True, tag="event_unhidden"):
    """A caller made the event `event_id` visible again."""

    event_id: EventId


class EventDeletedRecord(Event, kw_only=True, tag="event_deleted"):
    """A caller deleted the event `event_id`. What it held is erased."""

    event_id: EventId


VisibilityRecord = EventHiddenRecord | EventUnhiddenRecord | EventDeletedRecord

AnyEvent = ContractEvent | TurnStartedRecord | TurnEndedRecord | VisibilityRecord
"""Whatever may stand in a log today."""


class ListEventsResponse(Struct):
    """A page of events; with `records=true` it holds records too."""

    events: list[AnyEvent]
    metadata: ListMetadata


class Turn(Struct, kw_only=True):
    """How a turn stands."""

    id: TurnId
    session_key: Key
    agent_key: Key
    status: Literal["running", "stopped"]
    stop_reason: StopReason | None
    error: TurnError | None
    usage: Usage
    input_event_id: EventId | None
    """Null for a compaction."""
    created_at: Timestamp
    ended_at: Timestamp | None


class _Delta(Struct, kw_only=True, tag_field="type", omit_defaults=True):
    content: str
    output_id: str
    offset: int
    turn_id: str
    created_at: Timestamp
    snapshot: bool = False


class StreamingThinking(_Delta, kw_only=True, tag="streaming_thinking"):
    """A piece of thinking; `offset` is the number of characters before it."""


class StreamingAgentOutput(_Delta, kw_only=True, tag="streaming_agent_output"):
    """A piece of output; `offset` is the number of characters before it."""


class StreamingThinkingEnd(Struct, kw_only=True, tag_field="type", tag="streaming_thinking_end"):
    """The thinking of `output_id` is complete."""

    output_id: str
    turn_id: str
    created_at: Timestamp


class StreamingAgentOutputEnd(
    Struct, kw_only=True, tag_field="type", tag="streaming_agent_output_end", omit_defaults=True
):
    """The output became the durable event `event_id`; without it, discard the deltas of `output_id`."""

    output_id: str
    turn_id: str
    created_at: Timestamp
    event_id: str | UnsetType = UNSET


class ToolActivity(Struct, kw_only=True, tag_field="type", tag="tool_activity"):
    """A running tool says what it is doing, or shows an event of the agent that does it."""

    activity_type: Literal["generic", "sub_agent"] = "generic"
    message: str | UnsetType = UNSET
    agent_event: ContractEvent | UnsetType = UNSET
    tool_call_id: str
    tool_configuration_name: str
    tool_name: str
    turn_id: str
    created_at: Timestamp


class ContextConsumed(Struct, kw_only=True, tag_field="type", tag="context_consumed"):
    """How full the model's window was in the call that just ended."""

    session_context_usage: SessionContextUsage
    turn_id: str
    created_at: Timestamp


class CompactionStarted(Struct, kw_only=True, tag_field="type", tag="compaction_started"):
    """A model is asked for a summary. The `compaction` event follows when it is good; its `id` is no cursor."""

    id: EventId
    session_key: Key
    turn_id: str
    created_at: Timestamp


class SessionState(Struct, kw_only=True, tag_field="type", tag="session_state"):
    """How the session stands when a follower attaches; what led there follows."""

    status: Status
    stop_reason: StopReason | None
    turn_id: TurnId | None
    """The turn that runs, or waits for client tools."""
    last_event_id: EventId | None
    """The newest event that is no record."""


class StreamError(Struct, kw_only=True, tag_field="type", tag="error"):
    """The turn ended badly; `end` follows."""

    messages: list[str]
    code: str


class StreamEnd(Struct, kw_only=True, tag_field="type", tag="end"):
    """Nothing follows."""

    status: Literal["running", "stopped"] | UnsetType = UNSET
    stop_reason: StopReason | UnsetType | None = UNSET
    reason: str | UnsetType = UNSET
    """`deleted`: the session is gone; `withdrawn`: the input is; `drain`: the server stops, the next one goes on."""


LiveFrame = (
    StreamingThinking
    | StreamingThinkingEnd
    | StreamingAgentOutput
    | StreamingAgentOutputEnd
    | ContextConsumed
    | CompactionStarted
    | ToolActivity
    | SessionState
    | StreamError
    | StreamEnd
)
"""Ephemeral frames: live only, never in the log."""

StreamFrame = (
    InputMessageEvent
    | ThinkingEvent
    | ToolInputEvent
    | ToolOutputEvent
    | StructuredOutputEvent
    | CompactionEvent
    | ArtifactUploadEvent
    | ContextLimitExceededEvent
    | SessionInterruptedEvent
    | ClientToolPendingEvent
    | StreamingThinking
    | StreamingThinkingEnd
    | StreamingAgentOutput
    | StreamingAgentOutputEnd
    | ContextConsumed
    | CompactionStarted
    | ToolActivity
    | StreamError
    | StreamEnd
)
"""What a streamed answer to an input may hold."""

FollowFrame = (
    ContractEvent
    | TurnStartedRecord
    | TurnEndedRecord
    | VisibilityRecord
    | SessionState
    | StreamingThinking
    | StreamingThinkingEnd
    | StreamingAgentOutput
    | StreamingAgentOutputEnd
    | ContextConsumed
    | CompactionStarted
    | ToolActivity
    | StreamEnd
)
"""What a stream that follows a session may hold."""
