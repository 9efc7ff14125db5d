"""The answer to an input, whole or as a stream, made from what a tail of its turn brings."""

import asyncio
from collections.abc import Sequence

from sessile.api.deltas import Deltas, encoded
from sessile.domain.log import Entry
from sessile.live.channel import Node
from sessile.live.replay import Source
from sessile.rows import Claim, Rejoined
from sessile.wire import codec, sse
from sessile.wire.events import (
    RECORD_TYPES,
    AgentOutputEvent,
    StreamEnd,
    StreamError,
    StreamingAgentOutput,
    TurnEndedRecord,
)

Turn = Claim | Rejoined
"""A turn that has just been accepted, or one that a repeated request joins again."""


async def whole(claim: Turn, tail: Source, patience: float | None) -> bytes:
    """All durable events of the turn as one JSON body, once it has stopped or `patience` seconds have passed."""
    entries = list(claim.opened)
    try:
        if patience is None:
            await _collect(claim, tail, entries)
        else:
            async with asyncio.timeout(patience):
                await _collect(claim, tail, entries)
    except TimeoutError:
        pass
    finally:
        tail.close()
    return rendered(entries, claim.session.key, claim.turn_id, stopped=tail.closed is not None)


def rendered(
    entries: Sequence[Entry], session_key: str, turn_id: str | None, *, stopped: bool, stop_reason: str | None = None
) -> bytes:
    """The body of a whole answer. Entries that hold no end of the turn leave the rest to `stopped`, `stop_reason`."""
    ended = ended_by(entries[-1]) if entries and entries[-1].type == "turn_ended" else None
    return b'{"events":[%b],"session_key":"%b","turn_id":%b,"status":"%b","stop_reason":%b,"error":%b}' % (
        b",".join(entry.json for entry in entries if entry.type not in RECORD_TYPES),
        session_key.encode(),
        codec.encode(turn_id),
        b"stopped" if ended or stopped else b"running",
        codec.encode(ended.stop_reason if ended else stop_reason),
        codec.encode(ended.error if ended else None),
    )


async def _collect(claim: Turn, tail: Source, entries: list[Entry]) -> None:
    while entries[-1].type != "turn_ended" and not tail.closed:
        entries += _entries_of(claim, await tail.next())


class TurnAnswer:
    """The `Rendering` of one turn: the input, then deltas and durable events as they happen, last `end`."""

    heartbeat = sse.COMMENT

    def __init__(self, claim: Turn) -> None:
        self.ended = False
        self._claim = claim
        self._deltas = Deltas()

    def opening(self) -> bytes:
        """The input, and the files that came with it."""
        return b"".join(sse.frame(one.type, one.json) for one in self._claim.opened if one.type not in RECORD_TYPES)

    def render(self, nodes: list[Node]) -> bytes:
        """What belongs to this turn."""
        chunks = []
        for node in nodes:
            if self.ended:
                break
            chunks.append(self._entry(node, node.entry) if node.entry else self._live(node))
        return b"".join(chunks)

    def closed(self, reason: str) -> bytes:
        """The turn has stopped without a word."""
        return encoded(StreamEnd(status="stopped", reason=reason))

    def late(self) -> bytes:
        """The turn goes on."""
        return encoded(StreamEnd(status="running"))

    def _live(self, node: Node) -> bytes:
        frame = node.frame
        if getattr(frame, "turn_id", None) != self._claim.turn_id:
            return b""
        return self._deltas.delta(node, frame) if isinstance(frame, StreamingAgentOutput) else node.sse

    def _entry(self, node: Node, entry: Entry) -> bytes:
        if entry.turn_id != self._claim.turn_id or entry.sequence <= self._claim.opened[-1].sequence:
            return b""
        if entry.type == "agent_output":
            event = node.event
            assert isinstance(event, AgentOutputEvent)
            return self._deltas.end(event)
        if entry.type == "turn_ended":
            self.ended = True
            ended = ended_by(entry)
            return self._deltas.void(ended.created_at) + end_frames(ended)
        return b"" if entry.type in RECORD_TYPES else node.sse


def end_frames(ended: TurnEndedRecord) -> bytes:
    """The end of a turn as frames."""
    end = encoded(StreamEnd(status="stopped", stop_reason=ended.stop_reason))
    if ended.error is None:
        return end
    return encoded(StreamError(messages=[ended.error.message], code=ended.error.code)) + end


def _entries_of(claim: Turn, nodes: list[Node]) -> list[Entry]:
    after = claim.opened[-1].sequence
    return [
        node.entry
        for node in nodes
        if node.entry is not None and node.entry.turn_id == claim.turn_id and node.entry.sequence > after
    ]


def ended_by(entry: Entry) -> TurnEndedRecord:
    """What a `turn_ended` says."""
    event = entry.event()
    assert isinstance(event, TurnEndedRecord)
    return event
