"""One turn, from its input to its end: call the model, keep what became durable, run tools, until it is done.

It takes all it needs as arguments and owns no storage, no transport and no provider.
"""

from msgspec import Struct

from sessile.domain import context
from sessile.domain.turn import history_chars
from sessile.ports import Clock, EventQuery, LiveSink, Store
from sessile.runner import dispatch
from sessile.runner.model_call import call_model
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Planner
from sessile.wire import codec
from sessile.wire.events import AnyEvent, TurnError

_HISTORY_PAGE = 200


class TurnEnvironment(Struct, frozen=True):
    """What all turns of a server share."""

    store: Store
    planner: Planner
    sink: LiveSink
    clock: Clock
    max_model_calls: int


async def run_turn(turn: OpenTurn, env: TurnEnvironment) -> None:
    """Run a claimed turn to its end.

    Raises ModelCallFailed after the last retry, UnknownModel and TemplateInvalid; the worker ends the turn then.
    """
    plan = env.planner.plan(turn.claim.agent)
    instructions = plan.instructions.render(turn.claim.session.scope(), codec.rfc3339(env.clock.now())[:10])
    budget = history_chars(plan.model.context_window)
    history = await _read_history(turn, env.store, budget)

    for calls_made in range(1, env.max_model_calls + 1):
        answer = await call_model(turn, plan, context.build(instructions, history, budget), env.clock)
        if not answer.tool_calls:
            await turn.end("end_turn", answer.events())
            return
        calls = dispatch.prepare_all(answer.tool_calls, plan.offered)
        history += await turn.append([*answer.events(), *(call.event() for call in calls)])
        outcomes = await dispatch.execute(calls)
        outputs = [dispatch.finalize(call, outcome) for call, outcome in zip(calls, outcomes, strict=True)]
        if calls_made == env.max_model_calls:
            message = f"The turn made {calls_made} model calls, the most a turn may make."
            await turn.end("limit", outputs, TurnError(code="model_call_limit", message=message))
            return
        history += await turn.append(outputs)


async def _read_history(turn: OpenTurn, store: Store, budget: int) -> list[AnyEvent]:
    """The log up to the turn's own input, read backwards until the budget of characters is spent.

    Hidden events are read too: whoever builds the context must know both halves of a tool call.
    """
    opened = turn.claim.opened
    entries = list(reversed(opened))
    cursor = opened[0].sequence if turn.claim.session.last_sequence else None
    while cursor is not None and budget > 0:
        page = await store.read_log(
            turn.claim.session.id, EventQuery(cursor=cursor, limit=_HISTORY_PAGE, order="desc", include_hidden=True)
        )
        entries += page.rows
        budget -= sum(len(entry.body) for entry in page.rows)
        cursor = page.next
    return [entry.event() for entry in reversed(entries)]
