"""Following a session: catch up from the log, then follow the channel, with one cursor and no gap or repeat between.

An announcement is a hint. The log is read whenever the hint does not fit the cursor, and at every heartbeat.
"""

import asyncio
from collections.abc import Callable

from sessile.live.channel import Channel, Node
from sessile.ports import EventQuery, Store

_CATCH_UP_PAGE = 100


class Tail:
    """One follower of one session, until it is closed.

    `next` gives the nodes that came since the last call, in order: every durable event after the cursor exactly once,
    and ephemeral frames unless the follower was too slow for them.
    """

    def __init__(self, channel: Channel, store: Store, session_id: int, cursor: int, heartbeat_seconds: float) -> None:
        self.on_leave: Callable[[], None] = lambda: None
        self._channel = channel
        self._place = channel.attach()
        self._store = store
        self._session_id = session_id
        self._cursor = cursor
        self._heartbeat_seconds = heartbeat_seconds
        self._behind = channel.head is None or channel.head > cursor
        self._beat = False
        self._timer = asyncio.get_running_loop().call_later(heartbeat_seconds, self._on_heartbeat)

    def close(self) -> None:
        """Detach. A second time does nothing."""
        self._timer.cancel()
        self._channel.detach(self._place)
        self.on_leave()

    @property
    def closed(self) -> str | None:
        """Why nothing more will come, or None."""
        return self._channel.closed

    async def next(self) -> list[Node]:
        """Wait for something new. An empty list is a heartbeat, or the end when `closed` is set."""
        while True:
            if self._behind:
                self._behind = False
                nodes = await self._catch_up()
            elif self._place.node is None:
                nodes = await self._skip()
            else:
                nodes = await self._take(self._place.node)
            if nodes or self._channel.closed:
                return nodes
            if self._beat:
                self._beat = False
                return await self._catch_up()
            await self._channel.wait()

    async def _take(self, node: Node) -> list[Node]:
        """What the chain holds beyond `node`; an entry that does not follow the cursor sends us to the log first."""
        nodes: list[Node] = []
        while node.next is not None:
            node = node.next
            if node.entry is None:
                nodes.append(node)
                continue
            if node.entry.sequence > self._cursor + 1:
                nodes += await self._catch_up(before=node.entry.sequence)
            if node.entry.sequence > self._cursor:
                self._cursor = node.entry.sequence
                nodes.append(node)
        self._place.node = node
        return nodes

    async def _skip(self) -> list[Node]:
        """Go to the end of the chain: durable events from the log, then all text so far of the output in flight."""
        self._place.node = self._channel.tail
        snapshot = self._channel.snapshot()
        nodes = await self._catch_up()
        return nodes if snapshot is None else [*nodes, Node(None, snapshot, 0)]

    async def _catch_up(self, before: int | None = None) -> list[Node]:
        """Durable events after the cursor, and before another place, from the log."""
        nodes: list[Node] = []
        while True:
            query = EventQuery(cursor=self._cursor, limit=_CATCH_UP_PAGE, records=True, include_hidden=True)
            page = await self._store.read_log(self._session_id, query)
            entries = [entry for entry in page.rows if before is None or entry.sequence < before]
            nodes += [Node(entry, None, 0) for entry in entries]
            if entries:
                self._cursor = entries[-1].sequence
            if page.next is None or len(entries) < len(page.rows):
                return nodes

    def _on_heartbeat(self) -> None:
        self._beat = True
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_seconds, self._on_heartbeat)
        self._channel.wake()
