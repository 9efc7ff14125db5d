"""What a model reads: the visible events of a session's log as messages, cut to a size.

Whatever the log holds, every tool call in the result is answered exactly once, right after the message that made it.
"""

from collections import deque
from typing import Any

from msgspec import Struct, field

from sessile.domain.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from sessile.wire import codec
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ArtifactUploadEvent,
    InputMessageEvent,
    InputPart,
    SessionInterruptedEvent,
    StructuredOutputEvent,
    TextPart,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)

_UNKNOWN_OUTCOME = '{"error":"The outcome of this call is unknown.","code":"tool_outcome_unknown"}'
_INTERRUPTED = AssistantMessage("(Interrupted before an answer was given.)")
"""Stands for the answer that an interrupted turn has not got: some providers refuse a user's message after another."""


_SUMMARY = "What was said before has been summarised:\n\n"
_READ = AssistantMessage("(I have read the summary and go on from there.)")
"""Stands between a summary and the input that follows it, so that roles alternate."""


def text(message: Message) -> str:
    """The text of a message, with the names and arguments of its calls."""
    if isinstance(message, AssistantMessage) and message.tool_calls:
        return message.content + "".join(call.name + call.arguments for call in message.tool_calls)
    return message.content


def chars(message: Message) -> int:
    """The characters of a message that count towards a limit: its text, and the names and arguments of its calls."""
    if isinstance(message, AssistantMessage) and message.tool_calls:
        return len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return len(message.content)


class _Call(Struct):
    id: str
    input: ToolInputEvent
    turn: "_Turn"
    output: ToolOutputEvent | None = None

    @property
    def visible(self) -> bool:
        return not (self.input.hidden or (self.output is not None and self.output.hidden))


class _Interrupt(Struct):
    """The end of an interrupted turn."""


class _Answer(Struct):
    output_id: str | None = None
    texts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


_Item = UserMessage | _Answer | _Interrupt


class _Turn:
    """What was said in one turn; its messages are made once, and again after a change."""

    __slots__ = ("_messages", "chars", "id", "items")

    def __init__(self, id: str = "") -> None:
        self.id = id
        self.items: list[_Item] = []
        self.chars = 0
        self._messages: list[Message] | None = None

    def changed(self) -> None:
        self._messages = None

    def messages(self) -> list[Message]:
        if self._messages is None:
            self._messages = _messages(self.items)
            self.chars = sum(map(chars, self._messages))
        return self._messages


