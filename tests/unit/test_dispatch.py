import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from sessile.domain import large_outputs, overrides
from sessile.domain.log import draft
from sessile.domain.messages import ToolCall, ToolSpec
from sessile.domain.overrides import Override, Resolved
from sessile.observation import UNOBSERVED, ToolCallWatch
from sessile.ports import ToolContext, ToolFault
from sessile.rows import SessionRow
from sessile.runner.dispatch import (
    OfferedTool,
    PreparedCall,
    ToolOutcome,
    execute,
    finalize,
    offer,
    offer_client,
    prepare,
    prepare_all,
    take_up,
    unanswered,
)
from sessile.wire.events import ToolOutputEvent
from sessile.wire.limits import MAX_TOOL_ARGUMENT_BYTES


class FakeTool:
    name = "add"
    description = "Adds."
    parameters: dict[str, Any] = {"type": "object"}  # noqa: RUF012
    idempotent = False

    def __init__(self, run: Callable[[dict[str, Any]], Any] = lambda arguments: arguments) -> None:
        self._run = run

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        self.context = context
        result = self._run(arguments)
        if asyncio.iscoroutine(result):
            result = await result
        return result  # type: ignore[no-any-return]


class Nowhere:
    """Surroundings of calls that need none."""

    def context(self, call: PreparedCall, secrets: frozenset[str]) -> ToolContext:
        return ToolContext(session=cast(SessionRow, None), turn_id="trn_1", tool_call_id=call.id, add_artifact=print)

    async def resolve(self, override: Override) -> Resolved:
        return overrides.resolve(override, {"secrets": {"key": "s3cret"}, "session": {"key": "s"}})

    def watch(self, call: PreparedCall) -> ToolCallWatch:
        return UNOBSERVED.tool_call(call.kind, call.configuration_name, call.id, call.arguments)

    async def fitted(self, call: PreparedCall, result: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        return result


def offered(tool: FakeTool) -> dict[str, OfferedTool]:
    return {"plus": offer("plus", {"type": "lambda"}, tool)}


def prepared(run: Callable[[dict[str, Any]], Any]) -> PreparedCall:
    return prepare(ToolCall("c1", "plus", "{}"), offered(FakeTool(run)))


def raises(error: BaseException) -> Callable[[dict[str, Any]], Any]:
    def run(arguments: dict[str, Any]) -> Any:
        raise error

    return run


def test_a_configuration_describes_its_tool() -> None:
    tool = FakeTool()
    assert offer("plus", {}, tool).spec.description == "Adds."
    assert offer("plus", {"description_template": "Sums."}, tool).spec.description == "Sums."
    spec = offer("plus", {"description": "Own.", "description_template": "Sums."}, tool).spec
    assert (spec.name, spec.description, spec.parameters) == ("plus", "Own.", {"type": "object"})


@pytest.mark.parametrize(("text", "arguments"), [("", {}), (" \n", {}), ("{}", {}), ('{"a": [1]}', {"a": [1]})])
def test_a_good_call(text: str, arguments: dict[str, Any]) -> None:
    call = prepare(ToolCall("c1", "plus", text), offered(FakeTool()))
    assert call.outcome is None
    event = call.event()
    assert (event.tool_call_id, event.tool_configuration_name, event.tool_name) == ("c1", "plus", "add")
    assert event.tool_input == arguments


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '"x"',
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        "\ud800",
        "\0" * 5,
        "[" * 100_000,
        '{"a": "' + "x" * MAX_TOOL_ARGUMENT_BYTES + '"}',
    ],
)
async def test_bad_arguments_are_data(text: str) -> None:
    call = prepare(ToolCall("c1", "plus", text), offered(FakeTool()))
    assert call.outcome is not None
    assert call.outcome.code == "tool_arguments_invalid"
    event = call.event()
    assert list(event.tool_input) == ["unparsed"]
    assert len(event.tool_input["unparsed"]) <= 2000
    draft(event)
    (outcome,) = await execute([call], Nowhere())
    output = finalize(call, outcome)
    assert output.error
    assert output.tool_output["code"] == "tool_arguments_invalid"
    assert "body" not in output.tool_output["error"]


