"""What of a turn a stream has shown, so that a stream that joins the turn again shows nothing twice. It does no I/O."""

from sessile.client.outputs import rest
from sessile.client.unknown import UnknownEvent
from sessile.wire.events import (
    Event,
    StreamError,
    StreamFrame,
    StreamingAgentOutput,
    StreamingAgentOutputEnd,
    StreamingThinking,
    StreamingThinkingEnd,
)

Frame = StreamFrame | UnknownEvent
"""What iterating over a stream gives."""
_Delta = StreamingAgentOutput | StreamingThinking
_Key = tuple[type, str]


class Seen:
    """Durable events are known by their place in the log, deltas by output and offset, all else by what it ends."""

    def __init__(self) -> None:
        self._sequence = 0
        self._chars: dict[_Key, int] = {}
        self._ended: set[_Key] = set()

    def new(self, frame: Frame, *, again: bool) -> Frame | None:
        """Note a frame. Of one that comes `again`, from a stream that joined later, only what was not shown before."""
        match frame:
            case StreamingAgentOutput() | StreamingThinking():
                return self._rest(frame, again)
            case StreamingAgentOutputEnd() | StreamingThinkingEnd():
                return self._once((type(frame), frame.output_id), frame, again)
            case StreamError():
                return self._once((StreamError, ""), frame, again)
            case Event() | UnknownEvent() if frame.sequence:
                known = frame.sequence <= self._sequence
                self._sequence = max(self._sequence, frame.sequence)
                return None if known and again else frame
        return frame

    def _rest(self, frame: _Delta, again: bool) -> Frame | None:
        key = (type(frame), frame.output_id)
        shown = self._chars.get(key, 0)
        self._chars[key] = max(shown, frame.offset + len(frame.content))
        new: Frame | None = rest(frame, shown) if again else frame
        return new

    def _once(self, key: _Key, frame: Frame, again: bool) -> Frame | None:
        known = key in self._ended
        self._ended.add(key)
        return None if known and again else frame
