"""A turn that is being written: its fence, its totals, what is in flight. Every append of a turn goes through here."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec
import structlog
from msgspec import Struct

from sessile.domain.client_tools import pending
from sessile.domain.log import Draft, Entry, draft
from sessile.domain.turn import ModelAnswer
from sessile.observation import UNOBSERVED, TurnWatch
from sessile.ports import Clock, LiveSink, LogMovedOn, Store
from sessile.rows import Appended, Claim, Cover, NewArtifact, TurnEnd, TurnProgress
from sessile.runner import artifacts, dispatch
from sessile.runner.history import History
from sessile.wire import codec
from sessile.wire.errors import SessionFull, StorageUnavailable
from sessile.wire.events import (
    AnyEvent,
    CompactionEvent,
    ContextConsumed,
    LiveFrame,
    SessionInterruptedEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnError,
)
from sessile.wire.sessions import SessionContextUsage, StopReason, Usage

STORAGE_RETRY_SECONDS = 1.0
_ENDED = ("turn_ended", "The turn ended before the tool did.")
_INTERRUPTED = ("turn_interrupted", "The turn was interrupted before the tool had ended; its outcome is unknown.")
_log = structlog.get_logger("sessile.runner")


class _Park(Struct, frozen=True):
    """The last write of a turn that waits for outputs to these events."""

    outstanding: list[str]


class _Compacted(Struct, frozen=True):
    """What a summary covers, and what is left for the model to read."""

    cover: Cover
    context: SessionContextUsage


_Last = TurnEnd | _Park


class OpenTurn:
    """The writing end of one claimed turn.

    It holds the transcript invariants: the commit that ends a turn also answers its open tool calls. While the store is
    unavailable an append waits and tries again; it raises FenceLost when the turn is no longer ours.
    """

    def __init__(self, claim: Claim, store: Store, sink: LiveSink, clock: Clock, watch: TurnWatch = UNOBSERVED) -> None:
        self.claim = claim
        self.watch = watch
        self.answer: ModelAnswer | None = None
        """The model answer that is not in the log yet."""
        self.open_calls: dict[str, ToolInputEvent] = {}
        """Tool calls in the log that have no output there, by tool call id."""
        self.outputs: dict[str, ToolOutputEvent] = {}
        """Outputs of some of these calls, which came and are not in the log yet."""
        self.made: dict[str, list[NewArtifact]] = {}
        """Files that tools have made in calls whose output is not in the log yet, by tool call id."""
        self.model_calls = 0
        """Model calls whose answers are in the log."""
        self.history: History | None = None
        """The end of the log as the model reads it, once the turn has taken it."""
        self.log_changed = False
        """Whether others wrote to the log since the turn read it: it reads again before it calls a model."""
        self.compaction_tried = False
        """Whether the turn has compacted its session, or found that it cannot."""
        self.compaction_failed = False
        """Whether a summary could not be made; the turn does not try again."""
        self.order = claim.order
        """The compaction that the turn is, if a caller has ordered one."""
        self.stopping = False
        """Whether the turn is to be left now, come what may: it no longer waits for the store."""
        self.interrupted = claim.interrupted
        """Whether a caller wants the turn stopped; that is in the store already."""
        self.steered = False
        """Whether inputs may wait to join the turn before its next model call."""
        self.rest: Callable[[OpenTurn], AbstractContextManager[None]] = lambda turn: nullcontext()
        """Gives the turn's slot back for a while; the worker sets it."""
        self.rests = 0
        """How many of its tool calls wait for other turns."""
        self.next: Claim | None = None
        """The turn that the end of this one has started."""
        self.lost = False
        """Whether somebody else has the turn now, or its session is gone."""
        self._cancellable = False
        self._committing = False
        self._store = store
        self._sink = sink
        self._clock = clock
        self._usage = msgspec.json.decode(claim.usage, type=Usage)
        self._session_usage = msgspec.json.decode(claim.session.usage, type=Usage)
        self._context_usage: SessionContextUsage | None = None
        self._known_context = claim.session.context_usage

    @property
    def turn_id(self) -> str:
        """The turn's id."""
        return self.claim.turn_id

    def now(self) -> str:
        """The time, for a live frame."""
        return codec.rfc3339(self._clock.now())

    def publish(self, frame: LiveFrame) -> None:
        """Show an ephemeral frame to the followers."""
        self._sink.publish(self.claim.session.id, frame)

    def leave(self, lost: bool) -> None:
        """Nobody here will run the turn; it was never begun here."""
        self.watch.left(lost)
        self._sink.left(self.claim.session.id)

    def tell_whether_left(self) -> None:
        """Nobody here runs the turn any more: tell the followers, unless it has ended."""
        if self.lost or self.stopping:
            self._sink.left(self.claim.session.id)

    def count(self, call: Usage, context: SessionContextUsage) -> None:
        """Add a model call to the totals; they are stored with the next append."""
        self._usage += call
        self._session_usage += call
        if call.input_tokens or call.output_tokens:
            self._context_usage = context
            self.publish(ContextConsumed(session_context_usage=context, turn_id=self.turn_id, created_at=self.now()))

    @property
    def context_tokens(self) -> int | None:
        """What the last model call of the session read and wrote, or None when its provider did not count."""
        if self._context_usage is None and self._known_context is not None:
            self._context_usage = msgspec.json.decode(self._known_context, type=SessionContextUsage)
        return None if self._context_usage is None else self._context_usage.total_tokens

    def spend(self, call: Usage) -> None:
        """Add a model call that is no part of the conversation to the totals."""
        self._usage += call
        self._session_usage += call

    async def compact(
        self, event: CompactionEvent, cover: Cover, context: SessionContextUsage, stop_reason: StopReason | None
    ) -> None:
        """Append a summary and hide what it covers, and end the turn if a reason is given. Raises LogMovedOn.

        `context` is what is left for the model to read.
        """
        end = None if stop_reason is None else TurnEnd(stop_reason, None)
        await self._append([event], end, _Compacted(cover, context))

    async def append(self, events: Sequence[AnyEvent]) -> None:
        """Append events; they get their envelopes and join the history."""
        await self._append(events, None)

    async def park(self, outputs: Sequence[ToolOutputEvent]) -> None:
        """Append outputs and leave the turn, in one commit, until clients have answered the calls that are left."""
        answered = {output.tool_call_id for output in outputs}
        left = [call for call_id, call in self.open_calls.items() if call_id not in answered]
        await self._append([*outputs, pending(left)], _Park([call.id for call in left]))
        self.history = None

    async def end(
        self, stop_reason: StopReason, events: Sequence[AnyEvent] = (), error: TurnError | None = None
    ) -> None:
        """Append the last events, answer what is still open and end the turn, in one commit."""
        answered = {event.tool_call_id for event in events if isinstance(event, ToolOutputEvent)}
        interrupted = [SessionInterruptedEvent()] if stop_reason == "interrupted" else []
        code, message = (error.code, error.message) if error else _INTERRUPTED if interrupted else _ENDED
        unanswered = [
            self.outputs.get(call_id) or dispatch.unanswered(call, code, message)
            for call_id, call in self.open_calls.items()
            if call_id not in answered
        ]
        await self._append([*events, *unanswered, *interrupted], TurnEnd(stop_reason, error))

    def making(self, tool_call_id: str) -> Callable[[NewArtifact], None]:
        """Takes the files that a call makes, for the commit that holds its output."""
        return self.made.setdefault(tool_call_id, []).append

    def answered(self, output: ToolOutputEvent) -> None:
        """A tool has answered while others still run."""
        self.outputs[output.tool_call_id] = output

    def resting(self) -> AbstractContextManager[None]:
        """Inside, the turn waits for another turn, and has no slot."""
        return self.rest(self)

    async def keep_outputs(self) -> None:
        """Append what tools have answered while others still run, so that nobody has to guess it later."""
        outputs = [self.outputs[call_id] for call_id in self.open_calls if call_id in self.outputs]
        if outputs:
            await self._when_possible(self._writing(outputs, None))

    async def break_off(self, error: TurnError) -> None:
        """End the turn as interrupted, or else with the error, keeping what was shown of the answer as partial."""
        shown = self.answer.events(partial=True) if self.answer else ()
        if self.interrupted:
            await self.end("interrupted", shown)
        else:
            await self.end("error", shown, error)

    def begin(self) -> None:
        """The task of this turn has started; until then a cancelled task would never close the turn."""
        self._cancellable = True
        if self.stopping or self.interrupted:
            raise asyncio.CancelledError

    def cancel(self, task: "asyncio.Task[None]") -> None:
        """Cancel the task that runs this turn: now, or once it has started, or once the outcome of a write is known."""
        self.stopping = True
        if self._cancellable:
            task.cancel()

    def interrupt(self, task: "asyncio.Task[None]") -> None:
        """Break the turn off for a caller, in the task that runs it. A second time does nothing.

        What is being written is written first, however long the store is away: it may be the end of the turn.
        """
        first, self.interrupted = not self.interrupted, True
        if first and self._cancellable and not self._committing:
            task.cancel()

    async def take_steering(self) -> None:
        """Append the inputs that wait to join this turn; they join the history."""
        self.steered = False

        async def write() -> None:
            entries = await self._store.take_steering(self.claim.fence)
            self._keep([entry.event() for entry in entries], entries)
            self._sink.announce(self.claim.session.id, entries)

        await self._commit(write)

    async def _append(
        self, events: Sequence[AnyEvent], last: _Last | None, compacted: _Compacted | None = None
    ) -> None:
        await self._commit(self._writing(events, last, compacted), leaves=last is not None)

    def _writing(
        self, events: Sequence[AnyEvent], last: _Last | None, compacted: _Compacted | None = None
    ) -> Callable[[], Awaitable[None]]:
        events, made = artifacts.told(events, self.made)
        context = self._context_usage if compacted is None else compacted.context
        cover = None if compacted is None else compacted.cover
        progress = TurnProgress(turn_usage=self._usage, session_usage=self._session_usage, context_usage=context)

        async def write() -> None:
            nonlocal events, made
            while True:
                try:
                    added = await self._store_it([*map(draft, events)], progress, last, cover, made)
                    break
                except SessionFull:
                    events, made = artifacts.fewer(events, made)
            self.answer = None
            self._context_usage = context
            self.steered = self.steered or added.steered
            self.next = added.next
            placed = [entry.placed(event) for event, entry in zip(events, added.entries, strict=False)]
            self._keep(placed, added.entries)
            self._tell(last)
            opened = [] if added.next is None else added.next.opened
            self._sink.announce(self.claim.session.id, [*added.entries, *opened])

        return write

    def _tell(self, last: _Last | None) -> None:
        if isinstance(last, _Park):
            self.watch.parked()
        elif last is not None:
            self.watch.ended(last.stop_reason, last.error.code if last.error else None)

    async def _store_it(
        self,
        drafts: list[Draft],
        progress: TurnProgress,
        last: _Last | None,
        cover: Cover | None,
        made: Sequence[NewArtifact],
    ) -> Appended:
        if not isinstance(last, _Park):
            return await self._store.append(self.claim.fence, drafts, progress, last, cover, made)
        entries = await self._store.park(self.claim.fence, drafts, progress, last.outstanding, made)
        if entries is None:  # an interrupt was recorded, and its caller is about to tell us
            self.interrupted = True
            raise asyncio.CancelledError
        return Appended(entries)

    async def _commit(self, write: Callable[[], Awaitable[None]], leaves: bool = False) -> None:
        self._committing = True
        try:
            await self._when_possible(write)
        except LogMovedOn:
            self._heed()
            raise
        finally:
            self._committing = False
        if not leaves:
            self._heed()

    def _heed(self) -> None:
        """Go no further when the turn is to stop; while it wrote, nobody cancelled it."""
        if self.stopping or self.interrupted:
            raise asyncio.CancelledError

    async def _when_possible(self, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            self._cancellable = False
            try:
                return await write()
            except StorageUnavailable:
                if self.stopping:
                    raise
                _log.warning("turn_waits_for_storage")
            finally:
                self._cancellable = True
            await self._clock.sleep(STORAGE_RETRY_SECONDS)

    def _keep(self, events: Sequence[AnyEvent], entries: Sequence[Entry]) -> None:
        """What was written is in the log now: `events` are the entries without records."""
        for event in events:
            self._note(event)
        if self.history is not None and entries:
            self.log_changed = self.log_changed or entries[0].sequence != self.history.last_sequence + 1
            self.history.last_sequence = entries[-1].sequence

    def _note(self, event: AnyEvent) -> None:
        if self.history is not None:
            self.history.conversation.add(event)
        if isinstance(event, ToolInputEvent):
            self.open_calls[event.tool_call_id] = event
        elif isinstance(event, ToolOutputEvent):
            self.open_calls.pop(event.tool_call_id, None)
            self.outputs.pop(event.tool_call_id, None)
            self.made.pop(event.tool_call_id, None)
