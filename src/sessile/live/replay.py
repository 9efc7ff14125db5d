"""A turn that has stopped, read again from the log, with the face of a `Tail`. It reads no more than is asked for."""

import asyncio

from sessile.live.channel import Node
from sessile.live.tail import Tail
from sessile.ports import Store
from sessile.rows import EventQuery
from sessile.wire.errors import StorageUnavailable

_PAGE = 100


class Replay:
    """The events of a log after `cursor`, a page for each call of `next`; its reader stops at the end of the turn."""

    def __init__(self, store: Store, session_id: int, cursor: int, heartbeat_seconds: float) -> None:
        self.closed: str | None = None
        """Why nothing more will come, or None."""
        self._store = store
        self._session_id = session_id
        self._cursor = cursor
        self._heartbeat_seconds = heartbeat_seconds

    def close(self) -> None:
        """There is nothing to let go of."""

    async def next(self) -> list[Node]:
        """The next events. An empty list is a heartbeat (the log cannot be read), or the end when `closed` is set."""
        query = EventQuery(cursor=self._cursor, limit=_PAGE, records=True, include_hidden=True)
        try:
            page = await self._store.read_log(self._session_id, query)
        except StorageUnavailable:
            await asyncio.sleep(self._heartbeat_seconds)
            return []
        if page.rows:
            self._cursor = page.rows[-1].sequence
        else:
            self.closed = "deleted"
        return [Node(entry, None, 0) for entry in page.rows]

    def sent(self, frames: int, linked_at: float) -> None:
        """Nothing here is live."""

    async def gather(self, seconds: float) -> None:
        """Nothing gathers here."""


Source = Tail | Replay
"""Where the events of a turn come from: what happens, or the log alone."""
