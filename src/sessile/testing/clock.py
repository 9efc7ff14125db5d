"""A `Clock` that stands still until a test moves it."""

import asyncio
import heapq

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z in microseconds."""


class FakeClock:
    """The `Clock` port on time that only `advance` moves."""

    def __init__(self, now: int = START) -> None:
        self._now = now
        self._count = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now(self) -> int:
        """Microseconds since the epoch."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the time that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + round(seconds * 1_000_000), self._count, woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many tasks wait for the time to move."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move the time, waking sleepers in the order of their times, each at its own time."""
        end = self._now + round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
                await asyncio.sleep(0)
        self._now = end
        await asyncio.sleep(0)
