"""Agents that ask other agents, on a server that is killed at any commit, stalls, or loses what it was told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from incarnation import OWNER, Incarnation, ToolBox
from log_rules import problems
from sessile.clock import SystemClock
from sessile.domain.log import Entry
from sessile.domain.messages import ToolMessage
from sessile.ports import CallsTooDeep, ModelRequest, ToolFault, TooManyCalls
from sessile.rows import Claim, EventQuery, NewSession, SessionRef, SubCall
from sessile.service.inputs import parse
from sessile.service.sub_agents import SubAgentSessions
from sessile.testing.faults import When
from sessile.testing.script import Step, call, hang, say
from sessile.testing.scripted_model import ScriptedModel, ScriptedModels
from sessile.testing.store_contract_sub_turns import by, fresh
from sessile.testing.store_world import accept
from sessile.tools.sub_agent import SubAgentTool
from sessile.wire.errors import StorageUnavailable
from sessile.wire.sessions import CreateSessionRequest

PATIENCE = 20.0
HELPER, LEAD, SESSION = "helper", "lead", "s"
COMMITS = ("the input", "the call", "the input below", "the end below", "the output", "the end")
ASKS = {"type": "sub_agent", "sub_agent_configuration": {"agent_key": HELPER}}


def nothing(entry: Entry) -> None:
    """Show nobody anything."""


class World:
    """An agent that asks another one, and one incarnation of the server after the other."""

    def __init__(self) -> None:
        self.model = ScriptedModel(self._decide)
        self.below: Sequence[Step] = [say("42.")]
        """What the asked agent says."""
        self.clock = SystemClock()
        self.lives: list[Incarnation] = []
        self.agents: list[SubAgentSessions] = []

    def _decide(self, request: ModelRequest) -> Sequence[Step]:
        if isinstance(request.messages[-1], ToolMessage):
            return [say("They say so.")]
        return [call("ask", {"message": "What is it?"}, "c1")] if request.tools else self.below

    @property
    def now(self) -> Incarnation:
        """The latest incarnation."""
        return self.lives[-1]

    def _equip(self, life: Incarnation, tools: dict[str, Any]) -> None:
        agents = SubAgentSessions(life.store, life.queue, life.sink, life.hub.entries, life.inputs, self.clock)
        tools["ask"] = SubAgentTool(agents, ASKS)
        self.lives.append(life)
        self.agents.append(agents)

    async def begin(self, folder: Path) -> None:
        tools: dict[str, Any] = {}
        life = await Incarnation.first(folder, ScriptedModels(self.model), ToolBox(tools), self.clock)
        self._equip(life, tools)
        body = {"name": "A", "model": {"name": "scripted"}}
        await life.agents.create(OWNER, {"key": HELPER, **body})
        await life.agents.create(OWNER, {"key": LEAD, "tool_configurations": {"ask": ASKS}, **body})
        await life.sessions.create(OWNER, LEAD, CreateSessionRequest(key=SESSION))

    async def next(self) -> None:
        """The next incarnation, which has taken up what the one before left."""
        tools: dict[str, Any] = {}
        models = ScriptedModels(self.model)
        self._equip(Incarnation(self.now.database, models, ToolBox(tools), self.clock, 0.01), tools)
        await self.now.worker.recover()

    async def post(self) -> Any:
        return await self.now.inputs.accept(OWNER, LEAD, SESSION, parse({"content": "Go."}), lambda claim: claim)

    async def log(self, agent: str, session: str) -> list[dict[str, Any]]:
        query = EventQuery(limit=100, records=True, include_hidden=True)
        page = await self.now.database.list_events(SessionRef(1, agent, session), query)
        return [msgspec.json.decode(entry.json) for entry in page.rows]

    async def children(self) -> list[str]:
        page = await self.now.database.list_sessions(1, HELPER, cursor=None, limit=100)
        return [row.key for row in page.rows]

    async def ended(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The log of the one who asks and the only log of the one who is asked, once both turns have ended."""
        async with asyncio.timeout(PATIENCE):
            while True:
                above = await self.log(LEAD, SESSION)
                below = [await self.log(HELPER, key) for key in await self.children()]
                if all(log and log[-1]["type"] == "turn_ended" for log in (above, *below)):
                    break
                await asyncio.sleep(0.002)
        (only,) = below
        assert problems(above) == problems(only) == []
        return above, only


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    world = World()
    await world.begin(folder)
    yield world
    for life in world.lives:
        await life.kill()
    await world.now.database.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def types(log: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in log if event["type"] not in ("turn_started", "turn_ended")]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("commit", range(2, len(COMMITS) + 1))
