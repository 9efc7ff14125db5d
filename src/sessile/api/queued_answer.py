"""The answer to an input that waits, or that was sent with `since`: what is in the log after a place, to the end of its
turn. Which turn takes it may show only once the input stands in the log."""

import asyncio

from starlette.responses import Response

from sessile.api.call import JsonResponse
from sessile.api.deltas import Deltas, encoded
from sessile.api.live_stream import LiveStream
from sessile.api.turn_answer import ending, rendered
from sessile.domain.log import Entry
from sessile.live.channel import ENDS_TURN, Node
from sessile.live.hub import Hub
from sessile.live.replay import Source
from sessile.rows import Queued, Rejoined
from sessile.service.inputs import Accepted
from sessile.wire import ids, sse
from sessile.wire.events import RECORD_TYPES, AgentOutputEvent, LiveFrame, StreamEnd, StreamingAgentOutput

_GOES_ON = "drain"
"""A server that stops ends nothing: the next one runs the turn."""


class Awaited:
    """The turn of an input, as far as it is known."""

    def __init__(self, accepted: Accepted) -> None:
        self.session_key = accepted.session.key
        self.event_id: str
        """The input: the id it waits under, and once it was taken the one it has in the log."""
        self.turn_id: str | None
        """The turn; None while it is not known which one takes the input."""
        self.sequence: int | None
        """Where the input stands in the log; None while it waits."""
        if isinstance(accepted, Queued):
            waits = accepted.input
            self.event_id, self.sequence = waits.event_id, None
            self.turn_id = waits.turn_id if waits.behavior == "follow_up" else None
        else:
            taken = accepted.opened[0]
            self.event_id, self.turn_id, self.sequence = taken.id, accepted.turn_id, taken.sequence

    def note(self, entry: Entry) -> None:
        """Look at the next entry of the log: it may be the input."""
        if self.sequence is None and entry.type == "input_message" and ids.is_same_input(entry.id, self.event_id):
            self.event_id, self.turn_id, self.sequence = entry.id, entry.turn_id, entry.sequence

    def shows(self, entry: Entry, since: int | None) -> bool:
        """Whether the answer holds an entry: one after `since`, or without it one of the turn, from the input on."""
        return self._covers(entry) if since is None else entry.sequence > since

    def is_ended_by(self, entry: Entry) -> bool:
        """Whether an entry is the end of the turn, or where it waits for client tools."""
        return entry.type in ENDS_TURN and self._covers(entry)

    def is_about(self, frame: LiveFrame | None) -> bool:
        """Whether a frame is of the turn, after it took the input."""
        return self.sequence is not None and getattr(frame, "turn_id", None) == self.turn_id

    def _covers(self, entry: Entry) -> bool:
        return self.sequence is not None and entry.sequence >= self.sequence and entry.turn_id == self.turn_id

    @property
    def headers(self) -> dict[str, str]:
        """What the head of an answer says of it."""
        turn = {} if self.turn_id is None else {"x-turn-id": self.turn_id}
        return {**turn, "x-event-id": self.event_id}


def source(hub: Hub, accepted: Accepted, since: int | None, *, deltas: bool) -> Source:
    """Where its answer comes from; `since` is the place that the caller knows, if it has named one."""
    session_id = accepted.session.id
    if isinstance(accepted, Queued):
        cursor = accepted.session.last_sequence if since is None else since
        return hub.follow(session_id, cursor, deltas=deltas, joins=since is not None, awaits=accepted.input.event_id)
    before = accepted.opened[0].sequence - 1
    cursor = before if since is None else since
    if isinstance(accepted, Rejoined) and not accepted.running:
        return hub.replay(session_id, min(cursor, before))  # its end must come, even when the caller knows it
    return hub.follow(session_id, cursor, deltas=deltas, joins=True)


async def answer(
    accepted: Accepted, tail: Source, patience: float | None, since: int | None, *, stream: bool
) -> Response:
    """The answer, whole or as a stream."""
    awaited = Awaited(accepted)
    if stream:
        return LiveStream(QueuedAnswer(awaited, since), tail, 201, awaited.headers, patience)
    body = await whole(awaited, tail, patience, since)
    return JsonResponse(body, 201, awaited.headers)


async def whole(awaited: Awaited, tail: Source, patience: float | None, since: int | None) -> bytes:
    """The durable events as one JSON body, once the turn has stopped or `patience` seconds have passed."""
    entries: list[Entry] = []
    ended = False
    try:
        async with asyncio.timeout(patience):
            while not (ended or tail.closed):
                for node in await tail.next():
                    ended = ended or _collect(awaited, node.entry, since, entries)
    except TimeoutError:
        pass
    finally:
        tail.close()
    if ended:
        return rendered(entries, awaited.session_key, awaited.turn_id, stopped=True)
    reason = tail.closed
    stopped = reason is not None and reason != _GOES_ON
    entries = [entry for entry in entries if entry.type not in RECORD_TYPES]  # the last may be another turn's end
    return rendered(entries, awaited.session_key, awaited.turn_id, stopped=stopped, reason=reason)


def _collect(awaited: Awaited, entry: Entry | None, since: int | None, entries: list[Entry]) -> bool:
    """Take an entry that is to be shown; True when it ends the turn."""
    if entry is None:
        return False
    awaited.note(entry)
    ends = awaited.is_ended_by(entry)
    if ends or awaited.shows(entry, since):
        entries.append(entry)
    return ends


class QueuedAnswer:
    """The `Rendering` of it: all that happens in the session after `since`, or without it the turn alone."""

    heartbeat = sse.COMMENT

    def __init__(self, awaited: Awaited, since: int | None) -> None:
        self.ended = False
        self._awaited = awaited
        self._since = since
        self._deltas = Deltas()

    def opening(self) -> bytes:
        """The input comes when it is taken."""
        return b""

    def render(self, nodes: list[Node]) -> bytes:
        """What the caller is to see."""
        chunks = []
        for node in nodes:
            if self.ended:
                break
            chunks.append(self._entry(node, node.entry) if node.entry else self._live(node))
        return b"".join(chunks)

    def closed(self, reason: str) -> bytes:
        """No turn takes the input any more, or the server stops."""
        return encoded(StreamEnd(status="running" if reason == _GOES_ON else "stopped", reason=reason))

    def late(self) -> bytes:
        """The turn goes on, or has not begun."""
        return encoded(StreamEnd(status="running"))

    def _live(self, node: Node) -> bytes:
        frame = node.frame
        if self._since is None and not self._awaited.is_about(frame):
            return b""
        return self._deltas.delta(node, frame) if isinstance(frame, StreamingAgentOutput) else node.sse

    def _entry(self, node: Node, entry: Entry) -> bytes:
        self._awaited.note(entry)
        if self._awaited.is_ended_by(entry):
            self.ended = True
            return self._deltas.void(node.event.created_at) + ending(node, entry)
        if not self._awaited.shows(entry, self._since):
            return b""
        if entry.type == "agent_output":
            event = node.event
            assert isinstance(event, AgentOutputEvent)
            return self._deltas.end(event)
        if entry.type == "turn_ended":
            return self._deltas.void(node.event.created_at)
        return b"" if entry.type in RECORD_TYPES else node.sse
