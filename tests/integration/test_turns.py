"""Turns on a real store with a scripted model: what each way to end leaves in the log."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sessile.auth.keyring import Keyring
from sessile.auth.vault import Vault
from sessile.clock import SystemClock
from sessile.config import ToolConfig
from sessile.domain.agents import function_of
from sessile.domain.log import Entry, draft
from sessile.domain.turn import ModelAnswer
from sessile.live.hub import Hub
from sessile.live.tail import Tail
from sessile.ports import ModelFault, Principal, Tool
from sessile.rows import Claim, EventQuery, SessionRef
from sessile.runner.history import Histories
from sessile.runner.plan import Planner
from sessile.runner.turn import TurnEnvironment
from sessile.runner.worker import MAX_TAKES, Worker
from sessile.service.agents import Agents
from sessile.service.events import Events
from sessile.service.inputs import Inputs, parse
from sessile.service.sessions import Sessions
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.script import call, fail, hang, say, think, usage, wait_for
from sessile.testing.scripted_model import ScriptedModel, ScriptedModels
from sessile.tools.python import PythonTool, load
from sessile.wire import ids
from sessile.wire.errors import SessionRunning, StorageUnavailable
from sessile.wire.events import InputMessageEvent, TextPart, ToolOutputEvent
from sessile.wire.sessions import CreateSessionRequest

OWNER = Principal(tenant_id=1, key_id=None, roles=frozenset({"owner"}), agent_roles={})
MAX_MODEL_CALLS = 3
SAID = draft(InputMessageEvent(messages=[TextPart(content="Hello")], content="Hello"))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class OneTool:
    """A registry of one tool."""

    def __init__(self, tool: PythonTool) -> None:
        self._tool = tool

    def of(self, name: str, configuration: Mapping[str, Any]) -> Tool | None:
        return self._tool if function_of(name, configuration) == self._tool.name else None

    def names(self) -> list[str]:
        return [self._tool.name]

    def kinds(self) -> list[str]:
        return []


class Harness:
    """One session of one agent, and everything that runs its turns."""

    def __init__(self, store: SqliteStore, model: ScriptedModel, tool: PythonTool | None = None) -> None:
        self.store = store
        self.model = model
        tool = tool or load("add", ToolConfig(function=f"{__name__}:add"))
        models, tools = ScriptedModels(model), OneTool(tool)
        clock = SystemClock()
        self.hub = Hub(store, heartbeat_seconds=60)
        planner, histories = Planner(models, tools), Histories(store)
        self.worker = Worker(TurnEnvironment(store, planner, histories, self.hub, clock, MAX_MODEL_CALLS))
        self.inputs = Inputs(store, self.worker, self.hub, clock)
        self.agents = Agents(store, models, tools, self.worker, self.hub)
        vault = Vault(store, Keyring(Path("unused"), None))
        self.sessions = Sessions(store, self.worker, self.hub, vault, self.inputs.admit_new)
        self.ref = SessionRef(1, "a", "s")
        self._others: list[Harness] = []

    def other(self, tool: PythonTool | None = None) -> "Harness":
        """Another process on the same store, with a model of its own."""
        self._others.append(Harness(self.store, ScriptedModel(), tool))
        return self._others[-1]

    async def drain(self) -> None:
        """End the turns of all processes."""
        for other in self._others:
            await other.worker.drain(0, 5)
        await self.worker.drain(0, 5)

    async def create(self, **document: Any) -> None:
        body = {
            "key": "a",
            "name": "A",
            "model": {"name": "scripted", "retry_configuration": {"initial_backoff_ms": 100, "max_retries": 1}},
            "tool_configurations": {"add": {"type": "lambda"}},
        }
        await self.agents.create(OWNER, body | document)
        await self.sessions.create(OWNER, "a", CreateSessionRequest(key="s", metadata={"plan": "gold"}))

    async def post(self, text: str = "Hello") -> Tail:
        _, tail = await self.inputs.accept(OWNER, "a", "s", parse({"content": text}), self._follow)
        return tail

    def _follow(self, claim: Claim) -> Tail:
        return self.hub.follow(claim.session.id, claim.opened[-1].sequence)

    async def log(self) -> list[Entry]:
        return (await self.store.list_events(self.ref, EventQuery(limit=100, records=True))).rows

    async def turn(self, text: str = "Hello") -> list[Entry]:
        """Post an input and wait for the end of its turn; returns the whole log."""
        return await self.until_ended(await self.post(text))

    async def until_ended(self, tail: Tail) -> list[Entry]:
        """Follow a turn to its end; returns the whole log."""
        async with asyncio.timeout(20):
            while not any(node.entry and node.entry.type == "turn_ended" for node in await tail.next()):
                pass
        tail.close()
        return await self.log()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    await store.create_tenant("default", "Default")
    made = Harness(store, ScriptedModel())
    yield made
    await made.drain()
    await store.close()


def types(entries: list[Entry]) -> list[str]:
    return [entry.type for entry in entries]


def last(entries: list[Entry]) -> Any:
    return entries[-1].event()


async def test_a_plain_answer_ends_the_turn_in_one_commit_with_its_usage(harness: Harness) -> None:
    await harness.create()
    harness.model.add(think("Hm."), say("Hi."), usage(10, 4))
    entries = await harness.turn()
    assert types(entries) == ["input_message", "turn_started", "thinking", "agent_output", "turn_ended"]
    assert len({entry.created_at for entry in entries[2:]}) == 1
    assert (last(entries).stop_reason, last(entries).usage.input_tokens, last(entries).usage.model_calls) == (
        "end_turn",
        10,
        1,
    )


async def test_tool_calls_are_answered_before_the_next_model_call(harness: Harness) -> None:
    await harness.create()
    harness.model.add(call("add", {"a": 2, "b": 3}, "c1"), call("add", {"a": "x", "b": 3}, "c2")).add(say("5"))
    entries = await harness.turn()
    assert types(entries)[2:] == [
        "tool_input",
        "tool_input",
        "tool_output",
        "tool_output",
        "agent_output",
        "turn_ended",
    ]
    good, bad = entries[4].event(), entries[5].event()
    assert (good.tool_call_id, good.tool_output, good.error) == ("c1", {"result": 5}, False)
    assert (bad.tool_call_id, bad.error, bad.tool_output["code"]) == ("c2", True, "tool_arguments_invalid")
    roles = [type(message).__name__ for message in harness.model.calls[1].request.messages]
    assert roles == ["UserMessage", "AssistantMessage", "ToolMessage", "ToolMessage"]


async def test_a_turn_that_wants_too_many_model_calls_ends_with_limit(harness: Harness) -> None:
    await harness.create()
    for number in range(MAX_MODEL_CALLS):
        harness.model.add(call("add", {"a": number, "b": 1}, f"c{number}"))
    ended = last(await harness.turn())
    assert (ended.stop_reason, ended.error.code) == ("limit", "model_call_limit")
    assert len(harness.model.calls) == MAX_MODEL_CALLS


async def test_a_retryable_fault_before_the_first_delta_is_retried(harness: Harness) -> None:
    await harness.create()
    harness.model.add(fail(ModelFault("model_unavailable", "busy", retryable=True))).add(say("Here."))
    entries = await harness.turn()
    assert types(entries)[2:] == ["agent_output", "turn_ended"]
    assert last(entries).usage.model_calls == 2


async def test_retries_run_out(harness: Harness) -> None:
    await harness.create()
    for _ in range(2):
        harness.model.add(fail(ModelFault("model_unavailable", "busy", retryable=True)))
    ended = last(await harness.turn())
    assert (ended.stop_reason, ended.error.code, ended.error.message) == ("error", "model_unavailable", "busy")


async def test_a_fault_after_a_delta_keeps_what_was_shown_as_partial(harness: Harness) -> None:
    await harness.create()
    harness.model.add(think("Hm."), say("Half ", whole=True), fail(ModelFault("model_timeout", "slow", retryable=True)))
    entries = await harness.turn()
    assert types(entries)[2:] == ["thinking", "agent_output", "turn_ended"]
    assert (entries[3].event().content, entries[3].event().partial) == ("Half ", True)
    assert len(harness.model.calls) == 1


async def test_the_session_takes_the_next_input_after_a_fault(harness: Harness) -> None:
    await harness.create()
    harness.model.add(fail(ModelFault("model_rejected", "no", retryable=False))).add(say("Fine."))
    await harness.turn()
    assert last(await harness.turn("Again")).stop_reason == "end_turn"


async def test_input_while_a_turn_runs_is_refused_and_names_the_turn(harness: Harness) -> None:
    await harness.create()
    harness.model.add(hang())
    await harness.post()
    running = (await harness.log())[0].turn_id
    with pytest.raises(SessionRunning, match=running):
        await harness.post()


async def test_a_drain_leaves_a_turn_that_waits_for_its_model_to_the_next_start(harness: Harness) -> None:
    await harness.create()
    harness.model.add(say("Half", whole=True), hang())
    tail = await harness.post()
    await harness.model.arrived(1)
    await shows(tail, "Half")
    await harness.worker.drain(0, 5)
    assert types(await harness.log()) == ["input_message", "turn_started"]
    assert harness.model.calls[0].closed
    other = harness.other()
    other.model.add(say("Whole"))
    entries = await recovered(other)
    assert types(entries)[2:] == ["agent_output", "turn_ended"]
    assert (entries[2].event().content, last(entries).stop_reason) == ("Whole", "end_turn")


async def shows(tail: Tail, text: str) -> None:
    """Wait until this was shown."""
    async with asyncio.timeout(20):
        while not any(getattr(node.frame, "content", "") == text for node in await tail.next()):
            pass


async def test_a_drain_lets_a_turn_end(harness: Harness) -> None:
    await harness.create()
    gate = asyncio.Event()
    harness.model.add(call("add", {"a": 2, "b": 3}), wait_for(gate)).add(say("Five."))
    posting = await harness.post()
    await harness.model.arrived(1)
    draining = asyncio.ensure_future(harness.worker.drain(60, 5))
    await asyncio.sleep(0)
    gate.set()
    await draining
    assert last(await harness.until_ended(posting)).stop_reason == "end_turn"


async def test_clean_stops_are_no_crashes(harness: Harness) -> None:
    await harness.create()
    harness.model.add(hang())
    await harness.post()
    await harness.model.arrived(1)
    await harness.worker.drain(0, 5)
    for _ in range(2 * MAX_TAKES):
        other = harness.other()
        other.model.add(hang())
        await other.worker.recover()
        await other.model.arrived(1)
        await other.worker.drain(0, 5)
    other = harness.other()
    other.model.add(say("At last."))
    assert last(await recovered(other)).stop_reason == "end_turn"


async def test_a_drain_keeps_what_tools_have_answered(harness: Harness) -> None:
    slow = harness.other(Gate().tool(idempotent=False))
    await slow.create()
    slow.model.add(call("add", {"a": 0, "b": 0}, "c1"), call("add", {"a": 1, "b": 1}, "c2"))
    await slow.post()
    ((turn, _),) = slow.worker._running.values()
    async with asyncio.timeout(20):
        while not turn.outputs:  # noqa: ASYNC110 - the tool tells the turn, and nobody else
            await asyncio.sleep(0)
    await slow.worker.drain(0, 5)
    entries = await harness.log()
    assert types(entries)[2:] == ["tool_input", "tool_input", "tool_output"]
    assert (entries[-1].event().tool_call_id, entries[-1].event().tool_output) == ("c2", {"result": 2})
    other = harness.other()
    other.model.add(say("Fine."))
    entries = await recovered(other)
    codes = [(e.event().tool_call_id, e.event().tool_output.get("code")) for e in entries if e.type == "tool_output"]
    assert codes == [("c2", None), ("c1", "tool_outcome_unknown")]
    assert last(entries).stop_reason == "end_turn"


async def test_a_turn_that_is_cancelled_before_it_starts_is_left_too(harness: Harness) -> None:
    await harness.create()
    claim = await harness.store.accept_input(harness.ref, SAID, ids.turn_id(), lambda agent, session: None)
    await harness.worker.drain(0, 5)
    harness.worker.submit(claim)
    await asyncio.sleep(0)
    await harness.worker.drain(0, 5)
    assert harness.model.calls == []
    other = harness.other()
    other.model.add(say("Here."))
    assert last(await recovered(other)).stop_reason == "end_turn"


async def test_a_drain_does_not_wait_for_a_store_that_fails(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = asyncio.Event()

    async def refuse(*_: object) -> None:
        refused.set()
        raise StorageUnavailable

    await harness.create()
    harness.model.add(say("Hi."))
    monkeypatch.setattr(harness.store, "append", refuse)
    await harness.post()
    await refused.wait()
    async with asyncio.timeout(20):
        await harness.worker.drain(0, 60)
    monkeypatch.undo()
    assert types(await harness.log()) == ["input_message", "turn_started"]
    assert last(await recovered(harness.other())).error.code == "model_rejected"


async def test_a_turn_whose_answer_cannot_be_kept_ends_all_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> list[object]:
        raise ValueError

    await harness.create()
    harness.model.add(say("Hi."))
    monkeypatch.setattr(ModelAnswer, "events", defect)
    assert last(await harness.turn()).error.code == "internal_error"


async def test_deleting_a_running_session_stops_its_model_call(harness: Harness) -> None:
    await harness.create()
    harness.model.add(hang())
    await harness.post()
    await harness.model.arrived(1)
    await harness.sessions.delete(OWNER, "a", "s", None)
    assert harness.model.calls[0].closed


async def recovered(other: Harness) -> list[Entry]:
    """Let another process take up the one turn that was left, and wait for its end; returns the whole log."""
    session = await other.store.get_session(other.ref)
    tail = other.hub.follow(session.id, session.last_sequence)
    assert await other.worker.recover() == 1
    return await other.until_ended(tail)


async def test_a_turn_that_another_process_left_goes_on(harness: Harness) -> None:
    await harness.create()
    harness.model.add(call("add", {"a": 1, "b": 1}, "c1")).add(say("Half an "), hang())
    await harness.post()
    await harness.model.arrived(2)
    other = harness.other()
    other.model.add(say("Two."))
    entries = await recovered(other)
    assert types(entries)[2:] == ["tool_input", "tool_output", "agent_output", "turn_ended"]
    assert last(entries).stop_reason == "end_turn"
    said = [type(message).__name__ for message in other.model.calls[0].request.messages]
    assert said == ["UserMessage", "AssistantMessage", "ToolMessage"]


class Gate:
    """A tool that never ends in the process that is about to die, and counts how often it was started."""

    def __init__(self) -> None:
        self.starts = 0
        self.started = asyncio.Event()

    def tool(self, *, idempotent: bool) -> PythonTool:
        return PythonTool("add", ToolConfig(function="add", idempotent=idempotent), self.add)

    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        self.starts += 1
        self.started.set()
        if self.starts == 1:
            await asyncio.Event().wait()
        return a + b


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_tool_call_that_a_crash_cut_off(harness: Harness, idempotent: bool) -> None:
    gate = Gate()
    first = harness.other(gate.tool(idempotent=idempotent))
    await first.create()
    first.model.add(call("add", {"a": 1, "b": 1}, "c1"))
    await first.post()
    await gate.started.wait()
    other = harness.other(gate.tool(idempotent=idempotent))
    other.model.add(say("Done."))
    entries = await recovered(other)
    assert types(entries)[2:] == ["tool_input", "tool_output", "agent_output", "turn_ended"]
    output = entries[3].event()
    assert isinstance(output, ToolOutputEvent)
    if idempotent:
        assert (gate.starts, output.error, output.tool_output) == (2, False, {"result": 2})
    else:
        assert (gate.starts, output.error, output.tool_output["code"]) == (1, True, "tool_outcome_unknown")


async def test_the_log_of_a_turn_that_has_used_something_and_still_runs_holds(harness: Harness) -> None:
    await harness.create()
    harness.model.add(usage(10, 2), call("add", {"a": 1, "b": 1}, "c1")).add(hang())
    await harness.post()
    await harness.model.arrived(2)
    check = await Events(harness.store).check(OWNER, "a", "s")
    assert (check.ok, check.events) == (True, 4)


async def test_a_crash_does_not_forget_how_many_model_calls_were_made(harness: Harness) -> None:
    await harness.create()
    for number in range(MAX_MODEL_CALLS - 1):
        harness.model.add(call("add", {"a": 1, "b": 1}, f"c{number}"))
    harness.model.add(hang())
    await harness.post()
    await harness.model.arrived(MAX_MODEL_CALLS)
    other = harness.other()
    other.model.add(call("add", {"a": 1, "b": 1}, "last"))
    assert last(await recovered(other)).stop_reason == "limit"


async def test_a_turn_that_outlives_too_many_processes_is_closed(harness: Harness) -> None:
    await harness.create()
    harness.model.add(hang())
    await harness.post()
    await harness.model.arrived(1)
    for _ in range(MAX_TAKES - 1):
        other = harness.other()
        other.model.add(hang())
        assert await other.worker.recover() == 1
        await other.model.arrived(1)
    entries = await recovered(harness.other())
    assert types(entries)[2:] == ["turn_ended"]
    assert last(entries).error.code == "server_restarted"


async def test_a_worker_that_lost_its_fence_changes_nothing(harness: Harness) -> None:
    await harness.create()
    gate = asyncio.Event()
    harness.model.add(wait_for(gate), say("Too late."))
    await harness.post()
    await harness.model.arrived(1)
    other = harness.other()
    other.model.add(hang())
    await other.worker.recover()
    await other.model.arrived(1)
    gate.set()
    await harness.worker.drain(60, 5)
    assert types(await harness.log()) == ["input_message", "turn_started"]


async def test_instructions_and_history_reach_the_model(harness: Harness) -> None:
    await harness.create(first_step={"instructions": [inline("Plan: ${session.metadata.plan}.")]})
    harness.model.add(say("One.")).add(say("Two."))
    await harness.turn("First")
    await harness.turn("Second")
    texts = [message.content for message in harness.model.calls[1].request.messages]
    assert texts == ["Plan: gold.", "First", "One.", "Second"]


def inline(template: str) -> dict[str, str]:
    return {"type": "inline", "name": "i", "template": template}
