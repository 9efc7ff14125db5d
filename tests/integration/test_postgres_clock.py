"""The clock that nodes on one PostgreSQL measure leases by."""

import time
from typing import Any

import asyncpg

from sessile.stores.postgres.database_clock import DatabaseClock
from sessile.stores.postgres.db import Db, Row

STALL_SECONDS = 3.0


class Stalling(Db):
    """A connection whose process stalls once, while an answer is on its way."""

    stalls = 1

    async def one(self, name: str, /, **values: Any) -> Row | None:
        row = await super().one(name, **values)
        if self.stalls:
            self.stalls -= 1
            time.sleep(STALL_SECONDS)  # noqa: ASYNC251 - nothing else goes on either
        return row


async def test_a_stall_while_the_time_is_asked_for_does_not_move_the_clock(emptied_database: str) -> None:
    """A node whose clock is late would hand out leases that are over, and lose its turns to others."""
    connection = await asyncpg.connect(emptied_database)
    clock = DatabaseClock()
    await clock.measure(Stalling(connection))
    before = clock.now()
    server = await connection.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    late = STALL_SECONDS / 3 * 1_000_000
    assert before - late < server < clock.now() + late
    await connection.close()