@pytest.mark.parametrize(
    ("name", "stored"),
    [("minus", "minus"), ("\0\ud800", "\ufffd\ufffd"), ("x" * 300, "x" * 200), ("\ud83d\ude00", "\N{GRINNING FACE}")],
)
async def test_an_unknown_tool_is_data(name: str, stored: str) -> None:
    call = prepare(ToolCall("c1", name, '{"a": 1}'), offered(FakeTool()))
    event = call.event()
    assert (event.tool_configuration_name, event.tool_name, event.tool_input) == (stored, stored, {"a": 1})
    (outcome,) = await execute([call], Nowhere())
    assert outcome.code == "tool_unknown"
    assert "plus" in outcome.message
    draft(event)
    draft(finalize(call, outcome))


def test_ids_are_unique_in_an_answer_and_can_be_stored() -> None:
    calls = [ToolCall(id, "plus", "") for id in ("c1", "c1", "", "\ud800", "x" * 500, "c2")]
    ids = [call.id for call in prepare_all(calls, offered(FakeTool()))]
    assert ids[0] == "c1"
    assert ids[5] == "c2"
    assert len(set(ids)) == 6
    assert all(id.startswith("call_") for id in ids[1:5])


async def test_calls_run_at_once_and_answer_in_order() -> None:
    barrier = asyncio.Barrier(3)
    done: list[int] = []

    def run(n: int) -> Callable[[dict[str, Any]], Any]:
        async def wait(arguments: dict[str, Any]) -> dict[str, Any]:
            await barrier.wait()
            for _ in range(3 - n):
                await asyncio.sleep(0)
            done.append(n)
            return {"n": n}

        return wait

    outcomes = await execute([prepared(run(n)) for n in range(3)], Nowhere())
    assert [outcome.result for outcome in outcomes] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert sorted(done) == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ToolFault("tool_timeout", "late"), "tool_timeout"),
        (ValueError("no"), "tool_failed"),
        (ExceptionGroup("g", [ValueError()]), "tool_failed"),
        (SystemExit(), "tool_failed"),
        (KeyboardInterrupt(), "tool_failed"),
        (asyncio.CancelledError(), "tool_failed"),
    ],
)
async def test_whatever_a_tool_raises_is_an_outcome_of_its_call_only(error: BaseException, code: str) -> None:
    good = prepared(lambda arguments: {"ok": True})
    outcomes = await execute([prepared(raises(error)), good], Nowhere())
    assert [outcome.code for outcome in outcomes] == [code, None]


