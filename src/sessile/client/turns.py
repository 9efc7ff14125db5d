"""Turns: how one stands, and waiting for its end."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from sessile.client.call import Caller, path
from sessile.client.errors import RequestTimedOut
from sessile.client.reading import read
from sessile.wire.events import Turn

_TURN = "/v2/agents/{agent_key}/sessions/{session_key}/turns/{turn_id}"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_GROWTH: Final = 1.5


class AsyncTurns:
    """See how a turn stands, or wait until it has stopped."""

    def __init__(self, caller: Caller, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._caller = caller
        self._sleep = sleep

    async def get(self, agent_key: str, session_key: str, turn_id: str) -> Turn:
        """Show a turn. Raises NotFound."""
        turn = path(_TURN, agent_key=agent_key, session_key=session_key, turn_id=turn_id)
        return read(Turn, (await self._caller.whole("GET", turn)).body)

    async def wait(
        self,
        agent_key: str,
        session_key: str,
        turn_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the same name as in `events.send`, and for the synchronous side
    ) -> Turn:
        """Ask again and again, ever less often, until the turn has stopped. A turn that ended badly does not raise.

        Raises RequestTimedOut after `timeout` seconds, NotFound.
        """
        patience = math.inf if timeout is None else timeout
        now = asyncio.get_running_loop().time
        started = now()
        pause = _FIRST_PAUSE
        while (turn := await self.get(agent_key, session_key, turn_id)).status != "stopped":
            if now() + pause > started + patience:
                raise RequestTimedOut(f"The turn {turn_id} has not stopped within {patience:g} seconds.")
            await self._sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)
        return turn
