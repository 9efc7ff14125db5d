"""Two observers of turns as one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sessile.domain.messages import Message
from sessile.domain.turn import ModelAnswer
from sessile.observation import ModelCallWatch, ToolCallWatch, TurnObserver, TurnWatch
from sessile.rows import Claim
from sessile.wire.sessions import StopReason, Usage


class Both:
    """Tells two observers."""

    def __init__(self, first: TurnObserver, second: TurnObserver) -> None:
        self._both = first, second

    def accepted(self, turn_id: str) -> None:
        """Tell both."""
        for each in self._both:
            each.accepted(turn_id)

    def turn(self, claim: Claim) -> "BothTurns":
        """A watch of each."""
        first, second = self._both
        return BothTurns(first.turn(claim), second.turn(claim))

    def leases(self, renewed: int, lost: int) -> None:
        """Tell both."""
        for each in self._both:
            each.leases(renewed, lost)


class BothTurns:
    """Two watches of one turn."""

    def __init__(self, first: TurnWatch, second: TurnWatch) -> None:
        self._both = first, second

    def model_call(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> ModelCallWatch:
        """A watch of each."""
        first, second = self._both
        return _BothModelCalls(
            first.model_call(model, messages, parameters), second.model_call(model, messages, parameters)
        )

    def tool_call(self, kind: str, name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> ToolCallWatch:
        """A watch of each."""
        first, second = self._both
        return _BothToolCalls(
            first.tool_call(kind, name, tool_call_id, arguments), second.tool_call(kind, name, tool_call_id, arguments)
        )

    def ended(self, stop_reason: StopReason, code: str | None) -> None:
        """Tell both."""
        for each in self._both:
            each.ended(stop_reason, code)

    def parked(self) -> None:
        """Tell both."""
        for each in self._both:
            each.parked()

    def left(self, lost: bool) -> None:
        """Tell both."""
        for each in self._both:
            each.left(lost)


class _BothModelCalls:
    def __init__(self, first: ModelCallWatch, second: ModelCallWatch) -> None:
        self._both = first, second

    def first_delta(self) -> None:
        for each in self._both:
            each.first_delta()

    def ended(self, usage: Usage, finish_reason: str | None, answer: ModelAnswer | None) -> None:
        for each in self._both:
            each.ended(usage, finish_reason, answer)

    def failed(self, code: str, usage: Usage) -> None:
        for each in self._both:
            each.failed(code, usage)

    def cancelled(self, usage: Usage) -> None:
        for each in self._both:
            each.cancelled(usage)


class _BothToolCalls:
    def __init__(self, first: ToolCallWatch, second: ToolCallWatch) -> None:
        self._both = first, second

    def ended(self, code: str | None, result: Mapping[str, Any]) -> None:
        for each in self._both:
            each.ended(code, result)

    def cancelled(self) -> None:
        for each in self._both:
            each.cancelled()
