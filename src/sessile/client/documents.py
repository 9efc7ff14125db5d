"""What a caller may give, as typed dicts: keyword arguments that an editor can complete. The server checks them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict


class RetryDocument(TypedDict, total=False):
    """How a failed model call is tried again. Times are milliseconds."""

    enabled: bool
    max_retries: int
    initial_backoff_ms: int
    max_backoff_ms: int
    backoff_factor: float


class ModelDocument(TypedDict, total=False):
    """The model of an agent: an alias of the server's configuration, or `provider:model`."""

    name: Required[str]
    parameters: Mapping[str, Any]
    retry_configuration: RetryDocument


class InstructionDocument(TypedDict, total=False):
    """An instruction: `inline` with a name and a template, or `reference` with an id."""

    type: Required[Literal["inline", "reference"]]
    name: str
    template: str
    template_type: Literal["velocity", "text"]
    description: str
    metadata: Mapping[str, Any]
    enabled: bool
    id: str
    version: int


class StepDocument(TypedDict, total=False):
    """What an agent is told while it is in one step. `name` is for the first step only."""

    name: str
    type: str
    instructions: Sequence[InstructionDocument] | None
    output_parser: Mapping[str, Any]
    reminders: Sequence[Mapping[str, Any]] | None
    next_steps: Sequence[Mapping[str, Any]] | None
    allowed_tools: Sequence[str] | None
    allowed_skills: Sequence[str] | None
    reentry_step: str | None


class AgentChanges(TypedDict, total=False):
    """The fields of an agent to change; None sets one back to its default. PROTOCOL.md says how maps are merged."""

    name: str
    description: str | None
    tool_configurations: Mapping[str, Mapping[str, Any] | None] | None
    skills: Mapping[str, Mapping[str, Any] | None] | None
    model: ModelDocument | str
    first_step: StepDocument
    first_step_name: str
    steps: Mapping[str, StepDocument | None] | None
    metadata: Mapping[str, Any] | None
    enabled: bool | None
    compaction: Mapping[str, Any] | None
    tool_output_offloading: Mapping[str, Any] | None


class AgentDocument(TypedDict, total=False):
    """A whole agent. `model` may be the name of one, short for a document that holds nothing else."""

    key: str
    name: Required[str]
    description: str | None
    tool_configurations: Mapping[str, Mapping[str, Any] | None]
    skills: Mapping[str, Mapping[str, Any] | None]
    model: Required[ModelDocument | str]
    first_step: StepDocument
    first_step_name: str
    steps: Mapping[str, StepDocument]
    metadata: Mapping[str, Any]
    enabled: bool
    compaction: Mapping[str, Any]
    tool_output_offloading: Mapping[str, Any]


class SessionChanges(TypedDict, total=False):
    """The fields of a session to change; `metadata` is replaced whole, a secret that is None is removed."""

    name: str
    description: str | None
    metadata: Mapping[str, Any]
    enabled: bool
    tti_minutes: int
    secrets: Mapping[str, str | None]


class FromSessionDocument(TypedDict, total=False):
    """The session that a new one starts as a copy of: up to an event, or whole, and then compacted up to one."""

    session_key: Required[str]
    agent_key: str
    include_up_to_event_id: str | None
    compact_up_to_event_id: str | None


class SessionDocument(SessionChanges, total=False):
    """A new session. Without a key the server makes one."""

    key: str
    from_session: FromSessionDocument


class ToolServerChanges(TypedDict, total=False):
    """The fields of a tool server to change; each is replaced whole. A header sent as `***` keeps its value."""

    name: str
    description: str
    uri: str
    headers: Mapping[str, str]
    transport: Literal["sse", "streamable-http"]
    auth: Mapping[str, Any]
    enabled: bool
    metadata: Mapping[str, Any]


class ToolServerDocument(TypedDict, total=False):
    """A new tool server."""

    name: Required[str]
    description: str
    uri: Required[str]
    headers: Mapping[str, str]
    transport: Required[Literal["sse", "streamable-http"]]
    auth: Mapping[str, Any]
    enabled: bool
    metadata: Mapping[str, Any]


class TextPart(TypedDict):
    """A text of the user."""

    type: Literal["text"]
    content: str


class SkillPart(TypedDict):
    """A skill that the user asks for by name."""

    type: Literal["skill"]
    skill_name: str


Content = str | Sequence[TextPart | SkillPart]
"""An input: a text, or a list of parts."""
