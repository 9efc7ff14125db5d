"""Interrupts on a real store with a scripted model: what stopping a turn leaves in the log, wherever it stands."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from integration.test_turns import MAX_MODEL_CALLS, OWNER, SAID, Harness, last, types
from sessile.api import interrupt_answer
from sessile.clock import SystemClock
from sessile.config import ToolConfig
from sessile.domain.log import Entry
from sessile.live.tail import Tail
from sessile.ports import ModelFault, ModelRequest, Tool
from sessile.rows import Interruption
from sessile.runner.history import Histories
from sessile.runner.plan import Planner
from sessile.runner.turn import TurnEnvironment
from sessile.runner.worker import Worker
from sessile.service.inputs import Inputs
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.script import Step, call, fail, hang, say, think, usage
from sessile.testing.scripted_model import ModelCall, ScriptedModel, ScriptedModels
from sessile.tools.python import PythonTool
from sessile.wire import codec, ids
from sessile.wire.errors import NotFound, StorageUnavailable
from sessile.wire.events import StreamingAgentOutput
from sessile.wire.sessions import CreateSessionRequest

PATIENCE = 20.0


class ToolBox:
    """Tools that say when they have started, and that stop in their own ways."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.release = threading.Event()
        loop = asyncio.get_running_loop()

        async def waits() -> str:
            self.started.put_nowait("waits")
            await asyncio.Event().wait()
            return "never"

        def sleeps() -> str:
            loop.call_soon_threadsafe(self.started.put_nowait, "sleeps")
            self.release.wait(PATIENCE)
            return "too late"

        async def stays() -> str:
            self.started.put_nowait("stays")
            while not self.release.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    continue
            return "too late"

        async def quick() -> str:
            return "done"

        functions: list[Callable[[], Any]] = [waits, sleeps, stays, quick]
        self._tools = {f.__name__: PythonTool(f.__name__, ToolConfig(function="x:y"), f) for f in functions}

    def of(self, name: str, configuration: Mapping[str, Any]) -> Tool | None:
        return self._tools.get(name)

    def names(self) -> list[str]:
        return sorted(self._tools)

    def kinds(self) -> list[str]:
        return []


class Stage(Harness):
    """The harness of turns, with tools that hold a turn up, and a way to interrupt."""

    def __init__(self, store: SqliteStore, model: ScriptedModel) -> None:
        super().__init__(store, model)
        self.tools = ToolBox()
        self.told = asyncio.Event()
        """Set once the turn knows that it shall stop."""
        planner, histories, clock = Planner(ScriptedModels(model), self.tools), Histories(store), SystemClock()
        self.worker = Worker(TurnEnvironment(store, planner, histories, self.hub, clock, MAX_MODEL_CALLS))
        self.inputs = Inputs(store, self.worker, self.hub, clock)
        self.agents._tools = self.tools  # type: ignore[attr-defined]

    async def create(self, **document: Any) -> None:
        await super().create(**{"tool_configurations": {n: {"type": "lambda"} for n in self.tools.names()}} | document)

    async def interrupt(self, patience: float | None = PATIENCE) -> Any:
        """The whole answer to an interrupt."""
        found, tail = await self.inputs.interrupt(OWNER, "a", "s", self._watch)
        return codec.decode(await interrupt_answer.whole(found, tail, patience))

    async def delta(self, tail: Tail) -> None:
        """Wait for the first text of an answer."""
        async with asyncio.timeout(PATIENCE):
            while not any(isinstance(node.frame, StreamingAgentOutput) for node in await tail.next()):
                pass

    async def answered_by_a_tool(self) -> None:
        """Wait until one of several tools has answered, which nobody sees before all have."""
        ((turn, _),) = self.worker._running.values()
        async with asyncio.timeout(PATIENCE):
            while not turn.outputs:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0)

    def _watch(self, found: Interruption) -> Tail:
        asyncio.get_running_loop().call_soon(self.told.set)
        return self.hub.follow(found.session.id, found.session.last_sequence, deltas=False)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    await store.create_tenant("default", "Default")
    made = Stage(store, ScriptedModel())
    yield made
    made.tools.release.set()
    await made.worker.drain(0, 5)
    await store.close()


def body_types(answer: Any) -> list[str]:
    return [event["type"] for event in answer["events"]]


def ends_as_interrupted(entries: list[Entry]) -> None:
    """The last turn has one end, which is in one commit with all that an interrupt leaves."""
    ended = last(entries)
    assert (types(entries)[-2:], ended.stop_reason, ended.error) == (
        ["session_interrupted", "turn_ended"],
        "interrupted",
        None,
    )
    mine = [entry for entry in entries if entry.turn_id == ended.turn_id]
    assert types(mine).count("turn_ended") == types(mine).count("session_interrupted") == 1
    assert entries[-2].created_at == entries[-1].created_at


