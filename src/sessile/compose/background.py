"""What a server does beside requests and turns."""

import asyncio
import contextlib
import math
import time

from sessile.service.artifacts import Artifacts
from sessile.service.sessions import Sessions
from sessile.wire.errors import StorageUnavailable

_SWEEP_IDLE_SECONDS = 1.0
_SWEEP_SECONDS = 60 * 60


async def sweep_for_ever(sessions: Sessions) -> None:
    """Delete what is idle and remove what was deleted, slice by slice, and leave the writer to others in between."""
    while True:
        more = False
        with contextlib.suppress(StorageUnavailable):
            more = await sessions.sweep()
        await asyncio.sleep(0.005 if more else _SWEEP_IDLE_SECONDS)


async def tidy_for_ever(artifacts: Artifacts) -> None:
    """Remove the bytes of files that nobody names any more; at first, and once an hour, also what a crash has left."""
    swept = -math.inf
    while True:
        more = False
        with contextlib.suppress(StorageUnavailable):
            if time.monotonic() - swept > _SWEEP_SECONDS:
                swept = time.monotonic()
                await artifacts.sweep()
            more = await artifacts.tidy()
        await asyncio.sleep(0.005 if more else _SWEEP_IDLE_SECONDS)
