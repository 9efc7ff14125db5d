"""The system's clock."""

import asyncio
import time


class SystemClock:
    """The `Clock` port on real time."""

    def now(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
