"""A turn that is being written: its fence, its totals, what is in flight. Every append of a turn goes through here."""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from sessile.domain.log import Draft, draft
from sessile.domain.turn import ModelAnswer
from sessile.ports import Clock, LiveSink, Store, ToolContext
from sessile.rows import Claim, NewArtifact, TurnEnd, TurnProgress
from sessile.runner import artifacts, dispatch
from sessile.runner.history import History
from sessile.wire import codec
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import (
    AnyEvent,
    ContextConsumed,
    LiveFrame,
    SessionInterruptedEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnError,
)
from sessile.wire.sessions import SessionContextUsage, StopReason, Usage

_STORAGE_RETRY_SECONDS = 1.0
_ENDED = ("turn_ended", "The turn ended before the tool did.")
_INTERRUPTED = ("turn_interrupted", "The turn was interrupted before the tool had ended; its outcome is unknown.")
_log = structlog.get_logger("sessile.runner")


class OpenTurn:
    """The writing end of one claimed turn.

    It holds the transcript invariants: the commit that ends a turn also answers its open tool calls. While the store is
    unavailable an append waits and tries again; it raises FenceLost when the turn is no longer ours.
    """

    def __init__(self, claim: Claim, store: Store, sink: LiveSink, clock: Clock) -> None:
        self.claim = claim
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
        self.stopping = False
        """Whether the turn is to end now, come what may: it no longer waits for the store."""
        self.interrupted = claim.interrupted
        """Whether a caller wants the turn stopped; that is in the store already."""
        self._cancellable = False
        self._committing = False
        self._store = store
        self._sink = sink
        self._clock = clock
        self._usage = msgspec.json.decode(claim.usage, type=Usage)
        self._session_usage = msgspec.json.decode(claim.session.usage, type=Usage)
        self._context_usage: SessionContextUsage | None = None

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

    def count(self, call: Usage, context: SessionContextUsage) -> None:
        """Add a model call to the totals; they are stored with the next append."""
        self._usage += call
        self._session_usage += call
        if call.input_tokens or call.output_tokens:
            self._context_usage = context
            self.publish(ContextConsumed(session_context_usage=context, turn_id=self.turn_id, created_at=self.now()))

    async def append(self, events: Sequence[AnyEvent]) -> None:
        """Append events; they get their envelopes and join the history."""
        await self._commit(events, None)

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
        await self._commit([*events, *unanswered, *interrupted], TurnEnd(stop_reason, error))

    def context(self, tool_call_id: str) -> ToolContext:
        """What a tool is told of its call."""
        made = self.made.setdefault(tool_call_id, [])
        return ToolContext(
            session=self.claim.session, turn_id=self.turn_id, tool_call_id=tool_call_id, add_artifact=made.append
        )

    def answered(self, output: ToolOutputEvent) -> None:
        """A tool has answered while others still run."""
        self.outputs[output.tool_call_id] = output

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

    async def _commit(self, events: Sequence[AnyEvent], end: TurnEnd | None) -> None:
        self._committing = True
        try:
            await self._write_when_possible(events, end)
        finally:
            self._committing = False
        if (self.stopping or self.interrupted) and end is None:
            raise asyncio.CancelledError

    async def _write_when_possible(self, events: Sequence[AnyEvent], end: TurnEnd | None) -> None:
        events, made = artifacts.told(events, self.made)
        drafts = [draft(event) for event in events]
        progress = TurnProgress(
            turn_usage=self._usage, session_usage=self._session_usage, context_usage=self._context_usage
        )
        while True:
            try:
                return await self._write(events, drafts, progress, end, made)
            except StorageUnavailable:
                if self.stopping:
                    raise
                _log.warning("turn_waits_for_storage")
                await self._clock.sleep(_STORAGE_RETRY_SECONDS)

    async def _write(
        self,
        events: Sequence[AnyEvent],
        drafts: list[Draft],
        progress: TurnProgress,
        end: TurnEnd | None,
        made: Sequence[NewArtifact],
    ) -> None:
        self._cancellable = False
        try:
            entries = await self._store.append(self.claim.fence, drafts, progress, end, made)
        finally:
            self._cancellable = True
        self.answer = None
        for event, entry in zip(events, entries, strict=False):
            self._note(entry.placed(event))
        if self.history is not None and entries:
            self.history.last_sequence = entries[-1].sequence
        self._sink.announce(self.claim.session.id, entries)

    def _note(self, event: AnyEvent) -> None:
        if self.history is not None:
            self.history.conversation.add(event)
        if isinstance(event, ToolInputEvent):
            self.open_calls[event.tool_call_id] = event
        elif isinstance(event, ToolOutputEvent):
            self.open_calls.pop(event.tool_call_id, None)
            self.outputs.pop(event.tool_call_id, None)
            self.made.pop(event.tool_call_id, None)
