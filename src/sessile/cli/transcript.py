"""A conversation as pieces of text: from live frames and from the log, each event once. It reads and writes nothing."""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from msgspec import UNSET

from sessile.cli.text import one_line
from sessile.wire import events as wire

SHORT = 200
"""The most characters of a tool's arguments or result that are shown."""


class Kind(Enum):
    """What a piece is."""

    INPUT = "what a person said"
    ANSWER = "what the agent said"
    THINKING = "what the model thought"
    TOOL = "a tool call or its result"
    FAILURE = "a tool call that failed"
    NOTE = "a remark of ours"
    PROBLEM = "why something ended badly"


class Piece(NamedTuple):
    """A text to show. `fresh` begins a line; otherwise it goes on where the last piece of its kind stopped."""

    kind: Kind
    text: str
    fresh: bool = True


class Transcript:
    """What has been shown of a session, and what a frame or event adds to it.

    An output that was cut off live and then stands in the log goes on where it was cut off.
    """

    def __init__(self) -> None:
        self.last_id = ""
        """The newest event that was shown; ids of a session sort in the order of its log."""
        self._shown: dict[tuple[Kind, str], int] = {}
        """How many characters of each output were shown, for outputs whose event has not come yet."""
        self._answering = ""
        """The output whose text is coming in."""
        self._turn = ""
        self._told: set[str] = set()
        """Turns whose end was shown live."""

    def frame(self, frame: Any) -> list[Piece]:
        """What a frame of a streamed answer adds. The caller's own input, which comes first, adds nothing."""
        match frame:
            case wire.StreamingThinking():
                return self._grow(Kind.THINKING, frame.output_id, frame.offset, frame.content)
            case wire.StreamingAgentOutput():
                void = self._void_before(frame.output_id)
                self._answering = frame.output_id
                return void + self._grow(Kind.ANSWER, frame.output_id, frame.offset, frame.content)
            case wire.StreamingAgentOutputEnd():
                if frame.event_id is UNSET:
                    return self._void()
                self._ended(Kind.ANSWER, frame.output_id)
                self.last_id = max(self.last_id, frame.event_id)
                return []
            case wire.StreamError():
                self._told.add(self._turn)
                return [_problem(frame.code, " ".join(frame.messages))]
            case wire.StreamEnd():
                return self._end(frame)
            case wire.CompactionStarted():
                return [Piece(Kind.NOTE, "(Older parts of the conversation are being summarised.)")]
            case wire.InputMessageEvent():
                self._turn = frame.turn_id
                self.last_id = max(self.last_id, frame.id)
                return []
            case wire.ToolOutputEvent():
                self._turn = frame.turn_id
        return self.event(frame)

    def event(self, event: Any) -> list[Piece]:
        """What an event of the log adds: nothing when it was shown before."""
        id = getattr(event, "id", "")
        if id <= self.last_id:
            return []
        self.last_id = id
        match event:
            case wire.InputMessageEvent():
                return [Piece(Kind.INPUT, input_text(event))]
            case wire.ThinkingEvent():
                return self._whole(Kind.THINKING, event.output_id, event.content)
            case wire.AgentOutputEvent():
                void = self._void_before(event.output_id)
                return void + self._whole(Kind.ANSWER, event.output_id, event.content)
            case wire.StructuredOutputEvent():
                return [Piece(Kind.ANSWER, _json(event.content), fresh=True)]
            case wire.ToolInputEvent():
                return [Piece(Kind.TOOL, one_line(call_text(event), SHORT))]
            case wire.ToolOutputEvent():
                return [Piece(Kind.FAILURE if event.error else Kind.TOOL, one_line(result_text(event), SHORT))]
            case wire.ClientToolPendingEvent():
                return [Piece(Kind.NOTE, f"(The turn waits for {', '.join(map(pending_text, event.pending_calls))}.)")]
            case wire.CompactionEvent():
                return [Piece(Kind.NOTE, f"({event.turns_compacted} turns are summarised.)")]
            case wire.SessionInterruptedEvent():
                return [Piece(Kind.NOTE, "(Interrupted.)")]
            case wire.TurnEndedRecord():
                if event.error is None or event.turn_id in self._told:
                    return []
                return [_problem(event.error.code, event.error.message)]
        return [] if event_type(event) in wire.RECORD_TYPES else [Piece(Kind.NOTE, f"({summary(event, SHORT)})")]

    def _grow(self, kind: Kind, output_id: str, offset: int, text: str) -> list[Piece]:
        """The part of a delta that was not shown yet."""
        before = self._shown.get((kind, output_id), 0)
        self._shown[kind, output_id] = max(before, offset + len(text))
        new = text[max(0, before - offset) :]
        return [Piece(kind, new, fresh=before == 0)] if new else []

    def _whole(self, kind: Kind, output_id: str, text: str) -> list[Piece]:
        rest = self._grow(kind, output_id, 0, text)
        self._ended(kind, output_id)
        return rest

    def _ended(self, kind: Kind, output_id: str) -> None:
        self._shown.pop((kind, output_id), None)
        if kind is Kind.ANSWER:
            self._answering = ""

    def _void_before(self, output_id: str) -> list[Piece]:
        """An output that has not ended when another one comes is void."""
        return self._void() if self._answering not in ("", output_id) else []

    def _void(self) -> list[Piece]:
        self._ended(Kind.ANSWER, self._answering)
        return [Piece(Kind.NOTE, "(The text above is withdrawn.)")]

    def _end(self, frame: wire.StreamEnd) -> list[Piece]:
        if frame.status == "stopped" and frame.stop_reason != "requires_action":
            self._told.add(self._turn)
            self._shown.clear()
            self._answering = ""
        return [Piece(Kind.PROBLEM, "The session was deleted.")] if frame.reason == "deleted" else []


