"""A session as a stream that goes on from turn to turn: what is durable with ids to come back with, deltas without."""

from sessile.api.deltas import Deltas, encoded
from sessile.domain.log import Entry
from sessile.live.channel import Node
from sessile.wire import sse
from sessile.wire.events import AgentOutputEvent, SessionState, StreamEnd, StreamingAgentOutput


class Following:
    """The `Rendering` of a session: its position and state, then the log and what happens."""

    heartbeat = sse.HEARTBEAT
    ended = False

    def __init__(self, position: str, state: SessionState, *, deltas: bool, include_hidden: bool) -> None:
        self._position = position
        self._state = state
        self._wants_deltas = deltas
        self._include_hidden = include_hidden
        self._deltas = Deltas(snapshots=True)

    def opening(self) -> bytes:
        """Where the stream starts, so that a client cut off early comes back to it; and how the session stands."""
        return sse.position(self._position) + encoded(self._state)

    def render(self, nodes: list[Node]) -> bytes:
        """Everything that the caller wants to see."""
        return b"".join(self._entry(node, node.entry) if node.entry else self._live(node) for node in nodes)

    def closed(self, reason: str) -> bytes:
        """Why it ends."""
        return encoded(StreamEnd(reason=reason))

    def late(self) -> bytes:
        """Time limits are for inputs."""
        return b""

    def _live(self, node: Node) -> bytes:
        if not self._wants_deltas:
            return b""
        frame = node.frame
        return self._deltas.delta(node, frame) if isinstance(frame, StreamingAgentOutput) else node.sse

    def _entry(self, node: Node, entry: Entry) -> bytes:
        if entry.deleted:
            return b""
        before = self._deltas_before(node, entry) if self._wants_deltas else b""
        if entry.hidden and not self._include_hidden:
            return before
        return before + node.sse_with_id

    def _deltas_before(self, node: Node, entry: Entry) -> bytes:
        """The end of the output that an entry ends, if something of it was shown."""
        if entry.type == "turn_ended":
            return self._deltas.void(node.event.created_at)
        if entry.type != "agent_output":
            return b""
        event = node.event
        assert isinstance(event, AgentOutputEvent)
        if self._deltas.shows(event.output_id):
            return self._deltas.end(event)
        self._deltas.skip(event)
        return b""
