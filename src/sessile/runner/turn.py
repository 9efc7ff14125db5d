"""One turn, from its input to its end: call the model, keep what became durable, run tools, until it is done.

It takes all it needs as arguments and owns no storage, no transport and no provider.
"""

from msgspec import Struct

from sessile.domain.turn import history_chars
from sessile.ports import Clock, LiveSink, Store
from sessile.rows import Claim
from sessile.runner import dispatch
from sessile.runner.history import Histories
from sessile.runner.model_call import call_model
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Planner
from sessile.runner.surroundings import TurnSurroundings
from sessile.wire import codec
from sessile.wire.errors import AgentDisabled, SessionDisabled
from sessile.wire.events import TurnError


class TurnEnvironment(Struct, frozen=True):
    """What all turns of a server share."""

    store: Store
    planner: Planner
    histories: Histories
    sink: LiveSink
    clock: Clock
    max_model_calls: int


async def run_turn(turn: OpenTurn, env: TurnEnvironment) -> None:
    """Run a claimed turn to its end or until it waits for client tools: a new one, or one that is under way.

    Raises ModelFault after the last retry, UnknownModel, TemplateInvalid, FenceLost, and when its input has waited
    AgentDisabled, SessionDisabled; the worker ends the turn then.
    """
    if turn.claim.waited:
        _check_enabled(turn.claim)
    plan = await env.planner.plan(turn.claim.agent)
    instructions = plan.instructions.constant
    if instructions is None:
        today = codec.rfc3339(env.clock.now())[:10]
        instructions = plan.instructions.render(turn.claim.session.scope(), today)
    budget = history_chars(plan.model.context_window)
    history = turn.history = await env.histories.take(turn.claim, budget)

    around = TurnSurroundings(turn, plan)
    calls = dispatch.take_up(turn.open_calls.values(), plan.offered)
    while True:
        ours = [call for call in calls if not call.waits]
        outcomes = await dispatch.execute(ours, around, turn.answered) if ours else []
        outputs = [dispatch.finalize(call, outcome) for call, outcome in zip(ours, outcomes, strict=True)]
        if len(ours) < len(calls):
            await turn.park(outputs)
            return
        if turn.model_calls >= env.max_model_calls:
            await turn.end("limit", outputs, _too_many(turn.model_calls))
            return
        if outputs:
            await turn.append(outputs)
        if turn.steered:
            await turn.take_steering()
        while turn.log_changed:
            turn.log_changed = False
            history = turn.history = await env.histories.read(turn.claim.session.id, budget)
        messages = history.conversation.messages(instructions, budget)
        answer = await call_model(turn, plan, messages, env.clock)
        turn.model_calls += 1
        if not answer.tool_calls:
            await turn.end("end_turn", answer.events())
            return
        calls = dispatch.prepare_all(answer.tool_calls, plan.offered)
        await turn.append([*answer.events(), *(call.event() for call in calls)])


def _check_enabled(claim: Claim) -> None:
    if not claim.agent.enabled:
        raise AgentDisabled(f"The agent {claim.agent.key!r} was disabled while the input waited.")
    if not claim.session.enabled:
        raise SessionDisabled(f"The session {claim.session.key!r} was disabled while the input waited.")


def _too_many(calls_made: int) -> TurnError:
    message = f"The turn made {calls_made} model calls, the most a turn may make."
    return TurnError(code="model_call_limit", message=message)
