"""Decides what a turn does next. Pure: no model, no tool, no store."""

from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct, field

from sessile.domain.messages import ToolCall
from sessile.wire.agents import RetryConfiguration
from sessile.wire.events import AgentOutputEvent, AnyEvent, ThinkingEvent, ToolInputEvent
from sessile.wire.sessions import InputTokens, OutputTokens, SessionContextUsage, Usage

CHARS_PER_TOKEN = 3
"""How many characters of history a token of the window pays for: low, to leave room for the answer."""


class ModelAnswer(Struct):
    """What one model attempt has produced so far."""

    output_id: str
    thinking: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    usage: Usage = field(default_factory=lambda: Usage(model_calls=1))
    finish_reason: str | None = None
    """Why the provider says that it stopped, if it does."""
    shown: bool = True
    """Whether its text is shown as it comes; structured output is not, and nobody is told of half of it."""

    @property
    def begun(self) -> bool:
        """Whether anything of it was shown."""
        return bool(self.thinking or (self.text and self.shown))

    def events(self, *, partial: bool = False) -> list[ThinkingEvent | AgentOutputEvent]:
        """Its durable events: the thinking, then the text. `partial`: the model was cut off."""
        events: list[ThinkingEvent | AgentOutputEvent] = []
        if self.thinking:
            events.append(ThinkingEvent(content="".join(self.thinking), output_id=self.output_id))
        if (self.text and (self.shown or not partial)) or not (self.tool_calls or partial):
            text = "".join(self.text)
            events.append(AgentOutputEvent(content=text, output_id=self.output_id, partial=partial))
        return events


def model_calls(events: Iterable[AnyEvent]) -> int:
    """How many model calls the events of a turn come from that called tools: the calls of one stand together."""
    kinds = [isinstance(event, ToolInputEvent) for event in events]
    return sum(now and not before for before, now in pairwise([False, *kinds]))


def history_chars(context_window: int) -> int:
    """How many characters of history a model with this window may be given."""
    return context_window * CHARS_PER_TOKEN


def retry_delay(
    configuration: RetryConfiguration, failures: int, retryable: bool, retry_after: float | None
) -> float | None:
    """Seconds to wait before the next attempt after `failures` failed ones, or None to give up.

    A provider's own wish to wait is honoured up to the agent's longest back-off.
    """
    if not (configuration.enabled and retryable and failures <= configuration.max_retries):
        return None
    backoff = configuration.initial_backoff_ms * configuration.backoff_factor ** (failures - 1)
    wait = min(backoff, configuration.max_backoff_ms) / 1000
    if retry_after is None:
        return wait
    return min(max(wait, retry_after), configuration.max_backoff_ms / 1000)


def context_usage(call: Usage, window: int) -> SessionContextUsage:
    """How full the window was in one model call."""
    return SessionContextUsage(
        input_tokens=InputTokens(count=call.input_tokens, cached_tokens=call.cached_tokens),
        output_tokens=OutputTokens(count=call.output_tokens, reasoning_tokens=call.reasoning_tokens),
        total_tokens=call.input_tokens + call.output_tokens,
        model_context_window=window,
    )