async def takes_the_next_input(stage: Stage) -> list[Any]:
    """Check that the session goes on at once; returns what the model was given."""
    stage.model.add(say("Fine."))
    assert last(await stage.turn("And now?")).stop_reason == "end_turn"
    messages: list[Any] = stage.model.calls[-1].request.messages
    return messages


async def test_before_the_first_delta_nothing_was_said(stage: Stage) -> None:
    await stage.create()
    stage.model.add(hang())
    await stage.post()
    await stage.model.arrived(1)
    answer = await stage.interrupt()
    entries = await stage.log()
    assert types(entries)[2:] == ["session_interrupted", "turn_ended"]
    ends_as_interrupted(entries)
    assert answer == {
        "events": [codec.decode(entries[2].json)],
        "session_key": "s",
        "turn_id": entries[0].turn_id,
        "status": "stopped",
        "stop_reason": "interrupted",
        "error": None,
    }
    assert stage.model.calls[0].closed.is_set()
    roles = [type(message).__name__ for message in await takes_the_next_input(stage)]
    assert roles == ["UserMessage", "AssistantMessage", "UserMessage"]


async def test_in_the_middle_of_an_answer_what_was_shown_is_kept(stage: Stage) -> None:
    await stage.create()
    stage.model.add(think("Hm.", whole=True), say("Half", whole=True), hang())
    tail = await stage.post()
    await stage.delta(tail)
    answer = await stage.interrupt()
    entries = await stage.until_ended(tail)
    assert types(entries)[2:] == ["thinking", "agent_output", "session_interrupted", "turn_ended"]
    assert (entries[3].event().content, entries[3].event().partial) == ("Half", True)
    ends_as_interrupted(entries)
    assert body_types(answer) == ["thinking", "agent_output", "session_interrupted"]
    assert len({entry.created_at for entry in entries[2:]}) == 1
    assert last(entries).usage.model_calls == 1
    said = [message.content for message in await takes_the_next_input(stage)]
    assert said == ["Hello", "Half", "And now?"]


@pytest.mark.parametrize("tool", ["waits", "sleeps", "stays"])
async def test_while_a_tool_runs_its_call_is_closed(stage: Stage, tool: str) -> None:
    await stage.create()
    stage.model.add(say("I look. "), call(tool, {}, "c1"), call("quick", {}, "c2"), usage(10, 4))
    await stage.post()
    assert await stage.tools.started.get() == tool
    await stage.answered_by_a_tool()
    answer = await stage.interrupt()
    entries = await stage.log()
    outputs = ["tool_output", "tool_output", "session_interrupted"]
    assert types(entries)[2:] == ["agent_output", "tool_input", "tool_input", *outputs, "turn_ended"]
    assert body_types(answer) == outputs
    assert entries[2].event().partial is False
    closed = entries[5].event()
    assert (closed.tool_call_id, closed.error, closed.tool_output["code"]) == ("c1", True, "turn_interrupted")
    kept = entries[6].event()
    assert (kept.tool_call_id, kept.error, kept.tool_output) == ("c2", False, {"result": "done"})
    ends_as_interrupted(entries)
    assert last(entries).usage.input_tokens == 10
    roles = [type(message).__name__ for message in await takes_the_next_input(stage)]
    assert roles == ["UserMessage", "AssistantMessage", "ToolMessage", "ToolMessage", "AssistantMessage", "UserMessage"]
    stage.tools.release.set()
    await asyncio.sleep(0.05)
    assert types(await stage.log())[len(entries) :] == ["input_message", "turn_started", "agent_output", "turn_ended"]


async def test_between_the_model_and_its_tools_no_tool_starts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.create()
    stage.model.add(call("waits", {}, "c1"))
    writing, go_on = held(stage, monkeypatch, ["tool_input"])
    await stage.post()
    await writing.wait()
    interrupting = asyncio.create_task(stage.interrupt())
    await stage.told.wait()
    go_on.set()
    assert body_types(await interrupting) == ["tool_input", "tool_output", "session_interrupted"]
    assert stage.tools.started.empty()
    ends_as_interrupted(await stage.log())


