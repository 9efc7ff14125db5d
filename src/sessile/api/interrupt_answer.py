"""The answer to an interrupt, whole or as a stream: what became durable since it was recorded, to the end of the turn.

It shows no deltas: whoever interrupts follows the turn elsewhere, or wants to know only what was kept.
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sessile.api import turn_answer
from sessile.domain.log import Entry
from sessile.live.channel import Node
from sessile.live.tail import Tail
from sessile.ports import Interruption
from sessile.wire import sse
from sessile.wire.events import RECORD_TYPES, AgentOutputEvent, StreamEnd


async def whole(found: Interruption, tail: Tail | None, patience: float | None) -> bytes:
    """The durable events as one JSON body, once the turn has ended or `patience` seconds have passed."""
    entries: list[Entry] = []
    stopped, stop_reason = tail is None, found.session.stop_reason if tail is None else None
    if tail is not None:
        try:
            async with asyncio.timeout(patience):
                while not (_has_ended(entries) or tail.closed):
                    entries += _entries_of(found, await tail.next())
        except TimeoutError:
            pass
        finally:
            tail.close()
        stopped = tail.closed is not None
    return turn_answer.rendered(entries, found.session.key, found.turn_id, stopped=stopped, stop_reason=stop_reason)


class InterruptStream(StreamingResponse):
    """The same events as frames, last `end`. A heartbeat goes out when nothing happened for a while."""

    def __init__(self, found: Interruption, tail: Tail | None, patience: float | None, headers: dict[str, str]) -> None:
        frames = _frames(found, tail, patience)
        super().__init__(frames, 201, headers | turn_answer.STREAM_HEADERS, "text/event-stream")
        self._tail = tail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all; a client that goes away takes nothing back."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._tail is not None:
                self._tail.close()


async def _frames(found: Interruption, tail: Tail | None, patience: float | None) -> AsyncIterator[bytes]:
    if tail is None:
        yield turn_answer.frame_bytes(StreamEnd(status="stopped", stop_reason=found.session.stop_reason))
        return
    deadline = None if patience is None else asyncio.get_running_loop().time() + patience
    entries: list[Entry] = []
    while not _has_ended(entries):
        try:
            nodes = await turn_answer.next_nodes(tail, deadline)
        except TimeoutError:
            yield turn_answer.frame_bytes(StreamEnd(status="running"))
            return
        if tail.closed and not nodes:
            yield turn_answer.frame_bytes(StreamEnd(status="stopped", reason=tail.closed))
            return
        entries = _entries_of(found, nodes)
        yield b"".join(map(_frame, entries)) or sse.HEARTBEAT


def _entries_of(found: Interruption, nodes: list[Node]) -> list[Entry]:
    """What became durable in the turn since the interrupt, up to the end of the turn."""
    after = found.session.last_sequence
    entries = [node.entry for node in nodes if node.entry is not None and node.entry.sequence > after]
    return [entry for entry in entries if entry.turn_id == found.turn_id]


def _has_ended(entries: list[Entry]) -> bool:
    return bool(entries) and entries[-1].type == "turn_ended"


def _frame(entry: Entry) -> bytes:
    if entry.type == "agent_output":
        event = entry.event()
        assert isinstance(event, AgentOutputEvent)
        return turn_answer.output_frames(event)
    if entry.type == "turn_ended":
        return turn_answer.end_frames(turn_answer.ended_by(entry))
    return b"" if entry.type in RECORD_TYPES else sse.frame(entry.type, entry.json)
