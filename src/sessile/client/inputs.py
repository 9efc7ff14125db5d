"""Inputs that wait for the turn that runs: what waits, and withdrawing it."""

import builtins

from sessile.client.call import Caller, path
from sessile.client.reading import read
from sessile.wire.inputs import ListInputsResponse, WaitingInput

_INPUTS = "/v2/agents/{agent_key}/sessions/{session_key}/inputs"


class AsyncInputs:
    """See the inputs of a session that wait, and withdraw one. `events.send` with a `behavior` makes them."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def list(self, agent_key: str, session_key: str) -> builtins.list[WaitingInput]:
        """All inputs that wait, in the order of acceptance; there are at most 100. Raises NotFound."""
        inputs = path(_INPUTS, agent_key=agent_key, session_key=session_key)
        return read(ListInputsResponse, (await self._caller.whole("GET", inputs)).body).inputs

    async def withdraw(self, agent_key: str, session_key: str, event_id: str) -> None:
        """Let an input wait no more: it gets no turn.

        Raises InputTaken (its `id` is the turn that has taken it), NotFound when none waits under this id.
        """
        input = path(_INPUTS + "/{event_id}", agent_key=agent_key, session_key=session_key, event_id=event_id)
        await self._caller.whole("DELETE", input)