async def test_a_kill_at_any_commit_asks_once(world: World, commit: int, when: When) -> None:
    world.now.life.kill_at(commit, when)
    await world.post()
    await until(lambda: world.now.life.killed)
    await world.now.kill()
    await world.next()
    above, below = await world.ended()
    assert types(above) == ["input_message", "tool_input", "tool_output", "agent_output"]
    assert types(below) == ["input_message", "agent_output"]
    (output,) = [event for event in above if event["type"] == "tool_output"]
    assert output["tool_output"]["sub_agent_response"] == "42."
    assert [log[-1]["stop_reason"] for log in (above, below)] == ["end_turn"] * 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_at_the_commit_of_an_interrupt_stops_both_or_neither(world: World, when: When) -> None:
    world.below = [say("Well"), hang()]
    await world.post()
    await asyncio.wait_for(world.model.arrived(2), PATIENCE)
    await until(lambda: not world.now.life.busy)
    world.now.life.kill_at(1, when)
    with pytest.raises(asyncio.CancelledError):
        await world.now.inputs.interrupt(OWNER, LEAD, SESSION, lambda found: found)
    await world.now.kill()
    world.below = [say("42.")]
    await world.next()
    above, below = await world.ended()
    expected = "end_turn" if when == "before" else "interrupted"
    assert [log[-1]["stop_reason"] for log in (above, below)] == [expected] * 2


async def test_a_worker_that_stalls_in_a_call_asks_once(world: World) -> None:
    stalled = world.now
    stalled.life.stall("start_sub_turn")
    await world.post()
    await until(lambda: stalled.life.stalled)
    await world.next()
    above, below = await world.ended()
    stalled.life.resume()
    await stalled.worker.drain(0, PATIENCE)
    assert await world.ended() == (above, below)
    assert types(below) == ["input_message", "agent_output"]


async def test_a_call_that_is_cancelled_as_it_starts_has_started(world: World) -> None:
    """The turn was durable before its caller could know: it runs, and the same call again finds it."""
    world.below = [hang()]
    above = await parent(world)
    asked = asyncio.create_task(world.agents[-1].ask(by(above), fresh(), "What?", nothing))
    await until(lambda: asked.done() or world.now.life.busy)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.wait_for(world.model.arrived(1), PATIENCE)
    assert await world.children() == ["sub"]
    again = asyncio.create_task(world.agents[-1].ask(by(above), fresh("other"), "What?", nothing))
    await world.now.inputs.interrupt(OWNER, HELPER, "sub", lambda found: found)
    with pytest.raises(ToolFault) as told:
        await asyncio.wait_for(again, PATIENCE)
    assert told.value.code == "sub_agent_failed"
    assert await world.children() == ["sub"]


async def test_a_call_waits_for_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be stored, a call is neither lost nor refused."""
    above = await parent(world)
    agents, asked = world.agents[-1], asyncio.Event()
    working = world.now.database.start_sub_turn

    async def broken(*arguments: Any) -> Any:
        asked.set()
        monkeypatch.setattr(world.now.database, "start_sub_turn", working)
        raise StorageUnavailable

    monkeypatch.setattr(world.now.database, "start_sub_turn", broken)
    told = await asyncio.wait_for(agents.ask(by(above), fresh(), "What?", nothing), PATIENCE)
    assert asked.is_set()
    assert (told.session_key, told.answer) == ("sub", "42.")


async def test_a_call_of_a_turn_that_is_interrupted_meanwhile_starts_nothing(world: World) -> None:
    above = await parent(world)
    await world.now.database.interrupt(SessionRef(1, LEAD, SESSION))
    with pytest.raises(ToolFault) as told:
        await world.agents[-1].ask(by(above), fresh(), "What?", nothing)
    assert told.value.code == "turn_interrupted"
    assert await world.children() == []


@pytest.mark.parametrize(
    ("refusal", "code"), [(CallsTooDeep, "sub_agent_too_deep"), (TooManyCalls, "sub_agent_too_many")]
)
async def test_a_call_beyond_a_limit_is_told_which(
    world: World, monkeypatch: pytest.MonkeyPatch, refusal: type[Exception], code: str
) -> None:
    above = await parent(world)

    async def refuse(*arguments: Any) -> Any:
        raise refusal

    monkeypatch.setattr(world.now.database, "start_sub_turn", refuse)
    with pytest.raises(ToolFault) as told:
        await world.agents[-1].ask(by(above), fresh(), "What?", nothing)
    assert told.value.code == code


async def test_a_deleted_answer_is_told_to_nobody(world: World) -> None:
    above = await parent(world)
    asking: tuple[SubCall, NewSession] = (by(above), fresh())
    assert (await world.agents[-1].ask(*asking, "What?", nothing)).answer == "42."
    (output,) = [event for event in await world.log(HELPER, "sub") if event["type"] == "agent_output"]
    await world.now.database.delete_event(SessionRef(1, HELPER, "sub"), output["id"])
    shown: list[Entry] = []
    with pytest.raises(ToolFault) as told:
        await world.agents[-1].ask(*asking, "What?", shown.append)
    assert told.value.code == "sub_agent_failed"
    assert [entry.type for entry in shown] == ["input_message"]


async def parent(world: World) -> Claim:
    """A turn that runs and does nothing, as far as the store knows."""
    return await accept(world.now.database, SessionRef(1, LEAD, SESSION))
