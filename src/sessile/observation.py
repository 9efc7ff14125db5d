"""Ports of whoever counts and traces what a server does. They are told; nothing that they do changes what happens.

No method blocks or raises. What has no observer is told to `UNOBSERVED`, which costs a call that does nothing.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from sessile.domain.messages import Message
from sessile.domain.turn import ModelAnswer
from sessile.rows import Claim
from sessile.wire.sessions import StopReason, Usage

TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The `traceparent` header of the request that is answered, if it has one."""


class ToolCallWatch(Protocol):
    """One call of a tool."""

    def ended(self, code: str | None, result: Mapping[str, Any]) -> None:
        """It has an outcome: a result, or the code of an error. Secrets are masked in it."""

    def cancelled(self) -> None:
        """It was stopped. After `ended` this does nothing."""


class ModelCallWatch(Protocol):
    """One call of a model."""

    def first_delta(self) -> None:
        """The model has begun to answer."""

    def ended(self, usage: Usage, finish_reason: str | None, answer: ModelAnswer | None) -> None:
        """It has answered. `answer` is None for what is no part of the conversation."""

    def failed(self, code: str, usage: Usage) -> None:
        """It has failed."""

    def cancelled(self, usage: Usage) -> None:
        """It was stopped. After the others this does nothing."""


class TurnWatch(Protocol):
    """What one process does of one turn."""

    def model_call(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> ModelCallWatch:
        """A model is called, by the name that agents use."""

    def tool_call(self, kind: str, name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> ToolCallWatch:
        """A tool is called. `kind`: the type of its configuration. `arguments` has none that the agent fixes."""

    def ended(self, stop_reason: StopReason, code: str | None) -> None:
        """Its end is durable; `code` is that of its error."""

    def parked(self) -> None:
        """It is durable that it waits for clients."""

    def left(self, lost: bool) -> None:
        """This process does no more of it: somebody else has it (`lost`), or the next start. No-op after the others."""


class TurnObserver(Protocol):
    """All turns that a process runs."""

    def accepted(self, turn_id: str) -> None:
        """A request, in whose context this is called, has made an input durable that this turn takes."""

    def turn(self, claim: Claim) -> TurnWatch:
        """A claimed turn is about to run here, or to be closed."""

    def leases(self, renewed: int, lost: int) -> None:
        """Leases were renewed, and others are not this process's any more."""


class CommitObserver(Protocol):
    """The group commits of a store. Called on any thread."""

    def committed(self, verbs: int, seconds: float) -> None:
        """A transaction with so many verbs is durable; its commit alone took so long."""

    def commit_failed(self) -> None:
        """A transaction could not be committed."""


class RequestObserver(Protocol):
    """The HTTP requests of a server."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request got its answer's head so long after its own. `route` is a template, and empty when none fits."""


class DeltaObserver(Protocol):
    """What followers are sent that is not in the log."""

    def sent(self, deltas: int, seconds: float) -> None:
        """So many were written to a socket together, the first of them so long after it was published."""


class Unobserved:
    """Nobody looks: the observer and the watch of everything."""

    def accepted(self, turn_id: str) -> None:
        """Nothing."""

    def turn(self, claim: Claim) -> "Unobserved":
        """Itself."""
        return self

    def leases(self, renewed: int, lost: int) -> None:
        """Nothing."""

    def model_call(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> ModelCallWatch:
        """A watch that does nothing."""
        return _UNWATCHED

    def tool_call(self, kind: str, name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> ToolCallWatch:
        """A watch that does nothing."""
        return _UNWATCHED_TOOL

    def ended(self, stop_reason: StopReason, code: str | None) -> None:
        """Nothing."""

    def parked(self) -> None:
        """Nothing."""

    def left(self, lost: bool) -> None:
        """Nothing."""

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Nothing."""

    def sent(self, deltas: int, seconds: float) -> None:
        """Nothing."""


class _UnwatchedModelCall:
    def first_delta(self) -> None:
        """Nothing."""

    def ended(self, usage: Usage, finish_reason: str | None, answer: ModelAnswer | None) -> None:
        """Nothing."""

    def failed(self, code: str, usage: Usage) -> None:
        """Nothing."""

    def cancelled(self, usage: Usage) -> None:
        """Nothing."""


class _UnwatchedToolCall:
    def ended(self, code: str | None, result: Mapping[str, Any]) -> None:
        """Nothing."""

    def cancelled(self) -> None:
        """Nothing."""


UNOBSERVED = Unobserved()
_UNWATCHED = _UnwatchedModelCall()
_UNWATCHED_TOOL = _UnwatchedToolCall()
