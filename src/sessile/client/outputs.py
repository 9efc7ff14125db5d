"""The deltas of outputs over several connections: what joins what was shown, once and in order. It does no I/O."""

from typing import Any

from msgspec import UNSET, structs

from sessile.wire.events import (
    AgentOutputEvent,
    StreamingAgentOutput,
    StreamingAgentOutputEnd,
    StreamingThinking,
    StreamingThinkingEnd,
    ThinkingEvent,
    TurnEndedRecord,
)

_Delta = StreamingAgentOutput | StreamingThinking


class Outputs:
    """What has been shown of the thinking and the output that are in flight."""

    def __init__(self) -> None:
        self._output: StreamingAgentOutput | None = None
        """The newest delta that was shown of the output in flight."""
        self._thinking: StreamingThinking | None = None
        self._durable: set[str] = set()
        """Outputs of the running turn that need no deltas any more."""
        self._thought: set[str] = set()

    def shown(self, item: Any) -> list[Any]:
        """What a frame or event amounts to: nothing, itself, what is new of it, or itself after a void output's end."""
        match item:
            case StreamingAgentOutput():
                return self._text(item)
            case StreamingThinking():
                if item.output_id in self._thought or (new := _joined(self._thinking, item)) is None:
                    return []
                self._thinking = new
                return [new]
            case StreamingThinkingEnd():
                open_thinking, self._thinking = self._thinking, None
                self._thought.add(item.output_id)
                return [item] if _same(open_thinking, item.output_id) else []
            case StreamingAgentOutputEnd():
                return self._end(item)
            case AgentOutputEvent():
                return [*self._settled(item), item]
            case ThinkingEvent():
                self._thought.add(item.output_id)
                self._thinking = None
                return [item]
            case TurnEndedRecord():
                void = self._void(item.created_at)
                self._thinking = None
                self._durable.clear()
                self._thought.clear()
                return [*void, item]
        return [item]

    def _text(self, delta: StreamingAgentOutput) -> list[Any]:
        if delta.output_id in self._durable:
            return []
        void = [] if _same(self._output, delta.output_id) else self._void(delta.created_at)
        new = _joined(self._output, delta)
        if new is None:
            return void
        self._output = new
        return [*void, new]

    def _end(self, end: StreamingAgentOutputEnd) -> list[Any]:
        """The server's word that an output is complete, or void. Of an output that was not shown it says nothing."""
        if not _same(self._output, end.output_id):
            return []
        self._output = None
        if end.event_id is not UNSET:
            self._durable.add(end.output_id)
        return [end]

    def _settled(self, event: AgentOutputEvent) -> list[Any]:
        """The rest and the end of an output that became durable while nobody was connected."""
        self._durable.add(event.output_id)
        last, self._output = self._output, None
        if last is None:
            return []
        if last.output_id != event.output_id:
            self._output = last
            return self._void(event.created_at)
        id, turn_id, at, offset = event.output_id, event.turn_id, event.created_at, last.offset + len(last.content)
        text = event.content[offset:]
        rest = StreamingAgentOutput(content=text, output_id=id, offset=offset, turn_id=turn_id, created_at=at)
        end = StreamingAgentOutputEnd(output_id=id, turn_id=turn_id, created_at=at, event_id=event.id)
        return [rest, end] if text else [end]

    def _void(self, created_at: str) -> list[Any]:
        last, self._output = self._output, None
        if last is None:
            return []
        return [StreamingAgentOutputEnd(output_id=last.output_id, turn_id=last.turn_id, created_at=created_at)]


def _same(last: _Delta | None, output_id: str) -> bool:
    return last is not None and last.output_id == output_id


def rest(delta: Any, shown: int) -> Any:
    """What is new of a delta when so many characters of its output were shown; None when that is nothing."""
    known = shown - delta.offset
    if known <= 0:
        return delta
    if known >= len(delta.content):
        return None
    return structs.replace(delta, content=delta.content[known:], offset=shown, snapshot=False)


def _joined(last: Any, delta: Any) -> Any:
    """What is new of a delta; None when that is nothing, or when something is missing before it."""
    shown = last.offset + len(last.content) if _same(last, delta.output_id) else 0
    return rest(delta, shown) if shown >= delta.offset and delta.content else None
