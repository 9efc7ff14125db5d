"""What tool calls get from the turn that makes them: where they come from, and the arguments that the agent fixes."""

from collections.abc import Mapping
from typing import Any

from sessile.domain import large_outputs, overrides
from sessile.domain.overrides import SECRETS, TOOLS, Override, Resolved
from sessile.ports import ToolContext
from sessile.runner.dispatch import PreparedCall
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Plan
from sessile.wire.events import GenericToolActivity

MAX_ACTIVITY_CHARS = 2_000


class TurnSurroundings:
    """The `Surroundings` of one turn."""

    def __init__(self, turn: OpenTurn, plan: Plan) -> None:
        self._turn = turn
        self._plan = plan

    def context(self, call: PreparedCall) -> ToolContext:
        """Where a call comes from; what it reports becomes `tool_activity` frames."""
        turn = self._turn

        def report(message: str) -> None:
            turn.publish(
                GenericToolActivity(
                    message=message[:MAX_ACTIVITY_CHARS].encode("utf-8", "replace").decode(),
                    tool_call_id=call.id,
                    tool_configuration_name=call.configuration_name,
                    tool_name=call.tool_name,
                    turn_id=turn.turn_id,
                    created_at=turn.now(),
                )
            )

        return ToolContext(
            session=turn.claim.session,
            turn_id=turn.turn_id,
            tool_call_id=call.id,
            add_artifact=turn.making(call.id),
            resting=turn.resting,
            report=report,
            fixed=frozenset(call.override.values),
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

    def fitted(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result, cut as the agent's `tool_output_offloading` says."""
        return large_outputs.fitted(result, self._plan.output_limit, self._plan.output_share)

    async def _secrets(self) -> Mapping[str, str]:
        """The secrets of the agent and the session by name. There are none yet."""
        return {}

    def _outputs(self, override: Override) -> dict[str, Any]:
        """The newest output of each tool that a reference names, without those that are errors."""
        assert self._turn.history is not None
        names = {path.split(".")[1] for path in override.references if path.startswith(f"{TOOLS}.")}
        found = {name: self._turn.history.conversation.last_output(name) for name in names}
        return {name: output for name, output in found.items() if output is not None}