def event_type(event: Any) -> str:
    """The type of an event or frame, of one that this version does not know too."""
    config = getattr(event, "__struct_config__", None)
    return str(config.tag if config is not None and config.tag else getattr(event, "type", ""))


def input_text(event: wire.InputMessageEvent) -> str:
    """What a person said; a skill that was asked for stands as `[skill NAME]`."""
    parts = (
        part.content if isinstance(part, wire.TextPart) else f"[skill {part.skill_name}]" for part in event.messages
    )
    return "\n".join(parts)


def call_text(event: wire.ToolInputEvent) -> str:
    """A tool call as people write one: `name(argument="value")`."""
    return _called(event.tool_configuration_name, event.tool_input)


def pending_text(call: wire.PendingToolCall) -> str:
    """A client tool call that waits, in the same way."""
    return one_line(_called(call.tool_configuration_name, call.arguments), SHORT)


def result_text(event: wire.ToolOutputEvent) -> str:
    """The result of a tool call, or why it failed."""
    if event.error:
        why, code = event.tool_output.get("error", "no reason was given"), event.tool_output.get("code")
        return f"{event.tool_configuration_name} failed: {why}" + (f" ({code})" if code else "")
    output: Any = event.tool_output["result"] if event.tool_output.keys() == {"result"} else event.tool_output
    return f"{event.tool_configuration_name} -> {_json(output)}"


def summary(event: Any, limit: int | None = None) -> str:
    """What an event says, on one line."""
    match event:
        case wire.InputMessageEvent():
            text = input_text(event)
        case wire.ThinkingEvent() | wire.AgentOutputEvent():
            text = event.content
        case wire.StructuredOutputEvent():
            text = f"{event.schema_name} {_json(event.content)}"
        case wire.CompactionEvent() if event.summary_text:
            text = event.summary_text
        case wire.ToolInputEvent():
            text = call_text(event)
        case wire.ToolOutputEvent():
            text = result_text(event)
        case wire.ArtifactUploadEvent():
            text = "files: " + ", ".join(f"{one.filename} {one.artifact_id}" for one in event.artifacts)
        case wire.TurnEndedRecord():
            text = f"{event.stop_reason}: {event.error.code}" if event.error else event.stop_reason
        case _:
            text = f"{event_type(event)} {_json(_fields(event))}"
    return one_line(text, limit)


def _fields(event: Any) -> Mapping[str, Any]:
    """The fields of an event beside its envelope."""
    known = getattr(event, "data", None)
    fields = known if isinstance(known, dict) else {name: getattr(event, name) for name in event.__struct_fields__}
    envelope = {"type", *wire.Event.__struct_fields__}
    return {name: value for name, value in fields.items() if name not in envelope and value is not UNSET}


def _problem(code: str, message: str) -> Piece:
    how = "was cut off" if code == "model_call_limit" else "ended with an error"
    return Piece(Kind.PROBLEM, f"The turn {how}: {message} ({code})")


def _called(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{argument}={_json(value)}' for argument, value in arguments.items())})"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
