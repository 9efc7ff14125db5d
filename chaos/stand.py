"""What stands around the server that is killed: when it dies, at which moment, and who is told that it is back."""

import asyncio
import random
from collections import Counter
from pathlib import Path

from sessile.testing.server import ServerProcess

PHASES = ("before input commit", "mid-delta", "tool running", "before end commit")
_UP_SECONDS = 30.0


class Stand:
    """A server, and one armed moment: the first that comes to it in the right phase kills the server."""

    def __init__(self, folder: Path, config: str, chance: random.Random) -> None:
        self.chance = chance
        self.kills: Counter[str] = Counter()
        self.up = asyncio.Event()
        self.dead = asyncio.Event()
        self._server = ServerProcess(folder, config)
        self._armed: str | None = None

    @property
    def url(self) -> str:
        """Where the server listens; another port after each start."""
        return self._server.url

    @property
    def headers(self) -> dict[str, str]:
        """Request headers with the owner key."""
        return self._server.headers

    async def start(self) -> None:
        """Start the server, for the first time or after a kill."""
        await asyncio.to_thread(self._server.start)
        self.dead.clear()
        self.up.set()

    def arm(self, phase: str) -> None:
        """Let the next moment of this phase kill the server."""
        self._armed = phase

    def armed_for(self, phase: str) -> bool:
        """Whether a moment of this phase would kill."""
        return self._armed == phase and self.up.is_set()

    def moment(self, phase: str) -> None:
        """Something is in this phase now."""
        if self.armed_for(phase):
            self._armed = None
            self.kills[phase] += 1
            self.up.clear()
            self._server.process.kill()
            self.dead.set()

    async def wait_until_up(self) -> None:
        """Wait for a server that answers. Raises TimeoutError."""
        async with asyncio.timeout(_UP_SECONDS):
            await self.up.wait()

    async def end(self) -> None:
        """End the server for good."""
        self.up.clear()
        await asyncio.to_thread(self._server.kill)
