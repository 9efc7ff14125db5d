"""What the log of a session should hold: a model as small as the promise, which shares no code with the product.

Each method that changes the log is one commit. A new kind of input is a method here and a rule in the machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_MODEL_CALLS = 3
MAX_TAKES = 5
MAX_RETRIES = 1
Brief = tuple[Any, ...]


@dataclass
class Call:
    """A tool call that has no output in the log. `code` is None for success, an error code, or "" while it is open."""

    id: str
    idempotent: bool
    code: str | None = ""


@dataclass
class Turn:
    """A turn that runs, and what of it is only in the memory of its process."""

    text: str = ""
    thinking: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: int = 0
    """Model answers that called tools."""
    failures: int = 0
    waits: bool = False
    """Whether it waits to call the model again."""
    takes: int = 1
    interrupted: bool = False
    asks: bool = False
    """Whether it has yet to ask for inputs that wait to join it: whoever was told of them does not run it any more."""


class Expected:
    """One session."""

    def __init__(self) -> None:
        self.log: list[Brief] = []
        self.turn: Turn | None = None
        self.keys: dict[str, tuple[str, int]] = {}
        """Idempotency keys: the content they came with, and the sequence of its input."""

    @property
    def running(self) -> Turn:
        """The turn, which must run."""
        assert self.turn is not None
        return self.turn

    @property
    def state(self) -> str:
        """What the session waits for: `input`, `model`, `tools`, or `time` before the model is called again."""
        if self.turn is None:
            return "input"
        if self.turn.calls:
            return "tools"
        return "time" if self.turn.waits else "model"

    def accept(self, content: str, key: str | None) -> None:
        """An input, and the start of its turn."""
        if key is not None:
            self.keys[key] = content, len(self.log) + 1
        self.log += [("input_message", content), ("turn_started",)]
        self.turn = Turn()

    def finish(self) -> None:
        """The model has said what it had to say."""
        text = self.running.text
        self._end("end_turn", None, [*self._thought(), ("agent_output", text, False)])

    def call(self, calls: list[Call]) -> None:
        """The model calls tools."""
        turn = self.running
        self.log += [*self._thought(), *self._said(partial=False), *(("tool_input", call.id) for call in calls)]
        turn.calls, turn.answers = calls, turn.answers + 1
        turn.text = turn.thinking = ""

    @property
    def asks_next(self) -> bool:
        """Whether a commit that asks for inputs follows the outputs of its tools."""
        return self.running.asks and self.running.answers < MAX_MODEL_CALLS

    @property
    def tools_done(self) -> bool:
        """Whether all tools have answered and the log does not say so yet."""
        return bool(self.running.calls) and all(call.code != "" for call in self.running.calls)

    def tool_outputs(self) -> None:
        """The outputs of all calls, and the end of a turn that has called the model too often."""
        turn = self.running
        outputs = [("tool_output", call.id, call.code) for call in turn.calls]
        if turn.answers >= MAX_MODEL_CALLS:
            self._end("limit", "model_call_limit", outputs, answer_calls=False)
        else:
            self.log += outputs
            turn.calls, turn.failures, turn.asks = [], 0, False

    def fail(self, code: str) -> None:
        """The model has failed for good; what was shown stays."""
        self._end("error", code, [*self._thought(), *self._said(partial=True)])

    def mark(self) -> None:
        """An interrupt is recorded."""
        self.running.interrupted = True

    def stop(self) -> None:
        """The interrupted turn ends."""
        self._end("interrupted", None, [*self._thought(), *self._said(partial=True)])

    def take_up(self) -> None:
        """What the next process makes of a session: its memory of the turn is gone, the log is not."""
        if self.turn is None:
            return
        takes, interrupted = self.turn.takes + 1, self.turn.interrupted
        calls = [Call(call.id, call.idempotent) for call in self.turn.calls]
        self.turn = Turn(calls=calls, answers=self.turn.answers, takes=takes, interrupted=interrupted)
        if interrupted:
            self.stop()
        elif takes > MAX_TAKES:
            self.fail("server_restarted")
        else:
            for call in calls:
                if not call.idempotent:
                    call.code = "tool_outcome_unknown"
            self.turn.asks = bool(calls)
            if self.tools_done:
                self.tool_outputs()

    def _thought(self) -> Iterator[Brief]:
        if self.running.thinking:
            yield "thinking", self.running.thinking

    def _said(self, *, partial: bool) -> Iterator[Brief]:
        if self.running.text:
            yield "agent_output", self.running.text, partial

    def _end(self, reason: str, error: str | None, events: list[Brief], *, answer_calls: bool = True) -> None:
        """The last events, outputs for calls that are open, and the end."""
        self.log += events
        if answer_calls:
            closing = "turn_interrupted" if reason == "interrupted" else error
            self.log += [("tool_output", c.id, closing if c.code == "" else c.code) for c in self.running.calls]
        if reason == "interrupted":
            self.log.append(("session_interrupted",))
        self.log.append(("turn_ended", reason, error))
        self.turn = None


def brief(event: dict[str, Any]) -> Brief:
    """An event of the real log in the words of this model."""
    kind = event["type"]
    match kind:
        case "input_message" | "thinking":
            return kind, event["content"]
        case "agent_output":
            return kind, event["content"], event.get("partial", False)
        case "tool_input":
            return kind, event["tool_call_id"]
        case "tool_output":
            return kind, event["tool_call_id"], event["tool_output"]["code"] if event["error"] else None
        case "turn_ended":
            return kind, event["stop_reason"], event["error"]["code"] if event["error"] else None
    return (kind,)