class Conversation:
    """The events of a log as the messages of a model, event by event.

    Hidden events are left out, and with one half of a tool call the other; they are added all the same, because they
    separate answers and because a hidden half of a call must be known to hide the other. A turn starts at an input;
    more inputs may join it. A `summary` stands for what comes before the first event.
    """

    def __init__(self, summary: str | None = None) -> None:
        self._summary = None if summary is None else UserMessage(_SUMMARY + summary)
        self._turns: deque[_Turn] = deque([_Turn()])
        self._settled: list[Message] = []
        """The messages of all turns but the last; what changes in an old turn has them made again."""
        self._settled_chars = 0
        self._answer: _Answer | None = None
        self._open: dict[str, _Call] = {}
        self._ids: set[str] = set()

    @property
    def chars(self) -> int:
        """The characters of all messages."""
        self._turns[-1].messages()
        return self._settled_chars + self._turns[-1].chars

    def messages(self, instructions: str, max_chars: int) -> list[Message]:
        """What the model reads. The oldest turns are forgotten until the text fits; the last one is always there."""
        last = self._turns[-1].messages()
        too_many = self.over(instructions, max_chars)
        while too_many > 0 and len(self._turns) > 1:
            oldest = self._turns.popleft()
            del self._settled[: len(oldest.messages())]
            self._settled_chars -= oldest.chars
            too_many -= oldest.chars
        head: list[Message] = [SystemMessage(instructions)] if instructions else []
        if self._summary is not None:
            head.append(self._summary)
            if isinstance((self._settled or last or [self._summary])[0], UserMessage):
                head.append(_READ)
        return head + self._settled + last

    def over(self, instructions: str, max_chars: int) -> int:
        """By how many characters all that was said is longer than what the model may read; negative when it fits."""
        summary = 0 if self._summary is None else chars(self._summary)
        return self.chars + summary + len(instructions) - max_chars

    def last_output(self, configuration_name: str) -> dict[str, Any] | None:
        """The newest visible output of a tool that is no error, among the turns that are remembered."""
        for turn in reversed(self._turns):
            answers = [item for item in reversed(turn.items) if isinstance(item, _Answer)]
            for call in (call for answer in answers for call in reversed(answer.calls)):
                wanted = call.visible and call.input.tool_configuration_name == configuration_name
                if wanted and call.output is not None and not call.output.error:
                    return call.output.tool_output
        return None

    def _settle(self, turn: _Turn) -> None:
        self._settled += turn.messages()
        self._settled_chars += turn.chars

    def _settle_again(self) -> None:
        self._settled, self._settled_chars = [], 0
        for turn in list(self._turns)[:-1]:
            self._settle(turn)

    def add(self, event: AnyEvent) -> None:
        """Go on by one event of the log."""
        match event:
            case InputMessageEvent():
                self._answer = None
                if not event.hidden:
                    self._hear(event)
            case ArtifactUploadEvent(agent_upload_message=str(remark)):
                if not event.hidden:
                    self._said(remark)
            case ThinkingEvent():
                if self._answer is not None and self._answer.output_id not in (None, event.output_id):
                    self._answer = None
            case AgentOutputEvent():
                answer = self._current(event.output_id)
                if not event.hidden and event.content:
                    answer.texts.append(event.content)
            case StructuredOutputEvent():
                answer = self._current(None)
                if not event.hidden:
                    answer.texts.append(codec.encode(event.content).decode())
            case ToolInputEvent():
                answer = self._current(None)
                call = _Call(self._unique(event), event, self._turns[-1])
                answer.calls.append(call)
                self._open[event.tool_call_id] = call
            case ToolOutputEvent():
                self._answer = None
                if found := self._open.pop(event.tool_call_id, None):
                    found.output = event
                    found.turn.changed()
                    if found.turn is not self._turns[-1]:
                        self._settle_again()
            case SessionInterruptedEvent():
                self._answer = None
                if not event.hidden:
                    self._turns[-1].items.append(_Interrupt())
                    self._turns[-1].changed()
            case TurnStartedRecord() | TurnEndedRecord():
                self._answer = None
            case _:
                pass

    def _hear(self, event: InputMessageEvent) -> None:
        """An input opens a turn, or joins the turn that it belongs to."""
        if not event.turn_id or event.turn_id != self._turns[-1].id:
            self._settle(self._turns[-1])
            self._turns.append(_Turn(event.turn_id))
        self._turns[-1].items.append(UserMessage("\n".join(map(_line, event.messages))))
        self._turns[-1].changed()

    def _said(self, text: str) -> None:
        """The user goes on: in the same message, because some providers refuse one after another."""
        items = self._turns[-1].items
        last = items[-1] if items else None
        if isinstance(last, UserMessage):
            items.pop()
            text = f"{last.content}\n\n{text}" if last.content else text
        items.append(UserMessage(text))
        self._turns[-1].changed()

    def _current(self, output_id: str | None) -> _Answer:
        """The answer that is being read; another `output_id` starts a new one."""
        self._turns[-1].changed()
        answer = self._answer
        if answer is None or (output_id and answer.output_id and output_id != answer.output_id):
            answer = self._answer = _Answer()
            self._turns[-1].items.append(answer)
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


def _line(part: InputPart) -> str:
    return part.content if isinstance(part, TextPart) else f'Use the skill "{part.skill_name}".'


def _messages(items: list[_Item]) -> list[Message]:
    messages: list[Message] = []
    for item in items:
        if isinstance(item, UserMessage):
            if messages and isinstance(messages[-1], UserMessage):
                messages[-1] = UserMessage(f"{messages[-1].content}\n{item.content}")
            else:
                messages.append(item)
            continue
        if isinstance(item, _Interrupt):
            if messages and not isinstance(messages[-1], AssistantMessage):
                messages.append(_INTERRUPTED)
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