async def test_cancelling_cancels_every_call() -> None:
    started, cancelled = asyncio.Barrier(3), []

    async def wait(arguments: dict[str, Any]) -> None:
        try:
            await started.wait()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    task = asyncio.create_task(execute([prepared(wait), prepared(wait)], Nowhere()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [1, 1]


async def test_a_cancellation_loses_no_output_that_was_there() -> None:
    outputs: asyncio.Queue[ToolOutputEvent] = asyncio.Queue()
    hanging = prepared(lambda arguments: asyncio.Event().wait())
    task = asyncio.create_task(
        execute([hanging, prepared(lambda arguments: {"ok": True})], Nowhere(), outputs.put_nowait)
    )
    output = await outputs.get()
    assert (output.tool_output, output.error) == ({"ok": True}, False)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outputs.empty()


async def test_no_calls() -> None:
    assert await execute([], Nowhere()) == []


def test_finalize() -> None:
    call = prepare(ToolCall("c1", "plus", ""), offered(FakeTool()))
    good = finalize(call, ToolOutcome({"sum": 3}))
    assert (good.tool_call_id, good.tool_configuration_name, good.tool_name) == ("c1", "plus", "add")
    assert (good.error, good.tool_output) == (False, {"sum": 3})
    bad = finalize(call, ToolOutcome({}, "tool_failed", "why"))
    assert (bad.error, bad.tool_output) == (True, {"error": "why", "code": "tool_failed"})


def test_unanswered_calls_are_closed() -> None:
    call = prepare(ToolCall("c1", "plus", ""), offered(FakeTool()))
    output = unanswered(call.event(), "tool_interrupted", "It was interrupted.")
    assert (output.tool_call_id, output.error) == ("c1", True)
    assert output.tool_output == {"error": "It was interrupted.", "code": "tool_interrupted"}


CLIENT = {"form": offer_client("form", "ask", {"type": "client", "description": "Asks."})}


def test_a_client_tool_is_offered_with_its_own_description_and_schema() -> None:
    assert CLIENT["form"].spec == ToolSpec("form", "Asks.", {"type": "object", "properties": {}})
    schema = {"properties": {"size": {"type": "integer"}}}
    given = offer_client("form", "ask", {"description_template": "Template.", "input_schema": schema}).spec
    assert (given.description, given.parameters) == ("Template.", {"type": "object", **schema})
    assert offer_client("form", "ask", {}).spec.description


def test_a_call_of_a_client_tool_waits_unless_its_arguments_are_wrong() -> None:
    call = prepare(ToolCall("c1", "form", '{"size": 1}'), CLIENT)
    assert (call.waits, call.tool_name, call.event().tool_input) == (True, "ask", {"size": 1})
    wrong = prepare(ToolCall("c1", "form", "[1]"), CLIENT)
    assert not wrong.waits
    assert wrong.outcome is not None
    assert wrong.outcome.code == "tool_arguments_invalid"


async def test_a_call_that_waits_is_never_run() -> None:
    with pytest.raises(AssertionError):
        await execute([prepare(ToolCall("c1", "form", "{}"), CLIENT)], Nowhere())


def test_after_a_crash_a_clients_call_waits_again_while_the_agent_has_its_tool() -> None:
    event = prepare(ToolCall("c1", "form", "{}"), CLIENT).event()
    (again,) = take_up([event], CLIENT)
    assert (again.waits, again.id) == (True, "c1")
    for others in ({}, {"form": offer_client("form", "other", {})}, {"form": offer("form", {}, FakeTool())}):
        (lost,) = take_up([event], others)
        assert lost.outcome is not None
        assert lost.outcome.code == "tool_outcome_unknown"


async def test_what_the_agent_fixes_is_put_in_and_secrets_are_masked() -> None:
    schema = {"type": "object", "properties": {"key": {}, "session": {}, "own": {}}, "required": ["key", "own"]}
    tool = FakeTool(lambda arguments: {"echo": arguments, "text": "it was s3cret"})
    tool.parameters = schema
    override = {"key": {"$ref": "secrets.key"}, "session": {"$ref": "session.key"}}
    plus = offer("plus", {"type": "lambda", "argument_override": override}, tool)
    assert plus.spec.parameters == {"type": "object", "properties": {"own": {}}, "required": ["own"]}
    call = prepare(ToolCall("c1", "plus", '{"own": 1, "key": "chosen"}'), {"plus": plus})
    assert call.event().argument_override_paths == ["key", "session"]
    assert call.event().tool_input == {"own": 1, "key": "chosen"}
    (outcome,) = await execute([call], Nowhere())
    output = finalize(call, outcome)
    assert output.tool_output == {"echo": {"own": 1, "key": "***", "session": "s"}, "text": "it was ***"}
    assert output.resolved_argument_overrides == {"key": "***", "session": "s"}


async def test_a_secret_is_gone_before_a_result_is_cut_or_quoted() -> None:
    """What is left of a large output is JSON in a text: there the secret would be written in another way."""
    secret = 'pa"ss\\word'

    class Cutting(Nowhere):
        async def resolve(self, override: Override) -> Resolved:
            return overrides.resolve(override, {"secrets": {"key": secret}})

        async def fitted(self, call: PreparedCall, result: dict[str, Any], context: ToolContext) -> dict[str, Any]:
            return large_outputs.fitted(result, 10, 3.0)

    tool = FakeTool(lambda arguments: {"echo": arguments["key"], "more": "x" * 100})
    plus = offer("plus", {"argument_override": {"key": {"$ref": "secrets.key"}}}, tool)
    (outcome,) = await execute([prepare(ToolCall("c1", "plus", "{}"), {"plus": plus})], Cutting())
    assert outcome.result["truncated"] is True
    assert outcome.result["content"].startswith('{"echo":"***"')


async def test_a_secret_at_the_end_of_a_long_error_is_not_cut_in_half() -> None:
    tool = FakeTool(raises(ToolFault("tool_failed", "x" * 1_997 + "s3cret")))
    plus = offer("plus", {"argument_override": {"key": {"$ref": "secrets.key"}}}, tool)
    (outcome,) = await execute([prepare(ToolCall("c1", "plus", "{}"), {"plus": plus})], Nowhere())
    assert outcome.message == "x" * 1_997 + "***"


async def test_what_a_call_reports_is_shown_without_its_secrets() -> None:
    told: list[frozenset[str]] = []

    class Told(Nowhere):
        def context(self, call: PreparedCall, secrets: frozenset[str]) -> ToolContext:
            told.append(secrets)
            return super().context(call, secrets)

    plus = offer("plus", {"argument_override": {"key": {"$ref": "secrets.key"}}}, FakeTool())
    await execute([prepare(ToolCall("c1", "plus", "{}"), {"plus": plus})], Told())
    assert told == [frozenset({"s3cret"})]


async def test_a_result_holds_no_character_that_a_log_cannot_hold() -> None:
    nul = {"a\0": ["\0", {"b": "x\0y", "c": 1}], "d": "\\u0000"}
    (outcome,) = await execute([prepared(lambda arguments: nul)], Nowhere())
    assert outcome.result == {"a\ufffd": ["\ufffd", {"b": "x\ufffdy", "c": 1}], "d": "\\u0000"}
    (outcome,) = await execute([prepared(lambda arguments: {"a": "\ud800"})], Nowhere())
    assert outcome.code == "tool_failed"


async def test_a_secret_is_not_in_an_error() -> None:
    tool = FakeTool(raises(ToolFault("tool_failed", "wrong key s3cret")))
    plus = offer("plus", {"argument_override": {"key": {"$ref": "secrets.key"}}}, tool)
    call = prepare(ToolCall("c1", "plus", "{}"), {"plus": plus})
    (outcome,) = await execute([call], Nowhere())
    assert finalize(call, outcome).tool_output == {"error": "wrong key ***", "code": "tool_failed"}


async def test_a_secret_is_not_in_the_log_of_what_a_tool_raised() -> None:
    plus = offer("plus", {"argument_override": {"key": {"$ref": "secrets.key"}}}, FakeTool(raises(KeyError("s3cret"))))
    with capture_logs() as logged:
        await execute([prepare(ToolCall("c1", "plus", "{}"), {"plus": plus})], Nowhere())
    assert [entry["event"] for entry in logged] == ["tool_raised"]
    assert "KeyError: '***'" in logged[0]["exception"]
    assert "s3cret" not in str(logged)


async def test_a_fixed_argument_without_a_value_answers_the_call() -> None:
    plus = offer("plus", {"argument_override": {"key": {"$ref": "secrets.lost"}}}, FakeTool())
    call = prepare(ToolCall("c1", "plus", "{}"), {"plus": plus})
    (outcome,) = await execute([call], Nowhere())
    assert (outcome.code, "secrets.lost" in outcome.message) == ("tool_override_unresolved", True)


async def test_a_call_that_is_taken_up_gets_what_the_agent_fixes() -> None:
    tool = FakeTool()
    tool.idempotent = True
    plus = offer("plus", {"argument_override": {"key": "fixed"}}, tool)
    event = prepare(ToolCall("c1", "plus", '{"own": 1}'), {"plus": plus}).event()
    (outcome,) = await execute(take_up([event], {"plus": plus}), Nowhere())
    assert outcome.result == {"own": 1, "key": "fixed"}