async def test_while_a_retry_waits(stage: Stage) -> None:
    retry = {"initial_backoff_ms": 60_000, "max_backoff_ms": 60_000, "max_retries": 3}
    await stage.create(model={"name": "scripted", "retry_configuration": retry})
    stage.model.add(fail(ModelFault("model_unavailable", "busy", retryable=True)))
    await stage.post()
    await (await stage.model.arrived(1)).ended.wait()
    await stage.interrupt()
    entries = await stage.log()
    assert types(entries)[2:] == ["session_interrupted", "turn_ended"]
    ends_as_interrupted(entries)


async def test_before_the_turn_has_started(stage: Stage) -> None:
    await stage.create()
    answers = await asyncio.gather(stage.post(), stage.interrupt())
    assert body_types(answers[1]) == ["session_interrupted"]
    ends_as_interrupted(await stage.log())
    assert stage.model.calls == []


async def test_before_the_claim_has_reached_the_worker(stage: Stage) -> None:
    await stage.create()
    claim = await stage.store.accept_input(stage.ref, SAID, ids.turn_id(), lambda agent, session: None)
    interrupting = asyncio.create_task(stage.interrupt())
    await stage.told.wait()
    stage.worker.submit(claim)
    assert body_types(await interrupting) == ["session_interrupted"]
    ends_as_interrupted(await stage.log())
    assert stage.model.calls == []


async def test_an_end_that_is_on_its_way_is_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.create()
    stage.model.add(say("All said."))
    writing, go_on = held(stage, monkeypatch, ["agent_output"])
    await stage.post()
    await writing.wait()
    interrupting = asyncio.create_task(stage.interrupt())
    await stage.told.wait()
    go_on.set()
    answer = await interrupting
    assert (answer["stop_reason"], body_types(answer)) == ("end_turn", ["agent_output"])
    entries = await stage.log()
    assert types(entries)[2:] == ["agent_output", "turn_ended"]
    assert last(entries).stop_reason == "end_turn"


async def test_at_every_moment_there_is_one_end_and_everybody_is_told_it(stage: Stage) -> None:
    def decide(request: ModelRequest) -> list[Step]:
        wants_a_tool = request.messages[-1].content == "Use a tool."
        return [say("I look. "), call("quick", {})] if wants_a_tool else [say("A few words.")]

    stage = Stage(stage.store, ScriptedModel(decide))
    await stage.create()
    for pauses in range(40):
        tail = await stage.post("Use a tool." if pauses % 2 else "Hello")
        for _ in range(pauses):
            await asyncio.sleep(0)
        answers = await asyncio.gather(stage.interrupt(), stage.interrupt())
        entries = await stage.until_ended(tail)
        page = [entry for entry in entries if entry.turn_id == entries[-1].turn_id]
        ended = last(page)
        assert types(page).count("turn_ended") == 1
        for answer in answers:
            assert (answer["status"], answer["stop_reason"]) == ("stopped", ended.stop_reason)
        await stage.sessions.delete(OWNER, "a", "s", None)
        await stage.sessions.create(OWNER, "a", CreateSessionRequest(key="s"))


async def test_two_interrupts_are_both_answered(stage: Stage) -> None:
    await stage.create()
    stage.model.add(say("Half", whole=True), hang())
    tail = await stage.post()
    await stage.delta(tail)
    answers = await asyncio.gather(*(stage.interrupt() for _ in range(5)))
    assert {answer["stop_reason"] for answer in answers} == {"interrupted"}
    assert {tuple(body_types(answer)) for answer in answers} == {("agent_output", "session_interrupted")}
    ends_as_interrupted(await stage.log())


async def test_an_idle_session_is_left_alone(stage: Stage) -> None:
    await stage.create()
    idle = {"events": [], "session_key": "s", "turn_id": None, "status": "stopped", "stop_reason": None, "error": None}
    assert await stage.interrupt() == idle
    assert await stage.log() == []
    stage.model.add(say("Hi."))
    before = await stage.turn()
    assert await stage.interrupt() == idle | {"stop_reason": "end_turn"}
    assert types(await stage.log()) == types(before)


async def test_a_session_that_is_not_there(stage: Stage) -> None:
    await stage.create()
    other = OWNER.__class__(tenant_id=2, key_id=None, roles=OWNER.roles, agent_roles={})
    for principal, key in ((OWNER, "absent"), (other, "s")):
        with pytest.raises(NotFound):
            await stage.inputs.interrupt(principal, "a", key, stage._watch)


async def test_the_wait_is_bounded_and_the_interrupt_stands(stage: Stage) -> None:
    await stage.create()
    stage.model.add(call("stays", {}, "c1"))
    tail = await stage.post()
    await stage.tools.started.get()
    answer = await stage.interrupt(0.01)
    assert (answer["status"], answer["stop_reason"], answer["events"]) == ("running", None, [])
    ends_as_interrupted(await stage.until_ended(tail))


