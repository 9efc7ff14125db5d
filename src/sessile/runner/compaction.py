"""Compaction of a session: ask the model for a summary, and put it in the place of what it covers, in one commit.

What decides is in `domain/compaction`. Nothing of it is shown as an answer, and nothing is kept of one that fails.
"""

from collections.abc import Sequence
from contextlib import aclosing

import structlog
from msgspec import Struct

from sessile.domain import compaction
from sessile.domain.compaction import CompactionFailed
from sessile.domain.log import COMPACTED
from sessile.domain.messages import Message
from sessile.domain.tokens import estimate_messages, most_tokens
from sessile.domain.turn import history_chars, retry_delay
from sessile.ports import Clock, Finished, LogMovedOn, ModelFault, ModelRequest, ModelUsage, Store, TextDelta
from sessile.rows import Cover, EventQuery, Span, Summary
from sessile.runner.history import Histories, History
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Plan
from sessile.wire import ids
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import AnyEvent, CompactionEvent, CompactionOrder, CompactionStarted, TurnError
from sessile.wire.sessions import InputTokens, OutputTokens, SessionContextUsage, Usage

CONTEXT_EXCEEDED = "model_context_exceeded"
_PAGE = 200
_TRIES = 3
"""How often a summary is made again because what it covers was changed meanwhile."""
_log = structlog.get_logger("sessile.runner")


class Compactor(Struct, frozen=True):
    """What a compaction needs of its turn and of the server."""

    store: Store
    histories: Histories
    clock: Clock
    plan: Plan
    instructions: str

    @property
    def budget(self) -> int:
        """How many characters of history the model is given."""
        return history_chars(self.plan.model.context_window)


async def fitted(turn: OpenTurn, compactor: Compactor, *, forced: bool = False) -> History:
    """The history for the next model call: as the log has it now, and compacted when it has become too long.

    One that cannot be compacted is given as it is: its oldest turns are left out then.
    """
    history = await _current(turn, compactor)
    span = await _wanted(turn, history, compactor, forced)
    if span is not None:
        try:
            await _compact(turn, compactor, span.through, None)
        except (CompactionFailed, ModelFault, StorageUnavailable) as fault:
            if turn.stopping and isinstance(fault, StorageUnavailable):
                raise
            turn.compaction_failed = True
            _log.warning("compaction_failed", reason=str(fault))
        history = await _current(turn, compactor)
    return history


async def run_order(turn: OpenTurn, compactor: Compactor, order: CompactionOrder) -> None:
    """Run the turn of a compaction that a caller has ordered, to its end. Raises ModelFault, FenceLost."""
    through = ids.sequence_of(order.up_to_event_id) or 0
    try:
        await _compact(turn, compactor, through, order)
    except CompactionFailed as fault:
        await turn.end("error", (), TurnError(code="compaction_failed", message=str(fault)))


async def _current(turn: OpenTurn, compactor: Compactor) -> History:
    """The turn's history; read again when others wrote to the log since."""
    while turn.log_changed or turn.history is None:
        turn.log_changed = False
        turn.history = await compactor.histories.read(turn.claim.session.id, compactor.budget)
    return turn.history


async def _wanted(turn: OpenTurn, history: History, compactor: Compactor, forced: bool) -> Span | None:
    """What is to be summarised before the next model call, if anything."""
    if turn.compaction_failed:
        return None
    session_id = turn.claim.session.id
    if history.stale_through:
        return await compactor.store.span(session_id, through=history.stale_through)
    config, window = compactor.plan.compaction, compactor.plan.model.context_window
    if turn.compaction_tried or not config.enabled:
        return None
    over = forced or history.cut or history.conversation.over(compactor.instructions, compactor.budget) > 0
    if not (over or compaction.due(config, _tokens(turn, history, compactor), window)):
        return None
    turn.compaction_tried = True
    return await compactor.store.span(session_id, keep=config.keep_recent_inputs)


def _tokens(turn: OpenTurn, history: History, compactor: Compactor) -> int:
    """How full the window was in the last model call, as the provider counts, or about as full as it is now."""
    known = turn.context_tokens
    if known is not None:
        return known
    rough = most_tokens(history.conversation.chars + len(compactor.instructions))
    if not compaction.due(compactor.plan.compaction, rough, compactor.plan.model.context_window):
        return rough
    return estimate_messages(history.conversation.messages(compactor.instructions, compactor.budget))


