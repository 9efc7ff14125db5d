"""The answer to an interrupt, whole or as a stream: what became durable since it was recorded, to the end of the turn.

It shows no deltas: whoever interrupts follows the turn elsewhere, or wants to know only what was kept.
"""

import asyncio

from starlette.responses import Response

from sessile.api import turn_answer
from sessile.api.deltas import Deltas, encoded
from sessile.api.live_stream import HEADERS, LiveStream
from sessile.domain.log import Entry
from sessile.live.channel import Node
from sessile.live.tail import Tail
from sessile.rows import Interruption
from sessile.wire import sse
from sessile.wire.events import RECORD_TYPES, AgentOutputEvent, StreamEnd


async def whole(found: Interruption, tail: Tail | None, patience: float | None) -> bytes:
    """The durable events as one JSON body, once the turn has ended or `patience` seconds have passed."""
    if tail is None:
        return turn_answer.rendered([], found.session.key, None, stopped=True, stop_reason=found.session.stop_reason)
    entries: list[Entry] = []
    try:
        async with asyncio.timeout(patience):
            while not (_has_ended(entries) or tail.closed):
                entries += _entries_of(found, await tail.next())
    except TimeoutError:
        pass
    finally:
        tail.close()
    return turn_answer.rendered(entries, found.session.key, found.turn_id, stopped=tail.closed == "deleted")


def stream(found: Interruption, tail: Tail | None, patience: float | None, headers: dict[str, str]) -> Response:
    """The same events as frames, last `end`."""
    if tail is None:
        end = encoded(StreamEnd(status="stopped", stop_reason=found.session.stop_reason))
        return Response(end, 201, {**headers, **HEADERS}, "text/event-stream")
    return LiveStream(InterruptAnswer(found), tail, 201, headers, patience)


class InterruptAnswer:
    """The `Rendering` of what an interrupt leaves."""

    heartbeat = sse.COMMENT

    def __init__(self, found: Interruption) -> None:
        self.ended = False
        self._found = found
        self._deltas = Deltas()

    def opening(self) -> bytes:
        """Nothing stands before the events."""
        return b""

    def render(self, nodes: list[Node]) -> bytes:
        """The durable events among them."""
        entries = _entries_of(self._found, nodes)
        self.ended = _has_ended(entries)
        return b"".join(map(self._entry, entries))

    def closed(self, reason: str) -> bytes:
        """The session is gone; or the server is, and the next one ends the turn."""
        return encoded(StreamEnd(status="running" if reason == "drain" else "stopped", reason=reason))

    def late(self) -> bytes:
        """The turn has not stopped yet."""
        return encoded(StreamEnd(status="running"))

    def _entry(self, entry: Entry) -> bytes:
        if entry.type == "agent_output":
            event = entry.event()
            assert isinstance(event, AgentOutputEvent)
            return self._deltas.end(event)
        if entry.type == "turn_ended":
            return turn_answer.end_frames(turn_answer.ended_by(entry))
        return b"" if entry.type in RECORD_TYPES else sse.frame(entry.type, entry.json)


def _entries_of(found: Interruption, nodes: list[Node]) -> list[Entry]:
    """What became durable in the turn since the interrupt, up to the end of the turn."""
    after = found.session.last_sequence
    entries = [node.entry for node in nodes if node.entry is not None and node.entry.sequence > after]
    return [entry for entry in entries if entry.turn_id == found.turn_id]


def _has_ended(entries: list[Entry]) -> bool:
    return bool(entries) and entries[-1].type == "turn_ended"
