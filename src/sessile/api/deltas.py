"""The text of outputs on one stream: cut so that what is shown, joined, is the durable text, whatever was skipped."""

from collections import deque

from msgspec import structs

from sessile.live.channel import Node
from sessile.wire import codec, sse
from sessile.wire.events import AgentOutputEvent, LiveFrame, StreamingAgentOutput, StreamingAgentOutputEnd

_REMEMBERED = 16
"""Outputs that are known to have ended; a delta can only be late by one or two of them."""


class Deltas:
    """What of the outputs in flight a stream has shown. An output whose event did not come is called void.

    With `snapshots`, a snapshot is shown as one.
    """

    def __init__(self, *, snapshots: bool = False) -> None:
        self._snapshots = snapshots
        self._last: StreamingAgentOutput | None = None
        """The newest delta of the output that is being shown."""
        self._shown = 0
        self._ended = deque[str](maxlen=_REMEMBERED)

    def shows(self, output_id: str) -> bool:
        """Whether something of this output was shown, and its end was not."""
        return self._last is not None and self._last.output_id == output_id

    def delta(self, node: Node, frame: StreamingAgentOutput) -> bytes:
        """What of a delta is new."""
        if frame.output_id in self._ended:
            return b""
        void = b"" if self.shows(frame.output_id) else self.void(frame.created_at)
        if self._last is None:
            self._shown = 0
        known = self._shown - frame.offset
        if known >= len(frame.content):
            return void
        self._last, self._shown = frame, frame.offset + len(frame.content)
        if known <= 0 and (self._snapshots or not frame.snapshot):
            return void + node.sse
        known = max(known, 0)
        rest = structs.replace(frame, content=frame.content[known:], offset=frame.offset + known, snapshot=False)
        return void + encoded(rest)

    def end(self, event: AgentOutputEvent) -> bytes:
        """The end of an output that became durable, after what of it no delta has shown."""
        shown = self._shown if self.shows(event.output_id) else 0
        self._forget(event.output_id)
        sent = b""
        if shown < len(event.content):
            rest = StreamingAgentOutput(
                content=event.content[shown:],
                output_id=event.output_id,
                offset=shown,
                turn_id=event.turn_id,
                created_at=event.created_at,
            )
            sent = encoded(rest)
        end = StreamingAgentOutputEnd(
            output_id=event.output_id, turn_id=event.turn_id, created_at=event.created_at, event_id=event.id
        )
        return sent + encoded(end)

    def skip(self, event: AgentOutputEvent) -> None:
        """An output became durable of which nothing was shown."""
        self._forget(event.output_id)

    def void(self, created_at: str) -> bytes:
        """The end of the output that is being shown, if there is one: it will not become durable."""
        last = self._last
        if last is None:
            return b""
        self._forget(last.output_id)
        return encoded(StreamingAgentOutputEnd(output_id=last.output_id, turn_id=last.turn_id, created_at=created_at))

    def _forget(self, output_id: str) -> None:
        self._ended.append(output_id)
        if self.shows(output_id):
            self._last, self._shown = None, 0


def encoded(frame: LiveFrame) -> bytes:
    """An ephemeral frame as a server-sent event."""
    return sse.frame(str(frame.__struct_config__.tag), codec.encode(frame))
