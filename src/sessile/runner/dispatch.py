"""Tool calls of one model answer in three phases: prepare, execute, finalize. Failures are data and never raised.

Nothing is appended here: the turn loop makes the `tool_input` events durable between prepare and execute.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from msgspec import UNSET, Struct
from msgspec.structs import replace

from sessile.domain import client_tools, overrides
from sessile.domain.messages import ToolCall, ToolSpec
from sessile.domain.overrides import Override, Resolved
from sessile.observation import ToolCallWatch
from sessile.ports import Tool, ToolContext, ToolFault
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidJson
from sessile.wire.events import ToolInputEvent, ToolOutputEvent
from sessile.wire.limits import MAX_TOOL_ARGUMENT_BYTES

UNKNOWN = "unknown"
"""The kind of a tool that there is not."""
_MAX_NAME_CHARS = 200
_MAX_ID_CHARS = 200
_MAX_UNPARSED_CHARS = 2_000
_MAX_MESSAGE_CHARS = 2_000

_UNKNOWN_OUTCOME = "The server went away while this call was running. Whether it took effect is unknown."

_log = structlog.get_logger()


class OfferedTool(Struct, frozen=True):
    """A tool as an agent offers it, under the name of its configuration. Without `tool` a client runs it."""

    configuration_name: str
    tool_name: str
    tool: Tool | None
    spec: ToolSpec
    override: Override = overrides.NONE
    """Arguments that the agent fixes."""
    kind: str = "lambda"
    """The type of its configuration."""


class ToolOutcome(Struct, frozen=True):
    """How a call ended: a result, or a code and a message for the model."""

    result: dict[str, Any]
    code: str | None = None
    message: str = ""
    overridden: dict[str, Any] | None = None
    """The arguments that the agent has fixed, secrets masked, once they were looked up."""

    @property
    def error(self) -> bool:
        """Whether the call has no result."""
        return self.code is not None


class PreparedCall(Struct, frozen=True, kw_only=True):
    """A call that is ready to run, or one that already has an `outcome` because it cannot be run.

    One with neither `tool` nor `outcome` waits for a client.
    """

    id: str
    configuration_name: str
    tool_name: str
    arguments: dict[str, Any]
    tool: Tool | None = None
    outcome: ToolOutcome | None = None
    override: Override = overrides.NONE
    kind: str = UNKNOWN

    @property
    def waits(self) -> bool:
        """Whether a client has to answer it."""
        return self.tool is None and self.outcome is None

    def event(self) -> ToolInputEvent:
        """The `tool_input` event, to be made durable before `execute`."""
        return ToolInputEvent(
            tool_call_id=self.id,
            tool_configuration_name=self.configuration_name,
            tool_name=self.tool_name,
            tool_input=self.arguments,
            argument_override_paths=list(self.override.paths) or UNSET,
        )


class Surroundings(Protocol):
    """What the tool calls of one turn share; the turn makes it."""

    def context(self, call: PreparedCall, secrets: frozenset[str]) -> ToolContext:
        """Where a call comes from. What it reports is shown without these secrets."""

    async def resolve(self, override: Override) -> Resolved:
        """The arguments that the agent fixes, looked up. Raises Unresolved."""

    async def fitted(self, call: PreparedCall, result: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """A result that is not larger than the agent wants its model to read."""

    def watch(self, call: PreparedCall) -> ToolCallWatch:
        """Whoever looks at a call."""


def offer(name: str, configuration: Mapping[str, Any], tool: Tool) -> OfferedTool:
    """A tool under the name of its configuration, whose own description, if any, stands before the tool's."""
    own = configuration.get("description") or configuration.get("description_template")
    override = overrides.of(configuration.get("argument_override"))
    parameters = overrides.hidden(tool.parameters, override.values) if override.paths else tool.parameters
    spec = ToolSpec(name, own or tool.description, parameters)
    return OfferedTool(name, tool.name, tool, spec, override, configuration.get("type", "lambda"))


