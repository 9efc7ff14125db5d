"""Whether a log is one that a session may have: the invariants of a transcript, as a fold over its events. Pure."""

from collections.abc import Iterator
from typing import Any

from msgspec import UNSET

from sessile.domain.session import SessionState, fold
from sessile.wire import ids
from sessile.wire.events import (
    AgentOutputEvent,
    AnyEvent,
    ClientToolPendingEvent,
    CompactionEvent,
    EventDeletedRecord,
    EventHiddenRecord,
    EventUnhiddenRecord,
    InputMessageEvent,
    StructuredOutputEvent,
    ThinkingEvent,
    ToolInputEvent,
    ToolOutputEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Violation


class TranscriptCheck:
    """Takes the events of a log in order, from the first one on, and finds what breaks a rule.

    It shares nothing with whoever writes logs but the event types, and decides by the log alone.
    """

    def __init__(self) -> None:
        self.state = SessionState()
        """What the fold of the events makes of the session."""
        self._waiting: dict[str, AnyEvent] = {}
        """Inputs that no turn has taken."""
        self._turn = ""
        """The turn that runs."""
        self._called: set[str] = set()
        """The tool calls of the turn that runs, open and answered."""
        self._final = False
        """Whether the turn has an output that no tool call has followed, and that was not cut off."""

    def feed(self, event: AnyEvent) -> Iterator[Violation]:
        """What is wrong with the next event."""
        for rule, message in self._broken(event):
            yield Violation(rule=rule, message=message, sequence=event.sequence, event_id=event.id)
        self._take(event)

    def end(self) -> Iterator[Violation]:
        """What is wrong with a log that ends here."""
        for event in self._waiting.values():
            yield Violation(
                rule="input_without_turn",
                message="No turn took this input.",
                sequence=event.sequence,
                event_id=event.id,
            )

    def stale(self, **cached: Any) -> Iterator[Violation]:
        """What a session says of itself and its log does not: fields of the state by name."""
        for name, said in cached.items():
            if said != (follows := getattr(self.state, name)):
                yield Violation(
                    rule="stale_session",
                    message=f"The session says {name} {said!r}, its log {follows!r}.",
                    sequence=self.state.last_sequence,
                    event_id=self.state.last_event_id or "",
                )

    def _broken(self, event: AnyEvent) -> Iterator[tuple[str, str]]:
        if event.sequence != self.state.last_sequence + 1:
            yield "sequence_gap", f"The event before has the sequence {self.state.last_sequence}."
        match event:
            case EventHiddenRecord() | EventUnhiddenRecord() | EventDeletedRecord():
                return
            case InputMessageEvent():
                if self._turn and event.turn_id != self._turn:
                    yield "outside_turn", f"The turn {self._turn} runs, and this input does not join it."
            case TurnStartedRecord():
                yield from self._broken_start(event)
            case _ if event.turn_id != self._turn:
                yield "outside_turn", f"It belongs to the turn {event.turn_id}, which does not run here."
            case TurnEndedRecord():
                if self.state.open_tool_calls:
                    yield "call_open_at_end", f"No output answers {self._open()}."
            case ThinkingEvent() | AgentOutputEvent() | StructuredOutputEvent():
                yield from self._broken_answer(event)
            case ToolInputEvent():
                if event.tool_call_id in self._called:
                    yield "call_doubled", f"The turn has a call {event.tool_call_id!r} already."
            case ToolOutputEvent():
                if event.tool_call_id not in self.state.open_tool_calls:
                    yield "output_without_call", f"No call {event.tool_call_id!r} is open."
            case ClientToolPendingEvent():
                deleted = event.hidden and not event.pending_calls
                named = [call.event_id for call in event.pending_calls]
                if not deleted and (named != self._open_ids() or not named):
                    yield "pending_mismatch", f"The calls that are open are others: {self._open() or 'none'}."

            case CompactionEvent():
                if (ids.sequence_of(event.up_to_event_id or "") or 0) >= event.sequence:
                    yield "summary_misplaced", "It says that it covers events which come after it."

    def _broken_start(self, event: TurnStartedRecord) -> Iterator[tuple[str, str]]:
        if self._turn:
            yield "turns_overlap", f"The turn {self._turn} has not ended."
        if event.compaction is UNSET and event.input_event_id not in self._waiting:
            yield "turn_without_input", f"The event {event.input_event_id} is no input that waits for a turn."

    def _broken_answer(
        self, event: ThinkingEvent | AgentOutputEvent | StructuredOutputEvent
    ) -> Iterator[tuple[str, str]]:
        if self.state.open_tool_calls:
            yield "call_open_at_model_call", f"No output answers {self._open()}, and the model was called again."
        partial = isinstance(event, ThinkingEvent) or (isinstance(event, AgentOutputEvent) and event.partial)
        if self._final and not partial:
            yield "second_final_output", "The turn has a final output already."

    def _take(self, event: AnyEvent) -> None:
        self.state = fold([event], self.state)
        match event:
            case InputMessageEvent():
                if event.turn_id != self._turn:
                    self._waiting[event.id] = event
            case TurnStartedRecord():
                self._waiting.pop(event.input_event_id or "", None)
                self._turn, self._final = event.turn_id, False
                self._called.clear()
                self.state.open_tool_calls.clear()
            case TurnEndedRecord():
                self._turn = ""
            case AgentOutputEvent():
                self._final = not event.partial
            case StructuredOutputEvent():
                self._final = True
            case ToolInputEvent():
                self._called.add(event.tool_call_id)
                self._final = False

    def _open_ids(self) -> list[str]:
        return [call.id for call in self.state.open_tool_calls.values()]

    def _open(self) -> str:
        return ", ".join(repr(call) for call in self.state.open_tool_calls)