async def _compact(turn: OpenTurn, compactor: Compactor, through: int, order: CompactionOrder | None) -> None:
    """Summarise all up to a place and commit it. An `order` ends its turn in the same commit.

    What is changed meanwhile may make the summary before stale: what that one covered then belongs to this one.
    """
    session = turn.claim.session
    started = CompactionStarted(id=ids.live_id(), session_key=session.key, turn_id=turn.turn_id, created_at=turn.now())
    turn.publish(started)
    for _ in range(_TRIES):
        seen = (await compactor.store.heads([session.id])).get(session.id, 0)
        span = await compactor.store.span(session.id, through=through)
        if span is None:
            raise CompactionFailed("What was to be compacted is not there any more.")
        text = await _summarised(turn, compactor, span, order)
        kept = await compactor.histories.read(session.id, compactor.budget, summary=Summary(text, span.through))
        event = CompactionEvent(
            turns_compacted=span.turns,
            events_compacted=span.events,
            summary_key=ids.summary_key(),
            summary_text=text,
            up_to_event_id=span.last_event_id,
        )
        turn.history = kept
        try:
            await turn.compact(event, Cover(span, seen), _context(kept, compactor), "end_turn" if order else None)
        except LogMovedOn:
            turn.log_changed = True
        else:
            return
    raise CompactionFailed("Events were hidden or deleted again and again while the model summarised them.")


async def _summarised(turn: OpenTurn, compactor: Compactor, span: Span, order: CompactionOrder | None) -> str:
    """A good summary of a span. Raises CompactionFailed, ModelFault."""
    plan = compactor.plan
    window = plan.model.context_window
    question = compaction.prompt(plan.compaction, (order and order.compaction_message) or None)
    earlier = (await compactor.store.summary(turn.claim.session.id)).text
    events = await _events(compactor.store, turn.claim.session.id, span, compaction.request_chars(window, 1.0))
    for share in compaction.ATTEMPTS:
        most = compaction.request_chars(window, share)
        messages = compaction.request(question, earlier, events, plan.compaction, most)
        try:
            return compaction.checked(await _ask(turn, plan, messages, compactor.clock), window)
        except ModelFault as fault:
            if fault.code != CONTEXT_EXCEEDED or share == compaction.ATTEMPTS[-1]:
                raise
    raise AssertionError


async def _events(store: Store, session_id: int, span: Span, max_chars: int) -> Sequence[AnyEvent]:
    """The end of a span, as much as can be summarised; what a summary has covered counts as visible."""
    events: list[AnyEvent] = []
    left, cursor = max_chars, span.through + 1
    while left > 0 and cursor > span.after + 1:
        query = EventQuery(cursor=cursor, limit=_PAGE, order="desc", include_deleted=True)
        page = await store.read_log(session_id, query)
        for entry in page.rows:
            if entry.sequence > span.after:
                event = entry.event()
                event.hidden = event.hidden and entry.visibility != COMPACTED
                events.append(event)
                left -= len(entry.body)
        cursor = page.next or 0
    events.reverse()
    return events


async def _ask(turn: OpenTurn, plan: Plan, messages: list[Message], clock: Clock) -> str:
    """The model's answer, tried again as the agent's retry configuration says; nothing of it is shown."""
    request = ModelRequest(messages=messages, tools=[], parameters=plan.settings.parameters)
    failures = 0
    while True:
        parts: list[str] = []
        used = Usage(model_calls=1)
        reason: str | None = None
        watch = turn.watch.model_call(plan.model.name, messages, request.parameters)
        try:
            async with aclosing(plan.model.stream(request)) as chunks:
                async for chunk in chunks:
                    match chunk:
                        case TextDelta(text=text):
                            parts.append(text)
                        case Finished():
                            reason = chunk.reason
                        case ModelUsage():
                            used = Usage(
                                input_tokens=chunk.input_tokens,
                                cached_tokens=chunk.cached_tokens,
                                output_tokens=chunk.output_tokens,
                                reasoning_tokens=chunk.reasoning_tokens,
                                model_calls=1,
                            )
            watch.ended(used, reason, None)
            return "".join(parts)
        except ModelFault as fault:
            watch.failed(fault.code, used)
            failures += 1
            wait = retry_delay(plan.settings.retry_configuration, failures, fault.retryable, fault.retry_after)
            if wait is None:
                raise
            await clock.sleep(wait)
        finally:
            watch.cancelled(used)
            turn.spend(used)


def _context(kept: History, compactor: Compactor) -> SessionContextUsage:
    """What the next model call will read, by estimate: no model has counted it yet."""
    tokens = estimate_messages(kept.conversation.messages(compactor.instructions, compactor.budget))
    return SessionContextUsage(
        input_tokens=InputTokens(count=tokens),
        output_tokens=OutputTokens(),
        total_tokens=tokens,
        model_context_window=compactor.plan.model.context_window,
    )