def offer_client(name: str, tool_name: str, configuration: Mapping[str, Any]) -> OfferedTool:
    """A tool that a client runs, as its configuration describes it."""
    spec = ToolSpec(name, client_tools.description(configuration), client_tools.input_schema(configuration))
    return OfferedTool(name, tool_name, None, spec, kind="client")


def prepare_all(calls: Sequence[ToolCall], offered: Mapping[str, OfferedTool]) -> list[PreparedCall]:
    """Prepare the calls of one answer; a call whose id another one has already gets a new id."""
    prepared: list[PreparedCall] = []
    taken: set[str] = set()
    for call in calls:
        ready = prepare(call, offered)
        if ready.id in taken:
            ready = replace(ready, id=ids.tool_call_id())
        taken.add(ready.id)
        prepared.append(ready)
    return prepared


def prepare(call: ToolCall, offered: Mapping[str, OfferedTool]) -> PreparedCall:
    """Find the tool and parse the arguments. An id that cannot be stored is replaced.

    An unknown tool (`tool_unknown`) and arguments that are too large, not JSON or not an object
    (`tool_arguments_invalid`) give a call that has its outcome already.
    """
    found = offered.get(call.name)
    name = found.configuration_name if found else _clean(call.name, _MAX_NAME_CHARS)
    arguments, outcome = _parsed(call.arguments)
    if found is None:
        names = ", ".join(sorted(offered)) or "none"
        outcome = _failure("tool_unknown", f"There is no tool {name!r}. Tools: {names}")
    return PreparedCall(
        id=call.id if _is_storable(call.id) else ids.tool_call_id(),
        configuration_name=name,
        tool_name=found.tool_name if found else name,
        arguments=arguments,
        tool=found.tool if found else None,
        outcome=outcome,
        override=found.override if found else overrides.NONE,
        kind=found.kind if found else UNKNOWN,
    )


def take_up(open_calls: Iterable[ToolInputEvent], offered: Mapping[str, OfferedTool]) -> list[PreparedCall]:
    """Calls that a crash has left without an output: those of idempotent tools are run again, no others.

    Whether another one took effect nobody knows, so its outcome is that (`tool_outcome_unknown`). One that a client is
    to answer waits again.
    """
    return [_taken_up(event, offered.get(event.tool_configuration_name)) for event in open_calls]


async def execute(
    calls: Sequence[PreparedCall],
    around: Surroundings,
    ended: Callable[[ToolOutputEvent], None] | None = None,
) -> list[ToolOutcome]:
    """Run all calls at once; the outcomes are in the order of the calls. Cancelling cancels every call.

    `context` makes what a tool is told of its call, by the call's id. `ended` is told the output of each call as soon
    as there is one, so that a cancellation loses none of them.
    """

    async def run(call: PreparedCall) -> ToolOutcome:
        watch = around.watch(call)
        try:
            outcome = call.outcome or await _outcome(call, around)
            watch.ended(outcome.code, outcome.result)
        finally:
            watch.cancelled()
        if ended is not None:
            ended(finalize(call, outcome))
        return outcome

    assert not any(call.waits for call in calls), "a client's call is not run here"
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(call)) for call in calls]
    return [task.result() for task in tasks]


def finalize(call: PreparedCall, outcome: ToolOutcome) -> ToolOutputEvent:
    """The event that answers the call."""
    return _output(call.event(), outcome)


def unanswered(call_event: ToolInputEvent, code: str, reason: str) -> ToolOutputEvent:
    """The event that closes a call that did not run to its end."""
    return _output(call_event, _failure(code, reason))


def _taken_up(event: ToolInputEvent, found: OfferedTool | None) -> PreparedCall:
    same = found if found and found.tool_name == event.tool_name else None
    again = same.tool if same and same.tool and same.tool.idempotent else None
    waits = same is not None and same.tool is None
    return PreparedCall(
        id=event.tool_call_id,
        configuration_name=event.tool_configuration_name,
        tool_name=event.tool_name,
        arguments=event.tool_input,
        tool=again,
        override=found.override if found and again else overrides.NONE,
        outcome=None if again or waits else _failure("tool_outcome_unknown", _UNKNOWN_OUTCOME),
        kind=same.kind if same else UNKNOWN,
    )


