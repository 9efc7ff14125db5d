"""The session: what a caller sends, and what an answer shows."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from sessile.wire.agents import CompactionConfig, Description, ListMetadata, Metadata
from sessile.wire.ids import EventId, Key, Timestamp
from sessile.wire.limits import MAX_SESSION_NAME_CHARS, MAX_TTI_MINUTES
from sessile.wire.secrets import NewSecrets, SecretChanges

SessionName = Annotated[str, Meta(max_length=MAX_SESSION_NAME_CHARS)]
TtiMinutes = Annotated[int, Meta(ge=0, le=MAX_TTI_MINUTES)]
Status = Literal["unstarted", "running", "stopped"]
StopReason = Literal["end_turn", "requires_action", "interrupted", "limit", "error"]


class InputTokens(Struct, omit_defaults=True):
    """Tokens a model read."""

    count: int = 0
    cached_tokens: int | UnsetType = UNSET


class OutputTokens(Struct, omit_defaults=True):
    """Tokens a model wrote."""

    count: int = 0
    reasoning_tokens: int | UnsetType = UNSET


class SessionContextUsage(Struct):
    """How full the model's window was in the last model call."""

    input_tokens: InputTokens
    output_tokens: OutputTokens
    total_tokens: int
    model_context_window: int | UnsetType = UNSET


class Usage(Struct):
    """Tokens and model calls of a turn, or the running total of a session."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.model_calls + other.model_calls,
        )


class FromSession(Struct, kw_only=True, forbid_unknown_fields=True):
    """The session to copy, of the same agent when none is named: up to an event, or whole and compacted up to one."""

    agent_key: Key | UnsetType = UNSET
    session_key: Key
    include_up_to_event_id: EventId | UnsetType | None = UNSET
    compact_up_to_event_id: EventId | UnsetType | None = UNSET


class Origin(Struct, kw_only=True, omit_defaults=True):
    """The session that this one was forked from, as it was named then, and the event of it that was asked for."""

    agent_key: Key
    session_key: Key
    include_up_to_event_id: EventId | UnsetType = UNSET
    compact_up_to_event_id: EventId | UnsetType = UNSET


class CreateSessionRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new session, empty or a copy of another one."""

    key: Key | UnsetType = UNSET
    name: SessionName | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    metadata: Metadata = field(default_factory=dict)
    enabled: bool = True
    tti_minutes: TtiMinutes = 0
    secrets: NewSecrets | UnsetType = UNSET
    from_session: FromSession | UnsetType = UNSET


class UpdateSessionRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of a session to change; `metadata` is replaced whole."""

    name: SessionName | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    tti_minutes: TtiMinutes | UnsetType = UNSET
    secrets: SecretChanges | UnsetType = UNSET


class Session(Struct, kw_only=True):
    """A session as an answer shows it. `id` equals `key`, `agent_id` equals `agent_key`."""

    id: Key
    key: Key
    agent_id: Key
    agent_key: Key
    name: str
    description: str | UnsetType = UNSET
    metadata: Metadata
    current_step_name: str | None = None
    enabled: bool
    status: Status
    stop_reason: StopReason | None
    last_event_id: EventId | None
    tti_minutes: int
    created_at: Timestamp
    updated_at: Timestamp
    session_context_usage: SessionContextUsage | UnsetType = UNSET
    usage: Usage
    effective_compaction: CompactionConfig | UnsetType = UNSET
    alias_key: str | None = None
    created_by_agent_key: Key | UnsetType = UNSET
    created_by_session_key: Key | UnsetType = UNSET
    secrets: dict[str, str] | UnsetType = UNSET
    from_session: Origin | UnsetType = UNSET


class Violation(Struct, kw_only=True):
    """A rule of a transcript that a log breaks: a stable code, words for people, and the event where it shows."""

    rule: str
    message: str
    sequence: int
    event_id: EventId


class SessionCheck(Struct, kw_only=True):
    """Whether the log of a session holds the rules of a transcript, and the first places where it does not."""

    ok: bool
    events: int
    violations: list[Violation]


class ListSessionsResponse(Struct):
    """A page of sessions, newest first."""

    sessions: list[Session]
    metadata: ListMetadata
