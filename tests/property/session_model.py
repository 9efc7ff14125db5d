"""What the log of a session should hold: a model as small as the promise, which shares no code with the product.

Each method that writes is a generator: a `yield` stands before each commit, and what follows it, up to the next one, is
what this commit changes. Who stops in between has been killed there. A new kind of input is a method here and a rule in
the machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_MODEL_CALLS = 3
MAX_TAKES = 5
MAX_RETRIES = 1
Brief = tuple[Any, ...]
Commits = Iterator[None]


@dataclass
class Input:
    """An input, or outputs of client tools. `place` is the sequence of its event, once it stands in the log."""

    content: str
    behavior: str | None = None
    key: str | None = None
    place: int | None = None
    withdrawn: bool = False


@dataclass
class Call:
    """A tool call that has no output in the log. `code` is None for success, an error code, or "" while it is open.

    `kind`: a client answers `ask`, the server runs `again`, which is idempotent, and `once`; `nobody` is no tool.
    """

    id: str
    kind: str
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
    told: bool = False
    """Whether it looks for inputs to join it before it calls the model."""
    lost: bool = False
    """Whether it was handed to nobody."""


class Expected:
    """One session."""

    def __init__(self) -> None:
        self.log: list[Brief] = []
        self.turn: Turn | None = None
        self.waiting: list[Input] = []
        self.keys: dict[str, Input] = {}
        """Idempotency keys, and what came with them."""

    @property
    def running(self) -> Turn:
        """The turn, which must run."""
        assert self.turn is not None
        return self.turn

    @property
    def pending(self) -> bool:
        """Whether the log says last that clients shall answer calls."""
        return bool(self.log) and self.log[-1][0] == "client_tool_pending"

    @property
    def state(self) -> str:
        """What the session waits for: `input`, `model`, `tools`, `clients`, `worker` when nobody runs its turn, or
        `time` before the model is called again."""
        if self.turn is None:
            return "input"
        if self.turn.lost:
            return "worker"
        if self.pending:
            return "clients"
        if self.turn.calls:
            return "tools"
        return "time" if self.turn.waits else "model"

    @property
    def called(self) -> list[str]:
        """All calls in the log that do not wait for a client."""
        waits = [call.id for call in self.running.calls] if self.state == "clients" else []
        return [event[1] for event in self.log if event[0] == "tool_input" and event[1] not in waits]

    # Inputs.

    def say(self, input: Input, *, lost: bool = False) -> Commits:
        """An input starts a turn, or waits."""
        yield
        self._keep(input)
        if self.turn is None:
            self._start(input, lost=lost)
        else:
            self.waiting.append(input)
            self.turn.told = self.turn.told or input.behavior == "steer"

    def withdraw(self, input: Input) -> Commits:
        """An input waits no more."""
        yield
        self.waiting.remove(input)
        input.withdrawn = True

    def answer(self, outputs: Input, codes: dict[str, str | None], *, lost: bool = False) -> Commits:
        """Clients have answered some calls; with the last one the turn goes on."""
        yield
        self._keep(outputs)
        turn, outputs.place = self.running, len(self.log) + 1
        self.log += [("tool_output", id, code) for id, code in codes.items()]
        turn.calls, turn.takes = [call for call in turn.calls if call.id not in codes], 1
        if turn.calls:
            self.log.append(_pending(turn.calls))
            return
        turn.told, turn.lost = True, lost
        if not lost:
            yield from self.go_on()

    def interrupt(self, *, lost: bool = False) -> Commits:
        """Somebody wants the turn stopped; whoever runs it stops it, or who takes it up."""
        yield
        if self.turn is not None:
            self.turn.interrupted, self.turn.lost = True, self.turn.lost or (lost and self.pending)
            if not self.turn.lost:
                yield
                self._stop()

    def may_wait(self, call_id: str) -> bool:
        """Whether a call is one of the turn that runs, which has not waited for clients since it was made."""
        since = self.log[self.log.index(("tool_input", call_id)) :]
        return not any(event[0] in ("client_tool_pending", "turn_ended") for event in since)

    # What the model and the tools do.

    def finish(self) -> Commits:
        """The model has said what it had to say."""
        yield
        self._end("end_turn", None, [*self._thought(), ("agent_output", self.running.text, False)])

    def fail(self, code: str) -> Commits:
        """The model has failed for good; what was shown stays."""
        yield
        self._end("error", code, [*self._thought(), *self._said(partial=True)])

    def call(self, calls: list[Call]) -> Commits:
        """The model calls tools."""
        yield
        turn = self.running
        self.log += [*self._thought(), *self._said(partial=False), *(("tool_input", call.id) for call in calls)]
        turn.calls, turn.answers = calls, turn.answers + 1
        turn.text, turn.thinking, turn.failures = "", "", 0
        yield from self.go_on()

    def go_on(self) -> Commits:
        """When its own tools have answered, a turn waits for clients, ends, or calls the model."""
        turn = self.running
        outputs = [_output(call) for call in turn.calls if call.kind != "ask"]
        asked = [call for call in turn.calls if call.kind == "ask"]
        if any(call.code == "" and call.kind != "ask" for call in turn.calls):
            return
        if asked:
            yield
            self.log += [*outputs, _pending(asked)]
            turn.calls = asked
        elif turn.answers >= MAX_MODEL_CALLS:
            yield
            turn.calls = []
            self._end("limit", "model_call_limit", outputs)
        else:
            if outputs:
                yield
                self.log += outputs
                turn.calls = []
            if turn.told:
                yield
                self._steer()

    # What becomes of it when its process does not go on.

    def leave(self) -> None:
        """A server that stops keeps what tools have answered while others still run."""
        if self.turn is not None:
            self.log += [_output(call) for call in self.turn.calls if call.code != ""]
            self.turn.calls = [call for call in self.turn.calls if call.code == ""]

    def take_up(self, *, counts: bool = True) -> Commits:
        """What the next worker makes of it: the memory of the turn is gone, the log is not."""
        if self.turn is None or (self.pending and not self.turn.interrupted):
            return
        takes, interrupted = self.turn.takes + counts, self.turn.interrupted
        calls = [Call(call.id, call.kind) for call in self.turn.calls]
        self.turn = Turn(calls=calls, answers=self.turn.answers, takes=takes, interrupted=interrupted, told=True)
        if interrupted:
            yield
            self._stop()
        elif takes > MAX_TAKES:
            yield from self.fail("server_restarted")
        else:
            for call in calls:
                call.code = _after_a_crash(call)
            yield from self.go_on()

    def _keep(self, input: Input) -> None:
        if input.key is not None:
            self.keys[input.key] = input

    def _start(self, input: Input, *, lost: bool = False) -> None:
        self._place(input)
        self.log.append(("turn_started",))
        self.turn = Turn(lost=lost)

    def _place(self, input: Input) -> None:
        self.log.append(("input_message", input.content))
        input.place = len(self.log)

    def _steer(self) -> None:
        """Inputs join the turn."""
        self.running.told = False
        for input in [input for input in self.waiting if input.behavior == "steer"]:
            self.waiting.remove(input)
            self._place(input)

    def _stop(self) -> None:
        self._end("interrupted", None, [*self._thought(), *self._said(partial=True)])

    def _thought(self) -> Iterator[Brief]:
        if self.running.thinking:
            yield "thinking", self.running.thinking

    def _said(self, *, partial: bool) -> Iterator[Brief]:
        if self.running.text:
            yield "agent_output", self.running.text, partial

    def _end(self, reason: str, error: str | None, events: list[Brief]) -> None:
        """The last events, outputs for calls that are open, the end, and the turn of what has waited longest."""
        closing = "turn_interrupted" if reason == "interrupted" else error
        self.log += events
        self.log += [("tool_output", c.id, closing if c.code == "" else c.code) for c in self.running.calls]
        if reason == "interrupted":
            self.log.append(("session_interrupted",))
        self.log.append(("turn_ended", reason, error))
        self.turn = None
        for input in self.waiting:
            input.behavior = "follow_up"
        if self.waiting:
            self._start(self.waiting.pop(0))


def _output(call: Call) -> Brief:
    return "tool_output", call.id, call.code


def _pending(calls: list[Call]) -> Brief:
    return "client_tool_pending", *(call.id for call in calls)


def _after_a_crash(call: Call) -> str:
    """A client may still answer, and what is idempotent runs again; of others nobody knows what they did."""
    return "" if call.kind in ("ask", "again") else "tool_outcome_unknown"


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
        case "client_tool_pending":
            return kind, *(call["arguments"]["id"] for call in event["pending_calls"])
        case "turn_ended":
            return kind, event["stop_reason"], event["error"]["code"] if event["error"] else None
    return (kind,)
