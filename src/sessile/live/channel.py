"""The in-process channel of one session: a chain of what happened, and whoever waits for more. It reads no store."""

import asyncio
import time
from collections.abc import Sequence

from msgspec import structs

from sessile.domain.log import Entry
from sessile.wire import codec, sse
from sessile.wire.events import AnyEvent, LiveFrame, StreamingAgentOutput, StreamingAgentOutputEnd

MAX_LAG_BYTES = 1024 * 1024
"""A follower that is further behind loses its place, so that the chain behind the slowest one stays bounded."""
ENDS_TURN = frozenset({"turn_ended", "client_tool_pending"})
"""Durable events after which nothing of the turn happens here, for good or until a client has answered."""
ENDS_OUTPUT = frozenset({"agent_output", "turn_ended"})
"""Durable events after which no text is in flight."""
_INSPECTION_BYTES = 64 * 1024
_FRAME_OVERHEAD = 200


class Node:
    """One link: a durable entry or an ephemeral frame, encoded once however many followers send it.

    A follower holds the last node it has seen. Nodes that no follower holds any more are freed; `position` counts the
    bytes of the chain up to this node, so that a follower knows how far it is behind.
    """

    __slots__ = ("_event", "_sse", "_sse_with_id", "entry", "frame", "linked_at", "next", "position")

    def __init__(self, entry: Entry | None, frame: LiveFrame | None, position: int, linked_at: float = 0.0) -> None:
        self.entry = entry
        self.frame = frame
        self.position = position
        self.linked_at = linked_at
        self.next: Node | None = None
        self._event: AnyEvent | None = None
        self._sse: bytes | None = None
        self._sse_with_id: bytes | None = None

    @property
    def sse(self) -> bytes:
        """The node as a server-sent event without an id."""
        if self._sse is None:
            if self.entry is not None:
                self._sse = sse.frame(self.entry.type, self.entry.json)
            else:
                self._sse = sse.frame(str(self.frame.__struct_config__.tag), codec.encode(self.frame))  # type: ignore[union-attr]
        return self._sse

    @property
    def sse_with_id(self) -> bytes:
        """A durable entry as a server-sent event whose id a client can come back with."""
        if self._sse_with_id is None:
            assert self.entry is not None
            self._sse_with_id = b"id: %b\n%b" % (self.entry.id.encode(), self.sse)
        return self._sse_with_id

    @property
    def event(self) -> AnyEvent:
        """A durable entry, decoded once."""
        if self._event is None:
            assert self.entry is not None
            self._event = self.entry.event()
        return self._event


class Place:
    """Where a follower stands in the chain; `node` is None once it was too slow and has lost its place.

    `awaits`: the id of the input whose turn it waits for, if that may be withdrawn; `withdrawn`: whether it was.
    """

    __slots__ = ("awaits", "deltas", "node", "withdrawn")

    def __init__(self, node: Node, deltas: bool) -> None:
        self.node: Node | None = node
        self.deltas = deltas
        self.awaits: str | None = None
        self.withdrawn = False


class Channel:
    """What followers of one session share."""

    def __init__(self) -> None:
        self.tail = Node(None, None, 0)
        self.agent_id: int | None = None
        """The agent of the session, once somebody follows it."""
        self.running = False
        """Whether a turn of the session is running here."""
        self.head: int | None = None
        """The sequence of the newest event that was announced here, or None before the first."""
        self.log_head = 0
        """The newest sequence that the log was last seen to have."""
        self.output: StreamingAgentOutput | None = None
        """The latest delta of the output in flight, if there is one."""
        self.closed: str | None = None
        """Why the channel was closed, once it was."""
        self.places: set[Place] = set()
        self._output: list[str] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._patient: set[asyncio.Future[None]] = set()
        """Those who wait for durable events only."""
        self._inspect_at = _INSPECTION_BYTES

    @property
    def wants_deltas(self) -> bool:
        """Whether a follower wants to see ephemeral frames."""
        return any(place.deltas for place in self.places)

    def announce(self, entries: Sequence[Entry], here: bool = True) -> None:
        """Link durable events. `here`: whether it was done here, also in `publish`."""
        for entry in entries:
            self._link(Node(entry, None, self.tail.position + len(entry.body) + _FRAME_OVERHEAD))
            self.head = max(entry.sequence, self.head or 0)
            if entry.turn_id:
                self.running = here and entry.type not in ENDS_TURN
            if entry.type in ENDS_OUTPUT:
                self.forget_output()
        self.wake()

    def publish(self, frame: LiveFrame, here: bool = True) -> None:
        """Link an ephemeral frame, and keep the text of the output in flight."""
        self.running = here
        size = _FRAME_OVERHEAD
        if isinstance(frame, StreamingAgentOutput):
            if self.output is None or frame.output_id != self.output.output_id:
                self.forget_output()
            self.output = frame
            self._output.append(frame.content)
            size += len(frame.content)
        elif isinstance(frame, StreamingAgentOutputEnd):
            self.forget_output()
        self._link(Node(None, frame, self.tail.position + size, time.perf_counter()))
        self._wake_impatient()

    def remind(self, log_head: int) -> None:
        """The log was looked at: wake everybody if it has more than was announced."""
        self.log_head = log_head
        if log_head > (self.head or 0):
            self.wake()

    def withdraw(self, event_id: str) -> None:
        """End the followers that wait for the turn of this input."""
        for place in self.places:
            place.withdrawn = place.withdrawn or place.awaits == event_id
        self.wake()

    def close(self, reason: str) -> None:
        """End all followers."""
        self.closed = reason
        self.wake()

    def snapshot(self) -> StreamingAgentOutput | None:
        """All text so far of the output in flight, as one delta."""
        if self.output is None:
            return None
        return structs.replace(self.output, content="".join(self._output), offset=0, snapshot=True)

    def wait(self, deltas: bool = True) -> "asyncio.Future[None]":
        """A future that the next link completes, or, without `deltas`, the next durable one; a wake-up too."""
        waiter = asyncio.get_running_loop().create_future()
        (self._waiters if deltas else self._patient).add(waiter)
        return waiter

    def give_up(self, waiter: "asyncio.Future[None]") -> None:
        """Nobody waits for this future any more."""
        self._waiters.discard(waiter)
        self._patient.discard(waiter)

    def wake(self) -> None:
        """Complete all waiting futures."""
        patient, self._patient = self._patient, set()
        _complete(patient)
        self._wake_impatient()

    def _wake_impatient(self) -> None:
        waiters, self._waiters = self._waiters, set()
        _complete(waiters)

    def attach(self, deltas: bool = True) -> Place:
        """A new follower, at the end of the chain."""
        place = Place(self.tail, deltas)
        self.places.add(place)
        return place

    def detach(self, place: Place) -> None:
        """A follower leaves."""
        self.places.discard(place)

    def _link(self, node: Node) -> None:
        self.tail.next = node
        self.tail = node
        if node.position >= self._inspect_at:
            self._inspect_at = node.position + _INSPECTION_BYTES
            for place in self.places:
                if place.node is not None and node.position - place.node.position > MAX_LAG_BYTES:
                    place.node = None

    def forget_output(self) -> None:
        """No text is in flight, or none that is known."""
        self.output = None
        self._output = []


def _complete(waiters: set["asyncio.Future[None]"]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
