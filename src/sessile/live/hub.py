"""All channels of a process: the `LiveSink` that runner and service write to, and the place where followers attach."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Sequence

from sessile.domain.log import Entry
from sessile.live.channel import Channel
from sessile.live.exchange import Exchange
from sessile.live.replay import Replay
from sessile.live.tail import Tail
from sessile.observation import UNOBSERVED, DeltaObserver
from sessile.ports import Relay, Store
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import LiveFrame


class Hub:
    """Channels by session. A channel exists while its session has a running turn or a follower here."""

    def __init__(self, store: Store, heartbeat_seconds: float, observer: DeltaObserver = UNOBSERVED) -> None:
        self._store = store
        self._observer = observer
        self._heartbeat_seconds = heartbeat_seconds
        self._channels: dict[int, Channel] = {}
        self._exchange: Exchange | None = None
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def connect(self, relay: Relay) -> None:
        """Show what turns on other nodes show, and let those have what is shown here."""
        self._exchange = Exchange(relay, self._store, self._channels, self._heartbeat_seconds)

    @property
    def followers(self) -> int:
        """How many follow a session here."""
        return sum(len(channel.places) for channel in self._channels.values())

    def announce(self, session_id: int, entries: Sequence[Entry]) -> None:
        """Durable events, after their commit, in log order."""
        self._channel(session_id).announce(entries)
        if self._exchange is not None:
            self._exchange.announced(session_id, entries)
        self._drop_if_idle(session_id)

    def publish(self, session_id: int, frame: LiveFrame) -> None:
        """An ephemeral frame of the running turn."""
        channel = self._channel(session_id)
        if self._exchange is not None:
            self._exchange.published(session_id, frame)
        channel.publish(frame)

    def left(self, session_id: int) -> None:
        """No turn of the session runs here any more: somebody else goes on with it."""
        if (channel := self._channels.get(session_id)) is not None:
            channel.running = False
            if self._exchange is not None:
                self._exchange.left(session_id)
            self._drop_if_idle(session_id)

    def withdrawn(self, session_id: int, event_id: str) -> None:
        """An input that waited was withdrawn: end those who wait for its turn."""
        if (channel := self._channels.get(session_id)) is not None:
            channel.withdraw(event_id)

    def close_session(self, session_id: int) -> None:
        """The session is gone: end its followers."""
        channel = self._channels.pop(session_id, None)
        if channel is not None:
            channel.close("deleted")
            if self._exchange is not None:
                self._exchange.closed(session_id)

    def close_agent(self, agent_id: int) -> None:
        """The agent is gone: end the followers of its sessions."""
        for session_id in [id for id, channel in self._channels.items() if channel.agent_id == agent_id]:
            self.close_session(session_id)

    def drain(self) -> None:
        """The server stops: end all followers, once they have what is durable, and those who come later."""
        self._draining = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        for channel in self._channels.values():
            channel.close("drain")

    def follow(
        self,
        session_id: int,
        cursor: int,
        *,
        deltas: bool = True,
        joins: bool = False,
        agent_id: int | None = None,
        awaits: str | None = None,
    ) -> Tail:
        """Follow a session from the event after `cursor` on. The caller closes the tail.

        Without `deltas` ephemeral frames wake nobody; they may still come along with a durable event. A follower who
        `joins` gets the text so far of an output in flight, and names the agent, whose end is the end of its followers.
        One that `awaits` an input ends when that is withdrawn.
        """
        channel = self._channel(session_id)
        channel.agent_id = agent_id or channel.agent_id
        if self._draining:
            channel.close("drain")
        tail = Tail(
            channel, self._store, session_id, cursor, self._heartbeat_seconds, deltas, joins, awaits, self._observer
        )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._heartbeat_seconds, self._look)
        tail.on_leave = lambda: self._on_leave(session_id)
        if deltas and self._exchange is not None:
            self._exchange.followed(session_id)
        return tail

    async def entries(self, session_id: int, cursor: int) -> AsyncGenerator[Entry, None]:
        """The `Follow` port."""
        tail = self.follow(session_id, cursor, deltas=False)
        try:
            while True:
                for node in await tail.next():
                    if node.entry is not None:
                        yield node.entry
                if tail.closed:
                    return
        finally:
            tail.close()

    def replay(self, session_id: int, cursor: int) -> Replay:
        """The log after `cursor`, for whoever joins a turn that has stopped. The caller closes it."""
        return Replay(self._store, session_id, cursor, self._heartbeat_seconds)

    def _look(self) -> None:
        """At every heartbeat: one query for all logs that are followed, so that a lost announcement costs no more."""
        self._timer = None
        if self._draining or not any(channel.places for channel in self._channels.values()):
            return
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_seconds, self._look)
        if self._exchange is not None:
            self._exchange.beat()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._compare())

    async def _compare(self) -> None:
        followed = [session_id for session_id, channel in self._channels.items() if channel.places]
        with contextlib.suppress(StorageUnavailable):
            await self._catch_up(followed)

    def concerned(self, sessions: Collection[int]) -> set[int]:
        """Those of some sessions that are followed here."""
        return {id for id in sessions if (channel := self._channels.get(id)) is not None and channel.places}

    async def look(self, sessions: Collection[int] | None) -> None:
        """Others may have changed these sessions, or any: followers get what is new. Raises StorageUnavailable."""
        followed = self.concerned(self._channels if sessions is None else sessions)
        if not followed or self._draining:
            return
        await self._catch_up(followed)
        for session_id in followed:
            await self._find_withdrawn(session_id)

    async def _catch_up(self, followed: Collection[int]) -> None:
        heads = await self._store.heads(followed)
        for session_id in followed:
            if session_id not in heads:
                self.close_session(session_id)
            elif self._exchange is not None and self._exchange.look(session_id, heads[session_id]):
                continue
            elif (channel := self._channels.get(session_id)) is not None:
                channel.remind(heads[session_id])

    async def _find_withdrawn(self, session_id: int) -> None:
        """Inputs may have been withdrawn elsewhere whose turns are waited for here."""
        channel = self._channels.get(session_id)
        awaited = set() if channel is None else {place.awaits for place in channel.places if place.awaits is not None}
        if awaited:
            for event_id in await self._store.withdrawn_inputs(session_id, awaited):
                self.withdrawn(session_id, event_id)

    def _on_leave(self, session_id: int) -> None:
        if self._exchange is not None and session_id in self._channels:
            self._exchange.unfollowed(session_id)
        self._drop_if_idle(session_id)

    def _drop_if_idle(self, session_id: int) -> None:
        channel = self._channels.get(session_id)
        if channel is not None and not channel.places and not channel.running:
            del self._channels[session_id]

    def _channel(self, session_id: int) -> Channel:
        channel = self._channels.get(session_id)
        if channel is None:
            channel = self._channels[session_id] = Channel()
        return channel
