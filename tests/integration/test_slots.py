"""Turns that wait for a slot, on a real store with a scripted model: what may happen to them before they run."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from integration.test_turns import MAX_MODEL_CALLS, OWNER, Harness, types
from sessile.clock import SystemClock
from sessile.domain.log import Entry
from sessile.ports import Principal, ToolContext
from sessile.rows import LEASE_SECONDS, EventQuery, Fence, Once, Rejoined, SessionRef
from sessile.runner import worker
from sessile.runner.history import Histories
from sessile.runner.plan import Planner
from sessile.runner.slots import TurnLimits
from sessile.runner.turn import TurnEnvironment
from sessile.runner.worker import Worker
from sessile.service.agents import Agents
from sessile.service.inputs import Inputs, parse
from sessile.service.sessions import Sessions
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.script import call, hang, say, wait_for
from sessile.testing.scripted_model import ScriptedModel, ScriptedModels
from sessile.testing.store_world import accept
from sessile.wire.errors import Overloaded
from sessile.wire.sessions import CreateSessionRequest

PATIENCE = 20.0
TENANT = OWNER.tenant_id


class Rests:
    """A tool that waits for something outside its turn, as one does that asks another agent."""

    name = "add"
    description = ""
    parameters: dict[str, Any] = {"type": "object"}  # noqa: RUF012 - a Tool has it like this
    idempotent = False

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        with context.resting():
            await self.go_on.wait()
        return {}


class Offered:
    """A Tools port with one tool."""

    def __init__(self, tool: Rests) -> None:
        self.tool = tool

    def of(self, name: str, configuration: Any) -> Any:
        return self.tool

    def names(self) -> list[str]:
        return ["add"]

    def kinds(self) -> list[str]:
        return []


class Stage(Harness):
    """Sessions `s0`, `s1` … of one agent, and a worker with few slots. Every turn waits for `go_on`, unless told."""

    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        super().__init__(store, ScriptedModel(lambda request: [wait_for(self.go_on), say("Done.")]))
        self.clock = clock
        self.go_on = asyncio.Event()
        self.tool = Rests()
        self.limit()

    def limit(self, **limits: int) -> None:
        """Another worker, with one slot and these limits."""
        models, tools = ScriptedModels(self.model), Offered(self.tool)
        planner, histories, turns = (
            Planner(models, tools),
            Histories(self.store),
            TurnLimits(**({"running": 1} | limits)),
        )
        env = TurnEnvironment(self.store, planner, histories, self.hub, SystemClock(), MAX_MODEL_CALLS, limits=turns)
        self.worker = Worker(env)
        self.inputs = Inputs(self.store, self.worker, self.hub, SystemClock())
        self.agents = Agents(self.store, models, tools, self.worker, self.hub)
        self.sessions = Sessions(self.store, self.worker, self.hub, self.sessions._vault, self.inputs.admit_new)

    async def open(self, count: int, principal: Principal = OWNER) -> None:
        """An agent and so many sessions."""
        body = {
            "key": "a",
            "name": "A",
            "model": {"name": "scripted"},
            "tool_configurations": {"add": {"type": "lambda"}},
        }
        await self.agents.create(principal, body)
        for number in range(count):
            await self.sessions.create(principal, "a", CreateSessionRequest(key=f"s{number}"))

    async def send(self, number: int, principal: Principal = OWNER, once: Once | None = None, **body: Any) -> Any:
        request: Any = parse({"content": "Hello", **body})
        accepted, _ = await self.inputs.accept(
            principal, "a", f"s{number}", request, lambda accepted: None, once, behavior=body.get("behavior")
        )
        return accepted

    async def log_of(self, number: int, tenant: int = TENANT) -> list[Entry]:
        ref = SessionRef(tenant, "a", f"s{number}")
        return (await self.store.list_events(ref, EventQuery(limit=100, records=True))).rows

    async def end_of(self, number: int, tenant: int = TENANT) -> Any:
        """The last record of a session, once its turn has ended."""
        async with asyncio.timeout(PATIENCE):
            while types(log := await self.log_of(number, tenant))[-1:] != ["turn_ended"]:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        return log[-1].event()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    clock = FakeClock()
    store = await SqliteStore.open(tmp_path / "s.db", clock)
    await store.create_tenant("default", "Default")
    made = Stage(store, clock)
    yield made
    made.go_on.set()
    made.tool.go_on.set()
    await made.drain()
    await store.close()


async def test_turns_beyond_the_limit_wait_without_a_task_and_run_in_turn(stage: Stage) -> None:
    await stage.open(4)
    for number in range(4):
        await stage.send(number)
    await stage.model.arrived(1)
    assert (stage.worker.waiting, len(stage.worker._running)) == (3, 1)
    assert types(await stage.log_of(3)) == ["input_message", "turn_started"]
    stage.go_on.set()
    assert [(await stage.end_of(number)).stop_reason for number in range(4)] == ["end_turn"] * 4
    assert (stage.worker.waiting, len(stage.worker._running), len(stage.model.calls)) == (0, 0, 4)


async def test_a_tenant_is_not_held_up_by_the_turns_of_another(stage: Stage) -> None:
    await stage.open(30)
    second = (await stage.store.create_tenant("second", "Second")).id
    other = Principal(tenant_id=second, key_id=None, roles=frozenset({"owner"}), agent_roles={})
    await stage.open(1, other)
    for number in range(30):
        await stage.send(number)
    await stage.send(0, other, content="Theirs")
    stage.go_on.set()
    await stage.end_of(0, second)
    asked = [call.request.messages[-1] for call in stage.model.calls]
    assert "Theirs" in str(asked[2]), "one runs, one was first in the queue, then the other tenant is next"
    for number in range(30):
        await stage.end_of(number)


async def test_what_would_start_a_turn_is_refused_with_nothing_stored_when_the_queue_is_full(stage: Stage) -> None:
    stage.limit(waiting=1)
    await stage.open(3)
    once = Once("k", b"fingerprint")
    await stage.send(0)
    first = await stage.send(1, once=once)
    with pytest.raises(Overloaded) as refused:
        await stage.send(2)
    assert refused.value.retry_after == 1
    assert await stage.log_of(2) == []
    again = await stage.send(1, once=once)
    assert isinstance(again, Rejoined)
    assert again.turn_id == first.turn_id
    await stage.send(1, behavior="follow_up")
    stage.go_on.set()
    await stage.end_of(0)
    await stage.end_of(1)
    await stage.send(2)
    await stage.end_of(2)
    assert types(await stage.log_of(1)).count("turn_ended") == 2


async def test_many_at_once_are_not_let_in_beyond_the_limit(stage: Stage) -> None:
    """They share a commit: who has room must be known before any of them is in the queue."""
    stage.limit(waiting=3)
    await stage.open(20)
    answers = await asyncio.gather(*(stage.send(number) for number in range(20)), return_exceptions=True)
    refused = [number for number, answer in enumerate(answers) if isinstance(answer, Overloaded)]
    assert (len(refused), stage.worker.waiting) == (16, 3)
    assert [await stage.log_of(number) for number in refused] == [[]] * 16


async def test_an_interrupt_ends_a_turn_that_waits_at_once(stage: Stage) -> None:
    await stage.open(3)
    for number in range(3):
        await stage.send(number)
    await stage.inputs.interrupt(OWNER, "a", "s1", lambda found: None)
    assert (await stage.end_of(1)).stop_reason == "interrupted"
    assert types(await stage.log_of(1)) == ["input_message", "turn_started", "session_interrupted", "turn_ended"]
    assert (len(stage.model.calls), stage.worker.waiting) == (1, 1)
    stage.go_on.set()
    assert (await stage.end_of(2)).stop_reason == "end_turn"


async def test_a_turn_that_waits_keeps_its_lease(stage: Stage) -> None:
    await stage.open(2)
    other = stage.other()
    await stage.send(0)
    await stage.send(1)
    for _ in range(4):
        await stage.clock.advance(LEASE_SECONDS * 2 / 3)
        await stage.worker.tend_leases()
        await other.worker.tend_leases()
    stage.go_on.set()
    await stage.end_of(1)
    assert (len(stage.model.calls), len(other.model.calls)) == (2, 0)


async def test_leases_are_renewed_some_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[int] = []
    renew = stage.store.renew

    async def counted(fences: Collection[Fence]) -> Collection[Fence]:
        renewed.append(len(fences))
        return await renew(fences)

    monkeypatch.setattr("sessile.runner.worker._RENEWED_AT_ONCE", 4)
    monkeypatch.setattr(stage.store, "renew", counted)
    await stage.open(9)
    for number in range(9):
        await stage.send(number)
    await stage.worker.tend_leases()
    assert renewed == [4, 4, 1]


async def test_no_more_turns_of_a_dead_worker_are_taken_up_than_may_wait(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_TAKEN_AT_ONCE", 2)
    await stage.open(8)
    stage.limit(waiting=2)
    for number in range(8):
        await accept(stage.store, SessionRef(TENANT, "a", f"s{number}"))
    await stage.clock.advance(LEASE_SECONDS)
    await stage.worker.tend_leases()
    assert (len(stage.worker._running), stage.worker.waiting) == (1, 3)
    assert await stage.store.next_expiry() == 0
    await stage.worker.tend_leases()
    assert stage.worker.waiting == 3
    stage.go_on.set()
    for number in range(4):
        await stage.end_of(number)
    await stage.worker.tend_leases()
    assert [(await stage.end_of(number)).stop_reason for number in range(8)] == ["end_turn"] * 8
    assert len(stage.model.calls) == 8


async def test_a_turn_that_waits_and_was_lost_is_dropped(stage: Stage) -> None:
    """The lease of a stalled worker runs out; whoever took the turn up runs it, and it is in no queue any more."""
    await stage.open(2)
    other = stage.other()
    other.model.add(say("There.")).add(say("There."))
    await stage.send(0)
    await stage.send(1)
    await stage.clock.advance(LEASE_SECONDS)
    await other.worker.tend_leases()
    await stage.end_of(1)
    await stage.worker.tend_leases()
    assert stage.worker.waiting == 0
    assert types(await stage.log_of(1)).count("turn_ended") == 1


async def test_a_drain_leaves_what_waits_to_the_next_start_at_once(stage: Stage) -> None:
    await stage.open(3)
    for number in range(3):
        await stage.send(number)
    draining = asyncio.create_task(stage.worker.drain(PATIENCE, 5))
    await asyncio.sleep(0)
    assert stage.worker.waiting == 0
    stage.go_on.set()
    await draining
    assert [types(await stage.log_of(number))[-1] for number in range(3)] == [
        "turn_ended",
        "turn_started",
        "turn_started",
    ]
    stage.limit()
    assert await stage.worker.recover() == 2
    assert [(await stage.end_of(number)).stop_reason for number in (1, 2)] == ["end_turn"] * 2


async def test_a_turn_that_waits_ends_with_its_session_or_agent(stage: Stage) -> None:
    await stage.open(3)
    for number in range(3):
        await stage.send(number)
    await stage.sessions.delete(OWNER, "a", "s1", None)
    assert stage.worker.waiting == 1
    await stage.agents.delete(OWNER, "a")
    assert (stage.worker.waiting, len(stage.worker._running), len(stage.model.calls)) == (0, 0, 1)


async def test_a_steering_input_joins_a_turn_that_waits(stage: Stage) -> None:
    await stage.open(2)
    await stage.send(0)
    await stage.send(1)
    await stage.send(1, content="And this", behavior="steer")
    stage.go_on.set()
    await stage.end_of(1)
    assert types(await stage.log_of(1)) == [
        "input_message",
        "turn_started",
        "input_message",
        "agent_output",
        "turn_ended",
    ]


async def test_a_turn_that_rests_gives_its_slot_back_and_takes_it_again(stage: Stage) -> None:
    await stage.open(3)
    scripts = [[call("add", {})], [hang()], [say("Together.")]]
    stage.model._decide = lambda request: scripts.pop(0)
    await stage.send(0)
    await stage.model.arrived(1)
    await stage.send(1)
    await stage.model.arrived(2)  # the only slot was the first one's
    await stage.send(2)
    stage.tool.go_on.set()
    assert (await stage.end_of(0)).stop_reason == "end_turn"
    assert stage.worker.waiting == 1, "two ran for a while, so the end of one of them makes no room"
    scripts.append([say("At last.")])
    await stage.inputs.interrupt(OWNER, "a", "s1", lambda found: None)
    assert (await stage.end_of(2)).stop_reason == "end_turn"
    assert stage.worker._slots.running == 0


async def test_what_another_server_does_reaches_a_turn_that_waits(stage: Stage) -> None:
    await stage.open(4)
    for number in range(4):
        await stage.send(number)
    ids = [(await stage.store.get_session(SessionRef(TENANT, "a", f"s{number}"))).id for number in range(4)]
    assert stage.worker.concerned([*ids, 999]) == set(ids)
    await stage.store.interrupt(SessionRef(TENANT, "a", "s1"))
    await stage.store.delete_session(SessionRef(TENANT, "a", "s2"), None)
    await stage.worker.look(ids[1:3])
    assert (await stage.end_of(1)).stop_reason == "interrupted"
    assert (stage.worker.waiting, len(stage.model.calls)) == (1, 1)
    agent = (await stage.store.get_agent(TENANT, "a")).id
    stage.worker.close_agent(agent)
    assert stage.worker.waiting == 0
