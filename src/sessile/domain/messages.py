"""What a model reads: the neutral form that every provider adapter translates."""

from typing import Any

from msgspec import Struct


class SystemMessage(Struct, frozen=True):
    """Instructions of the agent."""

    content: str


class UserMessage(Struct, frozen=True):
    """What the user said."""

    content: str


class ToolCall(Struct, frozen=True):
    """A call that a model asked for. `arguments` is JSON text as the model wrote it, not yet checked."""

    id: str
    name: str
    arguments: str


class AssistantMessage(Struct, frozen=True):
    """What the model said and which tools it called, in one answer."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()


class ToolMessage(Struct, frozen=True):
    """The output of a tool call, as JSON text."""

    tool_call_id: str
    name: str
    content: str


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class OutputSchema(Struct, frozen=True):
    """The JSON schema that an answer is to follow."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ToolSpec(Struct, frozen=True):
    """A tool as a model sees it. `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: dict[str, Any]
