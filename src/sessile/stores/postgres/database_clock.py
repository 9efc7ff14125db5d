"""The clock that all nodes on one database share: the database's."""

import time

from sessile.stores.postgres.db import Db


class DatabaseClock:
    """The server's time, read off this process's monotonic clock; `measure` says how the two differ.

    A node whose own clock is wrong, or is moved, gives and takes leases like every other node.
    """

    def __init__(self) -> None:
        self._offset = 0

    def now(self) -> int:
        """Microseconds since the epoch."""
        return _elapsed() + self._offset

    async def measure(self, db: Db) -> None:
        """Ask the server for its time; the answer is from halfway between the question and its arrival."""
        asked = _elapsed()
        row = await db.one("server_time")
        assert row is not None
        self._offset = row[0] - (asked + _elapsed()) // 2


def _elapsed() -> int:
    return time.monotonic_ns() // 1000
