"""Turns as OpenTelemetry traces, with the conventions for generative AI. Loaded only by a server that sends traces.

One trace a turn: its id is made from the turn's, so what several processes do of one turn comes together. What was said
is recorded only when the configuration says so; secrets, and words of faults, never.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace import set_span_in_context as within
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sessile.domain.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage
from sessile.domain.recent import Recent
from sessile.domain.turn import ModelAnswer
from sessile.observation import TRACEPARENT
from sessile.rows import Claim
from sessile.wire.sessions import StopReason, Usage

_REMEMBERED = 10_000
_CLOSE_SECONDS = 1.5
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}
_WELL_KNOWN = {"mistral": "mistral_ai", "xai": "x_ai", "gemini": "gcp.gemini", "google": "gcp.gemini"}
"""Providers that the conventions call otherwise than we do."""


class Called(msgspec.Struct, frozen=True):
    """What a model's name means: its provider, and the provider's own name for it."""

    provider: str
    model: str


class _Name(msgspec.Struct):
    name: str = ""


class _Ids(RandomIdGenerator):
    """Random ids, but for the trace that is about to be started."""

    next_trace = 0

    def generate_trace_id(self) -> int:
        return self.next_trace or super().generate_trace_id()


class Traces:
    """The observer that makes spans and sends them to a collector, from a thread of the library's."""

    def __init__(self, describe: Callable[[str], Called], endpoint: str | None, content: bool) -> None:
        """Without an `endpoint` the standard variables say where to send. `content`: record what was said."""
        self.content = content
        self.describe = describe
        self._ids = _Ids()
        self._provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self.tracer = self._provider.get_tracer("sessile", version("sessile"))
        self._links = Recent[str, list[Link]](_REMEMBERED)
        """Where the inputs of turns that do not run came from."""
        self._open: dict[str, Span] = {}

    def accepted(self, turn_id: str) -> None:
        """Remember where the input came from; one that joins a turn is linked to it at once."""
        context = _parsed(TRACEPARENT.get())
        if context is None:
            return
        span = self._open.get(turn_id)
        if span is not None:
            span.add_link(context)
        else:
            self._links.get(turn_id, list).append(Link(context))

    def turn(self, claim: Claim) -> "TurnTrace":
        """Start the span of a turn."""
        agent = msgspec.json.decode(claim.agent.document, type=_Name).name or claim.agent.key
        self._ids.next_trace = int.from_bytes(hashlib.sha256(claim.turn_id.encode()).digest()[:16], "big")
        try:
            span = self.tracer.start_span(
                f"invoke_agent {agent}",
                Context(),
                SpanKind.INTERNAL,
                {
                    "gen_ai.operation.name": "invoke_agent",
                    "gen_ai.agent.id": claim.agent.key,
                    "gen_ai.agent.name": agent,
                    "gen_ai.conversation.id": claim.session.key,
                    "sessile.turn.id": claim.turn_id,
                    "sessile.turn.continued": not claim.opened,
                },
                self._links.get(claim.turn_id, list),
            )
        finally:
            self._ids.next_trace = 0
        self._open[claim.turn_id] = span
        return TurnTrace(self, claim.turn_id, span, claim.session.key)

    def over(self, turn_id: str, span: Span) -> None:
        """A turn does not run here any more; another claim of it may."""
        if self._open.get(turn_id) is span:
            del self._open[turn_id]

    def leases(self, renewed: int, lost: int) -> None:
        """Leases are no part of a trace."""

    async def close(self) -> None:
        """Send what is left, if that is quick: a collector that does not answer holds no shutdown up."""
        sender = threading.Thread(target=self._provider.shutdown, name="sessile-traces", daemon=True)
        sender.start()
        await asyncio.to_thread(sender.join, _CLOSE_SECONDS)


