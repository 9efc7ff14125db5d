"""Following a session: catch up from the log, then follow the channel, with one cursor and no gap or repeat between.

An announcement is a hint. The log is read whenever the hint does not fit the cursor, and when the hub, which looks at
all followed logs at every heartbeat, finds that it has more.
"""

import asyncio
import time
from collections.abc import Callable

from sessile.live.channel import ENDS_OUTPUT, Channel, Node
from sessile.observation import UNOBSERVED, DeltaObserver
from sessile.ports import Store
from sessile.rows import EventQuery
from sessile.wire.errors import StorageUnavailable

_PAGE = 100
"""Events that are read of the log at a time: whoever is far behind gets them page by page."""


class Tail:
    """One follower of one session, until it is closed.

    `next` gives the nodes that came since the last call, in order: every durable event after the cursor exactly once,
    and ephemeral frames unless the follower was too slow for them. Giving up on a call of `next` loses nothing.

    With `joins` the follower comes from elsewhere, perhaps in the middle of an output: it first gets what the log has,
    then all text so far of the output in flight as one delta.
    """

    def __init__(
        self,
        channel: Channel,
        store: Store,
        session_id: int,
        cursor: int,
        heartbeat_seconds: float,
        deltas: bool = True,
        joins: bool = False,
        awaits: str | None = None,
        observer: DeltaObserver = UNOBSERVED,
    ) -> None:
        self.on_leave: Callable[[], None] = lambda: None
        self._observer = observer
        self._channel = channel
        self._place = channel.attach(deltas)
        self._place.awaits = awaits
        if joins or channel.head is None or channel.head > cursor:
            self._place.node = None
        self._store = store
        self._session_id = session_id
        self._cursor = cursor
        self._heartbeat_seconds = heartbeat_seconds
        self._deltas = deltas
        self._beat = False
        self._ready: list[Node] = []
        self._timer = asyncio.get_running_loop().call_later(heartbeat_seconds, self._on_heartbeat)

    def close(self) -> None:
        """Detach. A second time does nothing."""
        self._timer.cancel()
        self._channel.detach(self._place)
        self.on_leave()

    @property
    def closed(self) -> str | None:
        """Why nothing more will come, or None."""
        return "withdrawn" if self._place.withdrawn else self._channel.closed

    async def next(self) -> list[Node]:
        """Wait for something new. An empty list is a heartbeat, or the end when `closed` is set.

        While the log cannot be read, it is tried again at every heartbeat.
        """
        while True:
            try:
                settled = await self._advance()
            except StorageUnavailable:
                settled = True
            if self._ready or self.closed:
                nodes, self._ready = self._ready, []
                return nodes
            if self._beat:
                self._beat = False
                return []
            if settled:
                waiter = self._channel.wait(self._deltas and self._place.node is not None)
                try:
                    await waiter
                finally:
                    self._channel.give_up(waiter)

    def sent(self, frames: int, linked_at: float) -> None:
        """So many ephemeral frames were written to a socket together; the first of them was linked at this time."""
        if self._deltas:
            self._observer.sent(frames, time.perf_counter() - linked_at)

    async def gather(self, seconds: float) -> None:
        """Let ephemeral frames gather for a while; a durable event ends the wait."""
        waiter = self._channel.wait(deltas=False)
        timer = asyncio.get_running_loop().call_later(seconds, _complete, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._channel.give_up(waiter)

    async def _advance(self) -> bool:
        """Make ready what is there; False when there is more. What is linked meanwhile is taken before we wait."""
        if self._place.node is None:
            return await self._join()
        await self._take(self._place.node, len(self._ready))
        if self._channel.log_head > self._cursor and self._place.node is not None and await self._read():
            self._place.node = None
        return self._place.node is not None

    async def _join(self) -> bool:
        """Take a page of the log; with the last one, a place in the chain and the text so far of the output in flight.

        A log that is ahead of what was announced may hold that output already: then the next announcement tells.
        """
        self._place.node, snapshot = self._channel.tail, self._channel.snapshot() if self._deltas else None
        more, joined = True, False
        try:
            more = await self._read()
            joined = not more and (snapshot is None or self._announced())
        finally:
            if not joined:
                self._place.node = None
        node = self._place.node
        if node is None:  # there is more, or an announcement to wait for, or we were too slow again
            return not more and not joined
        frames = len(self._ready)
        if snapshot is not None:
            self._ready.append(Node(None, snapshot, 0))
        await self._take(node, frames)
        return self._place.node is not None

    async def _take(self, node: Node, frames: int) -> None:
        """Take what the chain holds beyond `node`. An entry that does not follow the cursor sends us to the log first.

        From `frames` on, `_ready` holds ephemeral frames of the output in flight; they are stale when the log has
        already given us the entry that ended it.
        """
        while node.next is not None:
            node = node.next
            entry = node.entry
            if entry is None:
                self._ready.append(node)
                self._place.node = node
                continue
            if entry.sequence > self._cursor + 1:
                if await self._read(before=entry.sequence):
                    self._place.node = None
                if self._place.node is None:
                    return
            if entry.sequence > self._cursor:
                self._cursor = entry.sequence
                self._ready.append(node)
            elif entry.type in ENDS_OUTPUT:
                del self._ready[frames:]
            if entry.type in ENDS_OUTPUT:
                frames = len(self._ready)
            self._place.node = node

    async def _read(self, before: int | None = None) -> bool:
        """Make a page of durable events after the cursor, and before another place, ready; True when there is more."""
        query = EventQuery(cursor=self._cursor, limit=_PAGE, records=True, include_hidden=True)
        page = await self._store.read_log(self._session_id, query)
        entries = [entry for entry in page.rows if before is None or entry.sequence < before]
        self._ready += [Node(entry, None, 0) for entry in entries]
        more = page.next is not None and len(entries) == len(page.rows) and (before is None or page.next + 1 < before)
        if more:
            assert page.next is not None
            self._cursor = page.next
        elif entries:
            self._cursor = entries[-1].sequence
        return more

    def _announced(self) -> bool:
        head = self._channel.head
        return head is None or head >= self._cursor

    def _on_heartbeat(self) -> None:
        self._beat = True
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_seconds, self._on_heartbeat)
        self._channel.wake()


def _complete(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