async def _outcome(call: PreparedCall, around: Surroundings) -> ToolOutcome:
    """Run a call with the arguments that the agent fixes; what is shown of it holds no secret."""
    if not call.override.paths:
        return await _run(call, overrides.NOTHING, around)
    try:
        fixed = await around.resolve(call.override)
    except overrides.Unresolved as error:
        return _failure("tool_override_unresolved", str(error))
    return replace(await _run(call, fixed, around), overridden=fixed.shown)


async def _run(call: PreparedCall, fixed: Resolved, around: Surroundings) -> ToolOutcome:
    """Secrets go before anything is cut: half of one, or one within quoted JSON, is not found any more."""
    assert call.tool is not None
    context = around.context(call, fixed.secrets)
    if fixed.secrets:
        overrides.IN_USE.set(fixed.secrets)
    try:
        arguments = overrides.merged(call.arguments, fixed.values)
        result = await call.tool.run(arguments, context)
        return ToolOutcome(await around.fitted(call, _storable(overrides.masked(result, fixed.secrets)), context))
    except ToolFault as fault:
        return _failure(fault.code, overrides.masked(fault.message, fixed.secrets))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failure("tool_failed", "The tool cancelled itself.")
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a tool is foreign code: its defect is its model's
        _log.error("tool_raised", tool=call.tool_name, exception=overrides.traced(error))
        return _failure("tool_failed", type(error).__name__)


def _storable(result: dict[str, Any]) -> dict[str, Any]:
    """A result as a log can hold it: with U+FFFD for NUL. Raises UnicodeEncodeError for a lone surrogate."""
    return _without_nul(result) if b"\\u0000" in codec.encode(result) else result


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case dict():
            return {_without_nul(name): _without_nul(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_without_nul(inner) for inner in value]
        case _:
            return value


def _parsed(text: str) -> tuple[dict[str, Any], ToolOutcome | None]:
    """The arguments, or the text as it came and why it was refused."""
    try:
        body = text.encode()
        if len(body) > MAX_TOOL_ARGUMENT_BYTES:
            raise InvalidJson(f"The arguments are larger than {MAX_TOOL_ARGUMENT_BYTES} bytes.")
        value = codec.decode(body) if body.strip() else {}
        if isinstance(value, dict):
            return value, None
        reason = "The arguments are not a JSON object."
    except UnicodeEncodeError:
        reason = "The arguments contain a lone surrogate."
    except InvalidJson as error:
        reason = error.message.replace("The body is", "The arguments are", 1)
    return {"unparsed": _clean(text, _MAX_UNPARSED_CHARS)}, _failure("tool_arguments_invalid", reason)


def _output(call: ToolInputEvent, outcome: ToolOutcome) -> ToolOutputEvent:
    failed = {"error": outcome.message, "code": outcome.code}
    return ToolOutputEvent(
        tool_call_id=call.tool_call_id,
        tool_configuration_name=call.tool_configuration_name,
        tool_name=call.tool_name,
        tool_output=failed if outcome.error else outcome.result,
        error=outcome.error,
        resolved_argument_overrides=outcome.overridden or UNSET,
    )


def _failure(code: str, message: str) -> ToolOutcome:
    return ToolOutcome({}, code, _clean(message, _MAX_MESSAGE_CHARS))


def _is_storable(id: str) -> bool:
    return 0 < len(id) <= _MAX_ID_CHARS and _clean(id, _MAX_ID_CHARS) == id


def _clean(text: str, limit: int) -> str:
    """At most `limit` characters, with U+FFFD for NUL and lone surrogates."""
    pairs = text[:limit].replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass")
    return pairs.decode("utf-16-le", "replace")
