"""What other nodes on the same store do to sessions that run or are followed here: hints, and a look every heartbeat.

Nothing is decided here: the store knows, this only has it looked at soon.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from sessile.ports import Clock, Onlooker
from sessile.rows import Heard
from sessile.wire.errors import StorageUnavailable


class Elsewhere:
    """Gathers hints, and lets everybody concerned look at once; and at everything once a heartbeat."""

    def __init__(self, onlookers: Sequence[Onlooker], clock: Clock, heartbeat_seconds: float) -> None:
        self._onlookers = onlookers
        self._clock = clock
        self._heartbeat_seconds = heartbeat_seconds
        self._sessions: set[int] = set()
        self._agents: set[int] = set()
        self._all = False
        self._waiting = asyncio.Event()

    def heard(self, heard: Heard | None) -> None:
        """Others may have changed these; None: anything. Never blocks."""
        if heard is None:
            self._all = True
        else:
            self._sessions.update(*(onlooker.concerned(heard.sessions) for onlooker in self._onlookers))
            self._agents |= heard.agents
        if self._all or self._sessions or self._agents:
            self._waiting.set()

    async def look_for_ever(self) -> None:
        """Look whenever something was heard, until it is cancelled."""
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                await self._waiting.wait()
                self._waiting.clear()
                await self._look()
        finally:
            beat.cancel()

    async def _look(self) -> None:
        agents, self._agents = self._agents, set()
        sessions, self._sessions = self._sessions, set()
        everything, self._all = self._all, False
        for onlooker in self._onlookers:
            for agent_id in agents:
                onlooker.close_agent(agent_id)
            with contextlib.suppress(StorageUnavailable):  # the next heartbeat looks again
                await onlooker.look(None if everything else sessions)

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(self._heartbeat_seconds)
            self.heard(None)
