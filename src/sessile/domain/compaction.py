"""Compaction: when a conversation is summarised, what a model is asked for it, and which summary is good. Pure."""

from collections.abc import Iterator, Sequence

from msgspec import Struct, json

from sessile.domain.messages import Message, SystemMessage, UserMessage
from sessile.domain.turn import history_chars
from sessile.wire import codec
from sessile.wire.agents import CompactionConfig
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ArtifactUploadEvent,
    InputMessageEvent,
    StructuredOutputEvent,
    ToolInputEvent,
    ToolOutputEvent,
)

DEFAULT_MESSAGE = (
    "Summarise the conversation below so that it can go on without it. Keep facts, names, numbers, decisions, the "
    "user's wishes, what was done with tools and its results, and what is still open. Leave out greetings and "
    "repetitions. Write the summary only, in the language of the conversation."
)
ATTEMPTS = (1.0, 0.5, 0.25)
"""Shares of the window that the text to be summarised may fill, tried one after the other when it does not fit."""
_ROOM = 0.75
"""The part of a history's budget that the text to be summarised may fill; the rest is for the summary."""
_LONGEST_SUMMARY = 0.25
"""The part of a history's budget that a summary may fill."""
_CUT = "…"


class _Configured(Struct):
    compaction: CompactionConfig | None = None


class CompactionFailed(Exception):
    """No summary came that can be used. The text says why."""


def settings(document: bytes) -> CompactionConfig:
    """How an agent wants its sessions compacted; all defaults when its document does not say."""
    return json.decode(document, type=_Configured).compaction or CompactionConfig()


def effective(stored: str | None) -> CompactionConfig:
    """The same, from the part of the document that is about it."""
    return CompactionConfig() if stored is None else json.decode(stored, type=CompactionConfig)


def due(config: CompactionConfig, tokens: int, window: int) -> bool:
    """Whether a conversation of so many tokens shall be compacted before the next model call."""
    return config.enabled and tokens * 100 >= config.threshold_percent * window


def prompt(config: CompactionConfig, ordered: str | None) -> str:
    """What the model is asked for: by the order, else by the agent, else by Sessile."""
    return ordered or config.compaction_message or DEFAULT_MESSAGE


def request(
    question: str, earlier: str | None, events: Sequence[AnyEvent], config: CompactionConfig, max_chars: int
) -> list[Message]:
    """The messages that ask for a summary of `events`, which are in log order, and of an `earlier` summary.

    The conversation stands in one text, so that a model neither goes on with it nor calls its tools. What does not fit
    is left out from the beginning, but for the earlier summary.
    """
    head = f"Summary of what came before:\n{earlier}\n\n" if earlier else ""
    left = max_chars - len(question) - len(head)
    lines: list[str] = []
    for line in _lines(events, config):
        if len(line) + 1 > left:
            if not lines and left > len(_CUT):
                lines.append(line[: left - len(_CUT)] + _CUT)
            break
        lines.append(line)
        left -= len(line) + 1
    return [SystemMessage(question), UserMessage(head + "\n".join(reversed(lines)))]


def request_chars(context_window: int, share: float) -> int:
    """How long such a request may be."""
    return int(history_chars(context_window) * _ROOM * share)


def checked(summary: str, context_window: int) -> str:
    """A summary that can stand for what it covers. Raises CompactionFailed."""
    summary = summary.strip()
    if not summary:
        raise CompactionFailed("The model gave an empty summary.")
    longest = int(history_chars(context_window) * _LONGEST_SUMMARY)
    if len(summary) > longest:
        message = f"The model gave a summary of {len(summary)} characters; its window has room for {longest}."
        raise CompactionFailed(message)
    return summary


def _lines(events: Sequence[AnyEvent], config: CompactionConfig) -> Iterator[str]:
    """What was said and done, newest first, a line each; a hidden half of a tool call hides the other."""
    hidden = {_call(event) for event in events if isinstance(event, ToolInputEvent | ToolOutputEvent) and event.hidden}
    outputs = config.tool_event_policy != "exclude"
    inputs = config.tool_event_policy == "include_all"
    for event in reversed(events):
        match event:
            case _ if event.hidden:
                continue
            case InputMessageEvent():
                yield f"User: {event.content}"
            case ArtifactUploadEvent(agent_upload_message=str(remark)):
                yield f"User: {remark}"
            case AgentOutputEvent() if event.content:
                yield f"Assistant: {event.content}"
            case StructuredOutputEvent():
                yield f"Assistant: {codec.encode(event.content).decode()}"
            case ToolInputEvent() if inputs and _call(event) not in hidden:
                yield f"Tool call {event.tool_configuration_name}: {codec.encode(event.tool_input).decode()}"
            case ToolOutputEvent() if outputs and _call(event) not in hidden:
                yield f"Result of {event.tool_configuration_name}: {codec.encode(event.tool_output).decode()}"


def _call(event: ToolInputEvent | ToolOutputEvent) -> tuple[str, str]:
    return event.turn_id, event.tool_call_id
