"""What turns show, between nodes: to those where somebody wants it, and from the one that runs the turn.

A node with followers of a session whose turn it does not run says so to all (`Want`), at every heartbeat again. The one
that runs it answers with the text so far and sends what is new, until the turn ends or nobody wants it. Where all
followers are on the node that runs the turn, nothing is sent.
"""

import asyncio
from collections.abc import Iterable, Mapping

from sessile.domain.log import Entry
from sessile.live import messages
from sessile.live.channel import ENDS_TURN, Channel
from sessile.live.messages import Leave, Message, Piece, Start, Want
from sessile.live.mirror import Mirror
from sessile.ports import Relay, Store
from sessile.wire.events import LiveFrame

_PAUSE_SECONDS = 1.0
"""Between two times that a text so far is asked for because of a gap."""
_HOLDS_HEARTBEATS = 3


class Exchange:
    """The relay's end at a hub, whose channels it shares."""

    def __init__(self, relay: Relay, store: Store, channels: Mapping[int, Channel], heartbeat_seconds: float) -> None:
        self._relay = relay
        self._store = store
        self._channels = channels
        self._holds_seconds = heartbeat_seconds * _HOLDS_HEARTBEATS
        self._now = asyncio.get_running_loop().time
        self._mirrors: dict[int, Mirror] = {}
        """By session: what runs elsewhere, if anything, and is followed here."""
        self._wanted: dict[int, dict[str, float]] = {}
        """By session that runs here: the nodes that want it, and until when."""
        self._asked: dict[int, float] = {}
        """By session that is followed here: when to ask again at the earliest."""
        self._taken_up: set[int] = set()
        """Sessions whose turns run here and were begun elsewhere, so that nothing was announced here of their log."""
        relay.receive(self._heard)

    def followed(self, session_id: int) -> None:
        """Somebody here wants to see all of a session."""
        if not self._channels[session_id].running and session_id not in self._mirrors:
            self._mirror(session_id)
            self._ask([session_id])

    def unfollowed(self, session_id: int) -> None:
        """A follower has left."""
        mirror = self._mirrors.get(session_id)
        if mirror is not None and not self._channels[session_id].wants_deltas:
            if mirror.source is not None:
                self._relay.send(messages.encode(Leave(session_id)), mirror.source)
            self._close(session_id)

    def announced(self, session_id: int, entries: Iterable[Entry]) -> None:
        """A turn that runs here has got on, or something else was done here."""
        channel = self._channels[session_id]
        if channel.running:
            self._close(session_id)
        self._taken_up.discard(session_id)
        if session_id in self._wanted and any(entry.type in ENDS_TURN for entry in entries):
            del self._wanted[session_id]

    def published(self, session_id: int, frame: LiveFrame) -> None:
        """A turn that runs here is about to show something."""
        if not self._channels[session_id].running:
            self._taken_up.add(session_id)
            self._close(session_id)
        if session_id in self._wanted:
            self._pass_on(session_id, frame)

    def left(self, session_id: int) -> None:
        """A turn runs here no more, but elsewhere."""
        self._wanted.pop(session_id, None)
        self._taken_up.discard(session_id)
        if self._channels[session_id].wants_deltas:
            self.followed(session_id)

    def closed(self, session_id: int) -> None:
        """A session is gone."""
        self._wanted.pop(session_id, None)
        self._taken_up.discard(session_id)
        self._close(session_id)

    def look(self, session_id: int, head: int) -> bool:
        """The log has got so far; whether its events are announced by this.

        Those who have followed a turn here may want to see the next one, which runs elsewhere.
        """
        channel, mirror = self._channels.get(session_id), self._mirrors.get(session_id)
        if mirror is None and channel is not None and not channel.running and channel.wants_deltas:
            mirror = self._mirror(session_id)
        if mirror is not None:
            mirror.look(head)
        return mirror is not None

    def beat(self) -> None:
        """A heartbeat: say again what is wanted, and ask where nobody has said anything."""
        silent = []
        for session_id, mirror in self._mirrors.items():
            if mirror.source is None and mirror.asks:
                mirror.asks -= 1
                silent.append(session_id)
            elif mirror.source is not None and not mirror.heard:
                silent.append(session_id)
            mirror.heard = False
        self._ask(silent, [id for id, mirror in self._mirrors.items() if mirror.source is not None])

    def _mirror(self, session_id: int) -> Mirror:
        mirror = Mirror(session_id, self._channels[session_id], self._store, lambda: self._ask_again(session_id))
        self._mirrors[session_id] = mirror
        return mirror

    def _close(self, session_id: int) -> None:
        if (mirror := self._mirrors.pop(session_id, None)) is not None:
            self._asked.pop(session_id, None)
            mirror.close()

    def _ask(self, afresh: list[int], sessions: Iterable[int] = ()) -> None:
        if wanted := sorted({*sessions, *afresh}):
            self._relay.send(messages.encode(Want(wanted, afresh)))

    def _ask_again(self, session_id: int) -> None:
        """Ask who runs a turn; or, after a gap, for the text so far: at most once in a while, for it may be long."""
        mirror = self._mirrors.get(session_id)
        if mirror is None:
            return
        if mirror.source is None or self._now() >= self._asked.get(session_id, 0.0):
            self._asked[session_id] = self._now() + _PAUSE_SECONDS
            self._ask([session_id])

    def _heard(self, node: str, line: bytes | None) -> None:
        message = None if line is None else messages.decode(line)
        if line is None:
            self._ask([id for id, mirror in self._mirrors.items() if mirror.source is not None or mirror.asks])
        elif message is not None:
            self._take(node, message)

    def _take(self, node: str, message: Message) -> None:
        if isinstance(message, Want):
            for session_id in message.sessions:
                self._want(node, session_id, session_id in message.afresh)
        elif isinstance(message, Leave):
            self._wanted.get(message.session, {}).pop(node, None)
        elif (mirror := self._mirrors.get(message.session)) is not None:
            mirror.receive(node, message)

    def _want(self, node: str, session_id: int, afresh: bool) -> None:
        channel = self._channels.get(session_id)
        if channel is None or not channel.running:
            return
        nodes = self._wanted.setdefault(session_id, {})
        if afresh or node not in nodes:
            self._relay.send(messages.encode(Start(session_id, self._head(session_id), channel.snapshot())), node)
        nodes[node] = self._now() + self._holds_seconds

    def _head(self, session_id: int) -> int | None:
        return None if session_id in self._taken_up else self._channels[session_id].head

    def _pass_on(self, session_id: int, frame: LiveFrame) -> None:
        nodes = self._wanted[session_id]
        line = messages.encode(Piece(session_id, self._head(session_id), frame))
        for node, until in list(nodes.items()):
            if until < self._now():
                del nodes[node]
            else:
                self._relay.send(line, node)
        if not nodes:
            del self._wanted[session_id]
