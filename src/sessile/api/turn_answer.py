"""The answer to an input, whole or as a stream, made from what a tail of its turn brings."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from msgspec import structs
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sessile.domain.log import Entry
from sessile.live.channel import Node
from sessile.live.tail import Tail
from sessile.ports import Claim
from sessile.wire import codec, sse
from sessile.wire.events import (
    RECORD_TYPES,
    AgentOutputEvent,
    LiveFrame,
    StreamEnd,
    StreamError,
    StreamingAgentOutput,
    StreamingAgentOutputEnd,
    TurnEndedRecord,
)

_GATHER_SECONDS = 0.001
"""Deltas that come this soon after a write go out together in the next: the write is half of what a delta costs."""
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def whole(claim: Claim, tail: Tail, patience: float | None) -> bytes:
    """All durable events of the turn as one JSON body, once it has stopped or `patience` seconds have passed."""
    entries = [claim.opened[0]]
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


async def _collect(claim: Claim, tail: Tail, entries: list[Entry]) -> None:
    while entries[-1].type != "turn_ended" and not tail.closed:
        entries += _entries_of(claim, await tail.next())


class TurnStream(StreamingResponse):
    """The turn as server-sent events: the input, then deltas and durable events as they happen, last `end`.

    Frames that wait together go out as one chunk. A heartbeat goes out when nothing happened for a while.
    """

    def __init__(self, claim: Claim, tail: Tail, patience: float | None, headers: dict[str, str]) -> None:
        super().__init__(self._frames(claim, tail, patience), 201, headers | STREAM_HEADERS, "text/event-stream")
        self._tail = tail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all; a client that goes away ends the stream, not the turn."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._tail.close()

    async def _frames(self, claim: Claim, tail: Tail, patience: float | None) -> AsyncIterator[bytes]:
        stream = _Stream(claim)
        deadline = None if patience is None else asyncio.get_running_loop().time() + patience
        yield sse.frame("input_message", claim.opened[0].json)
        while not stream.ended:
            try:
                nodes = await next_nodes(tail, deadline)
            except TimeoutError:
                yield frame_bytes(StreamEnd(status="running"))
                return
            if nodes:
                if chunk := stream.render(nodes):
                    yield chunk
                if nodes[-1].entry is None:
                    await tail.gather(_GATHER_SECONDS)
            elif tail.closed:
                yield frame_bytes(StreamEnd(status="stopped", reason=tail.closed))
                return
            else:
                yield sse.HEARTBEAT


async def next_nodes(tail: Tail, deadline: float | None) -> list[Node]:
    """What a tail brings next. Raises TimeoutError after the deadline."""
    if deadline is None:
        return await tail.next()
    async with asyncio.timeout_at(deadline):
        return await tail.next()


class _Stream:
    """What of a turn has been sent. Deltas are cut so that together they are the durable text, whatever was skipped."""

    def __init__(self, claim: Claim) -> None:
        self.ended = False
        self._claim = claim
        self._output_id = ""
        self._shown = 0
        self._finished: set[str] = set()

    def render(self, nodes: list[Node]) -> bytes:
        chunks = []
        for node in nodes:
            if self.ended:
                break
            chunks.append(self._entry(node, node.entry) if node.entry else self._live(node))
        return b"".join(chunks)

    def _live(self, node: Node) -> bytes:
        frame = node.frame
        if getattr(frame, "turn_id", None) != self._claim.turn_id:
            return b""
        if not isinstance(frame, StreamingAgentOutput):
            return node.sse
        if frame.output_id in self._finished:
            return b""
        if frame.output_id != self._output_id:
            self._output_id, self._shown = frame.output_id, 0
        known = self._shown - frame.offset
        if known >= len(frame.content):
            return b""
        self._shown = frame.offset + len(frame.content)
        if known == 0 and not frame.snapshot:
            return node.sse
        rest = structs.replace(frame, content=frame.content[known:], offset=frame.offset + known, snapshot=False)
        return frame_bytes(rest)

    def _entry(self, node: Node, entry: Entry) -> bytes:
        if entry.turn_id != self._claim.turn_id or entry.sequence <= self._claim.opened[-1].sequence:
            return b""
        if entry.type == "agent_output":
            return self._output(entry)
        if entry.type == "turn_ended":
            self.ended = True
            return end_frames(ended_by(entry))
        return b"" if entry.type in RECORD_TYPES else node.sse

    def _output(self, entry: Entry) -> bytes:
        event = entry.event()
        assert isinstance(event, AgentOutputEvent)
        self._finished.add(event.output_id)
        return output_frames(event, self._shown if event.output_id == self._output_id else 0)


def output_frames(event: AgentOutputEvent, shown: int = 0) -> bytes:
    """An output as frames: what of its text was not `shown` yet, and its end."""
    sent = b""
    if shown < len(event.content):
        rest = StreamingAgentOutput(
            content=event.content[shown:],
            output_id=event.output_id,
            offset=shown,
            turn_id=event.turn_id,
            created_at=event.created_at,
        )
        sent = frame_bytes(rest)
    end = StreamingAgentOutputEnd(
        output_id=event.output_id, turn_id=event.turn_id, created_at=event.created_at, event_id=event.id
    )
    return sent + frame_bytes(end)


def end_frames(ended: TurnEndedRecord) -> bytes:
    """The end of a turn as frames."""
    end = frame_bytes(StreamEnd(status="stopped", stop_reason=ended.stop_reason))
    if ended.error is None:
        return end
    return frame_bytes(StreamError(messages=[ended.error.message], code=ended.error.code)) + end


def _entries_of(claim: Claim, nodes: list[Node]) -> list[Entry]:
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


def frame_bytes(frame: LiveFrame) -> bytes:
    """An ephemeral frame as a server-sent event."""
    return sse.frame(str(frame.__struct_config__.tag), codec.encode(frame))
