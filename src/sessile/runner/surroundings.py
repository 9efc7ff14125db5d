"""What tool calls get from the turn that makes them: where they come from, and the arguments that the agent fixes."""

from collections.abc import Mapping
from typing import Any

import msgspec

from sessile.domain import overrides
from sessile.domain.log import Entry
from sessile.domain.overrides import SECRETS, TOOLS, Override, Resolved, Unresolved
from sessile.observation import ToolCallWatch
from sessile.ports import ToolContext, Vault
from sessile.runner.dispatch import PreparedCall
from sessile.runner.offloading import Offloading
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Plan
from sessile.wire.errors import SessileError
from sessile.wire.events import ToolActivity
from sessile.wire.limits import MAX_RELAYED_EVENT_BYTES

MAX_ACTIVITY_CHARS = 2_000


class TurnSurroundings:
    """The `Surroundings` of one turn."""

    def __init__(self, turn: OpenTurn, plan: Plan, vault: Vault | None, offloading: Offloading) -> None:
        self._turn = turn
        self._plan = plan
        self._vault = vault
        self._offloading = offloading

    def context(self, call: PreparedCall, secrets: frozenset[str]) -> ToolContext:
        """Where a call comes from; what it reports becomes `tool_activity` frames, without these secrets."""
        turn = self._turn

        def publish(**said: Any) -> None:
            turn.publish(
                ToolActivity(
                    **said,
                    tool_call_id=call.id,
                    tool_configuration_name=call.configuration_name,
                    tool_name=call.tool_name,
                    turn_id=turn.turn_id,
                    created_at=turn.now(),
                )
            )

        def report(message: str) -> None:
            shown: str = overrides.masked(message, secrets)
            publish(message=shown[:MAX_ACTIVITY_CHARS].encode("utf-8", "replace").decode())

        def relay(entry: Entry) -> None:
            if len(entry.body) <= MAX_RELAYED_EVENT_BYTES:  # JSON already: it is copied into the frame, not read
                publish(activity_type="sub_agent", agent_event=msgspec.Raw(entry.json))

        return ToolContext(
            session=turn.claim.session,
            turn_id=turn.turn_id,
            tool_call_id=call.id,
            add_artifact=turn.making(call.id),
            resting=turn.resting,
            report=report,
            fixed=frozenset(call.override.values),
            configuration_name=call.configuration_name,
            event_id=turn.open_calls[call.id].id,
            relay=relay,
        )

    async def resolve(self, override: Override) -> Resolved:
        """The arguments that the agent fixes. Raises Unresolved."""
        scope: dict[str, Any] = {
            "session": self._turn.claim.session.scope(),
            "agent": self._plan.instructions.agent,
            "currentDate": self._turn.now()[:10],
        }
        if override.needs(SECRETS):
            scope[SECRETS] = await self._secrets()
        if override.needs(TOOLS):
            scope[TOOLS] = self._outputs(override)
        return overrides.resolve(override, scope)

    async def fitted(self, call: PreparedCall, result: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """The result, cut as the agent's `tool_output_offloading` says."""
        return await self._offloading.fitted(call, result, context)

    def watch(self, call: PreparedCall) -> ToolCallWatch:
        """The watch of a call of this turn."""
        return self._turn.watch.tool_call(call.kind, call.configuration_name, call.id, call.arguments)

    async def _secrets(self) -> Mapping[str, str]:
        """The secrets of the agent and the session by name. Raises Unresolved."""
        if self._vault is None:
            return {}
        claim = self._turn.claim
        try:
            return await self._vault.reveal(claim.agent.id, claim.session.id)
        except SessileError as error:
            raise Unresolved(error.message) from None

    def _outputs(self, override: Override) -> dict[str, Any]:
        """The newest output of each tool that a reference names, without those that are errors."""
        assert self._turn.history is not None
        names = {path.split(".")[1] for path in override.references if path.startswith(f"{TOOLS}.")}
        found = {name: self._turn.history.conversation.last_output(name) for name in names}
        return {name: output for name, output in found.items() if output is not None}
