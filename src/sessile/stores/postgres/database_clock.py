"""The clock that all nodes on one database share: the database's."""

import time

from sessile.stores.postgres.db import Db

_SOON = 100_000
"""Microseconds in which an answer tells the time well enough."""
_TRIES = 5


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
        """Ask the server for its time; the answer is from halfway between the question and its arrival.

        When one of the two stalls meanwhile, that says little: it is asked again, and the quickest answer counts.
        """
        answers = []
        for _ in range(_TRIES):
            asked = _elapsed()
            row = await db.one("server_time")
            assert row is not None
            took = _elapsed() - asked
            answers.append((took, row[0] - asked - took // 2))
            if took < _SOON:
                break
        self._offset = min(answers)[1]


def _elapsed() -> int:
    return time.monotonic_ns() // 1000