class TurnTrace:
    """A turn as a span, with a child for each call."""

    def __init__(self, traces: Traces, turn_id: str, span: Span, session_key: str) -> None:
        self._traces = traces
        self._session_key = session_key
        self._turn_id = turn_id
        self._span = span
        self._over = False

    def model_call(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> "ModelCallTrace":
        """Start the span of a call of a model."""
        called = self._traces.describe(model)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.conversation.id": self._session_key,
            "gen_ai.provider.name": _WELL_KNOWN.get(called.provider, called.provider),
            "gen_ai.request.model": called.model,
            "gen_ai.request.stream": True,
            "sessile.model": model,
        }
        for name, attribute in _PARAMETERS.items():
            if isinstance(value := parameters.get(name), int | float):
                attributes[attribute] = value
        if self._traces.content:
            instructions = [message for message in messages if isinstance(message, SystemMessage)]
            rest = [_shown(message) for message in messages if not isinstance(message, SystemMessage)]
            attributes["gen_ai.system_instructions"] = _json([_text(message.content) for message in instructions])
            attributes["gen_ai.input.messages"] = _json(rest)
        span = self._start(f"chat {called.model}", SpanKind.CLIENT, attributes)
        return ModelCallTrace(span, self._traces.content)

    def tool_call(self, kind: str, name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> "ToolCallTrace":
        """Start the span of a call of a tool."""
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": tool_call_id,
            "gen_ai.tool.type": "extension" if kind == "mcp" else "function",
            "sessile.tool.type": kind,
        }
        if self._traces.content:
            attributes["gen_ai.tool.call.arguments"] = _json(arguments)
        return ToolCallTrace(self._start(f"execute_tool {name}", SpanKind.INTERNAL, attributes), self._traces.content)

    def ended(self, stop_reason: StopReason, code: str | None) -> None:
        """The turn has ended."""
        self._end(stop_reason, code)

    def parked(self) -> None:
        """The turn waits for clients; another span goes on with it."""
        self._end("requires_action", None)

    def left(self, lost: bool) -> None:
        """The turn goes on elsewhere."""
        if not self._over:
            self._span.set_attribute("sessile.turn.left", "lost" if lost else "left")
            self._end(None, None)

    def _end(self, stop_reason: str | None, code: str | None) -> None:
        self._over = True
        if stop_reason is not None:
            self._span.set_attribute("sessile.turn.stop_reason", stop_reason)
        _end(self._span, code)
        self._traces.over(self._turn_id, self._span)

    def _start(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Span:
        return self._traces.tracer.start_span(name, within(self._span, Context()), kind, attributes)


class ModelCallTrace:
    """A call of a model as a span."""

    def __init__(self, span: Span, content: bool) -> None:
        self._span = span
        self._content = content
        self._over = False

    def first_delta(self) -> None:
        """The answer begins."""
        self._span.add_event("gen_ai.first_delta")

    def ended(self, usage: Usage, finish_reason: str | None, answer: ModelAnswer | None) -> None:
        """The answer is complete."""
        if finish_reason is not None:
            self._span.set_attribute("gen_ai.response.finish_reasons", [finish_reason])
        if self._content and answer is not None:
            said = {**_message("assistant", "".join(answer.text), answer.tool_calls), "finish_reason": finish_reason}
            self._span.set_attribute("gen_ai.output.messages", _json([said]))
        self._end(usage, None)

    def failed(self, code: str, usage: Usage) -> None:
        """There is none."""
        self._end(usage, code)

    def cancelled(self, usage: Usage) -> None:
        """Nobody waits for it."""
        if not self._over:
            self._end(usage, "cancelled")

    def _end(self, usage: Usage, code: str | None) -> None:
        self._over = True
        counts = {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
        for name, count in counts.items():
            if count:
                self._span.set_attribute(name, count)
        _end(self._span, code)


class ToolCallTrace:
    """A call of a tool as a span."""

    def __init__(self, span: Span, content: bool) -> None:
        self._span = span
        self._content = content
        self._over = False

    def ended(self, code: str | None, result: Mapping[str, Any]) -> None:
        """It has an outcome."""
        self._over = True
        if self._content and code is None:
            self._span.set_attribute("gen_ai.tool.call.result", _json(result))
        _end(self._span, code)

    def cancelled(self) -> None:
        """Nobody waits for it."""
        if not self._over:
            self.ended("cancelled", {})


def _end(span: Span, code: str | None) -> None:
    if code is not None:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, code))
    span.end()


def _resource() -> Resource:
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    name = {} if named else {"service.name": "sessile"}
    return Resource.create({**name, "service.version": version("sessile")})


def _parsed(traceparent: str | None) -> SpanContext | None:
    if traceparent is None:
        return None
    carrier = {"traceparent": traceparent}
    context = get_current_span(TraceContextTextMapPropagator().extract(carrier, Context())).get_span_context()
    return context if context.is_valid else None


def _shown(message: Message) -> dict[str, Any]:
    match message:
        case AssistantMessage():
            return _message("assistant", message.content, message.tool_calls)
        case ToolMessage():
            part = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.content}
            return {"role": "tool", "parts": [part]}
        case _:
            return _message("user", message.content)


def _message(role: str, text: str, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    parts = [_text(text)] if text else []
    parts += [{"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]
    return {"role": role, "parts": parts}


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
