"""One turn, from its input to its end: call the model, keep what became durable, run tools, until it is done.

It takes all it needs as arguments and owns no storage, no transport and no provider.
"""

from msgspec import Struct

from sessile.domain.messages import Message
from sessile.domain.tokens import estimate_messages
from sessile.domain.turn import ModelAnswer
from sessile.observation import UNOBSERVED, TurnObserver
from sessile.ports import Clock, Files, LiveSink, ModelFault, Store, Vault
from sessile.rows import Claim
from sessile.runner import compaction, dispatch, structured
from sessile.runner.compaction import CONTEXT_EXCEEDED, Compactor
from sessile.runner.history import Histories, History
from sessile.runner.model_call import call_model
from sessile.runner.offloading import Offloading
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Planner
from sessile.runner.slots import TurnLimits
from sessile.runner.surroundings import TurnSurroundings
from sessile.wire import codec
from sessile.wire.errors import AgentDisabled, SessionDisabled
from sessile.wire.events import ContextLimitExceededEvent, TurnError


class TurnEnvironment(Struct, frozen=True):
    """What all turns of a server share."""

    store: Store
    planner: Planner
    histories: Histories
    sink: LiveSink
    clock: Clock
    max_model_calls: int
    vault: Vault | None = None
    """Where arguments that name secrets get them. Without one there are none."""
    files: Files | None = None
    """Where outputs go that agents want as files. Without it they are cut."""
    observer: TurnObserver = UNOBSERVED
    limits: TurnLimits = TurnLimits()


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
    if plan.output is not None:
        instructions = f"{instructions}\n\n{plan.output.instruction}".lstrip()
    compactor = Compactor(env.store, env.histories, env.clock, plan, instructions)
    if turn.order is not None:
        await compaction.run_order(turn, compactor, turn.order)
        return
    if plan.output is not None and plan.output.unusable is not None:
        await turn.end("error", (), structured.unusable(plan.output.unusable))
        return
    turn.history = await env.histories.take(turn.claim, compactor.budget)

    repairs: list[Message] = []
    around = TurnSurroundings(turn, plan, env.vault, Offloading(env.store, env.files, plan))
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
        answer = await _answered(turn, compactor, repairs)
        if answer is None:
            return
        turn.model_calls += 1
        if not answer.tool_calls and plan.output is None:
            await turn.end("end_turn", answer.events())
            return
        if not answer.tool_calls and plan.output is not None:
            if await structured.end(turn, plan.output, answer, repairs):
                return
            calls = []
            continue
        repairs = []
        calls = dispatch.prepare_all(answer.tool_calls, plan.offered)
        await turn.append([*answer.events(), *(call.event() for call in calls)])


def _check_enabled(claim: Claim) -> None:
    if not claim.agent.enabled:
        raise AgentDisabled(f"The agent {claim.agent.key!r} was disabled while the input waited.")
    if not claim.session.enabled:
        raise SessionDisabled(f"The session {claim.session.key!r} was disabled while the input waited.")


async def _answered(turn: OpenTurn, compactor: Compactor, repairs: list[Message]) -> ModelAnswer | None:
    """The model's answer to what its window holds and to `repairs`; None: nothing made it fit, the turn has ended."""
    plan = compactor.plan
    history = await _current(turn, compactor)
    while True:
        messages = history.conversation.messages(compactor.instructions, compactor.budget) + repairs
        try:
            return await call_model(turn, plan, messages, compactor.clock)
        except ModelFault as fault:
            if fault.code != CONTEXT_EXCEEDED:
                raise
            too_long, history = history, await compaction.fitted(turn, compactor, forced=True)
            if history is too_long:
                event = ContextLimitExceededEvent(
                    message=fault.message,
                    context_limit=plan.model.context_window,
                    actual_tokens=estimate_messages(messages),
                )
                await turn.end("limit", [event], TurnError(code=fault.code, message=fault.message))
                return None
            history = await _current(turn, compactor)


async def _current(turn: OpenTurn, compactor: Compactor) -> History:
    """All that was said, with the inputs that wait to join the turn, also those that came during a compaction."""
    while True:
        if turn.steered:
            await turn.take_steering()
        history = await compaction.fitted(turn, compactor)
        if not turn.steered:
            return history


def _too_many(calls_made: int) -> TurnError:
    message = f"The turn made {calls_made} model calls, the most a turn may make."
    return TurnError(code="model_call_limit", message=message)