async def test_a_session_that_is_deleted_meanwhile(stage: Stage) -> None:
    await stage.create()
    stage.model.add(call("stays", {}, "c1"))
    await stage.post()
    await stage.tools.started.get()
    interrupting = asyncio.create_task(stage.interrupt())
    await stage.told.wait()
    await stage.sessions.delete(OWNER, "a", "s", None)
    answer = await interrupting
    assert (answer["status"], answer["stop_reason"], answer["events"]) == ("stopped", None, [])


async def test_without_the_store_nothing_is_recorded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.create()
    stage.model.add(hang())
    await stage.post()
    await stage.model.arrived(1)
    with monkeypatch.context() as patch:
        patch.setattr(stage.store, "interrupt", _refuse)
        with pytest.raises(StorageUnavailable):
            await stage.interrupt()
    assert not stage.model.calls[0].closed.is_set()
    (claim,) = await stage.store.take_unfinished_turns()
    assert claim.interrupted is False


async def test_what_waits_for_the_store_is_written_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.create()
    stage.model.add(call("quick", {}, "c1"))
    append, refused, failing = stage.store.append, asyncio.Event(), True

    async def fail_on_outputs(fence: Any, drafts: Any, *rest: Any) -> Any:
        if failing and [draft.type for draft in drafts] == ["tool_output"]:
            refused.set()
            raise StorageUnavailable
        return await append(fence, drafts, *rest)

    monkeypatch.setattr(stage.store, "append", fail_on_outputs)
    tail = await stage.post()
    await refused.wait()
    interrupting = asyncio.create_task(stage.interrupt())
    await stage.told.wait()
    failing = False
    await interrupting
    entries = await stage.until_ended(tail)
    assert types(entries)[2:] == ["tool_input", "tool_output", "session_interrupted", "turn_ended"]
    assert entries[3].event().tool_output == {"result": "done"}
    ends_as_interrupted(entries)


async def test_an_interrupted_turn_waits_for_the_store(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.create()
    stage.model.add(say("Half", whole=True), hang())
    tail = await stage.post()
    await stage.delta(tail)
    append, failures = stage.store.append, [StorageUnavailable()]

    async def fail_once(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await append(*arguments)

    monkeypatch.setattr(stage.store, "append", fail_once)
    assert body_types(await stage.interrupt()) == ["agent_output", "session_interrupted"]
    ends_as_interrupted(await stage.log())


async def test_the_next_start_ends_what_was_interrupted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.create()
    stage.model.add(call("stays", {}, "c1"))
    await stage.post()
    await stage.tools.started.get()
    await stage.interrupt(0.01)
    other = Stage(stage.store, ScriptedModel())
    assert await other.worker.recover() == 1
    entries = await stage.log()
    assert types(entries)[2:] == ["tool_input", "tool_output", "session_interrupted", "turn_ended"]
    assert entries[3].event().tool_output["code"] == "turn_interrupted"
    ends_as_interrupted(entries)


async def test_a_drain_ends_an_interrupted_turn_as_interrupted(stage: Stage) -> None:
    await stage.create()
    stage.model.add(call("stays", {}, "c1"))
    await stage.post()
    await stage.tools.started.get()
    await stage.interrupt(0.01)
    await stage.worker.drain(0, PATIENCE)
    ends_as_interrupted(await stage.log())


async def test_a_fault_of_the_model_while_it_is_stopped_is_not_the_end(stage: Stage) -> None:
    class Spiteful(ScriptedModel):
        async def stream(self, request: Any) -> Any:
            async with self._arrival:
                self.calls.append(ModelCall(request))
                self._arrival.notify_all()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ModelFault("model_unavailable", "cut", retryable=False) from None
            yield None

    spiteful = Stage(stage.store, Spiteful())
    await spiteful.create()
    await spiteful.post()
    await spiteful.model.arrived(1)
    await spiteful.interrupt()
    ends_as_interrupted(await spiteful.log())


def held(stage: Stage, monkeypatch: pytest.MonkeyPatch, which: list[str]) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the append of drafts of these types; the events say that it is held, and let it go."""
    append, writing, go_on = stage.store.append, asyncio.Event(), asyncio.Event()

    async def slowly(fence: Any, drafts: Any, *rest: Any) -> Any:
        if [draft.type for draft in drafts] == which:
            writing.set()
            await go_on.wait()
        return await append(fence, drafts, *rest)

    monkeypatch.setattr(stage.store, "append", slowly)
    return writing, go_on


async def _refuse(*_: object) -> Coroutine[Any, Any, Any]:
    raise StorageUnavailable
