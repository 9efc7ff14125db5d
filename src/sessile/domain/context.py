"""What a model reads: the visible events of a session's log as messages, cut to a size.

Whatever the log holds, every tool call in the result is answered exactly once, right after the message that made it.
"""

from collections.abc import Iterable

from msgspec import Struct, field

from sessile.domain.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from sessile.wire import codec
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    InputMessageEvent,
    InputPart,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)

_UNKNOWN_OUTCOME = '{"error":"The outcome of this call is unknown.","code":"tool_outcome_unknown"}'


def build(instructions: str, entries: Iterable[AnyEvent], max_chars: int) -> list[Message]:
    """The messages for the next model call, from events in log order.

    Hidden events are left out, and with one half of a tool call the other. While the text is longer than `max_chars`
    the oldest whole turns are dropped; a turn starts at an input, and the last one is always kept.
    """
    left = max_chars - len(instructions)
    kept: list[list[Message]] = []
    for turn in reversed(_turns(entries)):
        messages = _messages(turn)
        left -= sum(map(chars, messages))
        if kept and left < 0:
            break
        if messages:
            kept.append(messages)
    head: list[Message] = [SystemMessage(instructions)] if instructions else []
    return head + [message for messages in reversed(kept) for message in messages]


def chars(message: Message) -> int:
    """The characters of a message that count towards a limit: its text, and the names and arguments of its calls."""
    calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
    return len(message.content) + sum(len(call.name) + len(call.arguments) for call in calls)


class _Call(Struct):
    id: str
    input: ToolInputEvent
    output: ToolOutputEvent | None = None

    @property
    def visible(self) -> bool:
        return not (self.input.hidden or (self.output is not None and self.output.hidden))


class _Answer(Struct):
    output_id: str | None = None
    texts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


_Turn = list[UserMessage | _Answer]


class _Fold:
    """Puts events into turns and answers, and tool outputs to their calls, wherever they stand.

    Hidden events take part: they separate answers, and a hidden half of a call is needed to hide the other.
    """

    def __init__(self) -> None:
        self.turns: list[_Turn] = [[]]
        self._answer: _Answer | None = None
        self._open: dict[str, _Call] = {}
        self._ids: set[str] = set()

    def add(self, event: AnyEvent) -> None:
        match event:
            case InputMessageEvent():
                self._answer = None
                if not event.hidden:
                    self.turns.append([UserMessage("\n".join(map(_line, event.messages)))])
            case ThinkingEvent():
                if self._answer is not None and self._answer.output_id not in (None, event.output_id):
                    self._answer = None
            case AgentOutputEvent():
                answer = self._current(event.output_id)
                if not event.hidden and event.content:
                    answer.texts.append(event.content)
            case ToolInputEvent():
                call = _Call(self._unique(event), event)
                self._current(None).calls.append(call)
                self._open[event.tool_call_id] = call
            case ToolOutputEvent():
                self._answer = None
                if found := self._open.pop(event.tool_call_id, None):
                    found.output = event
            case TurnStartedRecord() | TurnEndedRecord():
                self._answer = None
            case _:
                pass

    def _current(self, output_id: str | None) -> _Answer:
        """The answer that is being read; another `output_id` starts a new one."""
        answer = self._answer
        if answer is None or (output_id and answer.output_id and output_id != answer.output_id):
            answer = self._answer = _Answer()
            self.turns[-1].append(answer)
        answer.output_id = answer.output_id or output_id
        return answer

    def _unique(self, event: ToolInputEvent) -> str:
        """The id of a call; some models number their calls anew in every answer."""
        id = event.tool_call_id
        if id in self._ids:
            id = f"{id}_{event.sequence}"
        while id in self._ids:
            id += "_"
        self._ids.add(id)
        return id


def _turns(entries: Iterable[AnyEvent]) -> list[_Turn]:
    fold = _Fold()
    for event in entries:
        fold.add(event)
    return fold.turns


def _line(part: InputPart) -> str:
    return part.content if isinstance(part, TextPart) else f'Use the skill "{part.skill_name}".'


def _messages(turn: _Turn) -> list[Message]:
    messages: list[Message] = []
    for item in turn:
        if isinstance(item, UserMessage):
            messages.append(item)
            continue
        calls = [call for call in item.calls if call.visible]
        if item.texts or calls:
            messages.append(AssistantMessage("\n".join(item.texts), tuple(map(_tool_call, calls))))
            messages.extend(map(_tool_message, calls))
    return messages


def _tool_call(call: _Call) -> ToolCall:
    return ToolCall(call.id, call.input.tool_configuration_name, codec.encode(call.input.tool_input).decode())


def _tool_message(call: _Call) -> ToolMessage:
    content = _UNKNOWN_OUTCOME if call.output is None else codec.encode(call.output.tool_output).decode()
    return ToolMessage(call.id, call.input.tool_configuration_name, content)
