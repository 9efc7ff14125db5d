"""One turn, from its input to its end: call the model, keep what became durable, run tools, until it is done.

It takes all it needs as arguments and owns no storage, no transport and no provider.
"""

from msgspec import Struct

from sessile.domain.turn import history_chars
from sessile.ports import Clock, LiveSink, Store
from sessile.runner import dispatch
from sessile.runner.history import Histories
from sessile.runner.model_call import call_model
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Planner
from sessile.runner.surroundings import TurnSurroundings
from sessile.wire import codec
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
    """Run a claimed turn to its end: a new one, or one that a crash has left in the middle.

    Raises ModelFault after the last retry, UnknownModel, TemplateInvalid, FenceLost; the worker ends the turn then.
    """
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
        if calls:
            outcomes = await dispatch.execute(calls, around, turn.answered)
            outputs = [dispatch.finalize(call, outcome) for call, outcome in zip(calls, outcomes, strict=True)]
            if turn.model_calls >= env.max_model_calls:
                await turn.end("limit", outputs, _too_many(turn.model_calls))
                return
            await turn.append(outputs)
        messages = history.conversation.messages(instructions, budget)
        answer = await call_model(turn, plan, messages, env.clock)
        turn.model_calls += 1
        if not answer.tool_calls:
            await turn.end("end_turn", answer.events())
            return
        calls = dispatch.prepare_all(answer.tool_calls, plan.offered)
        await turn.append([*answer.events(), *(call.event() for call in calls)])


def _too_many(calls_made: int) -> TurnError:
    message = f"The turn made {calls_made} model calls, the most a turn may make."
    return TurnError(code="model_call_limit", message=message)
