"""What holds when a fault strikes: kills at every commit, stalls, models that break, lost wake-ups, a full disk."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from incarnation import AGENT, OWNER, Incarnation, ToolBox
from log_rules import problems
from sessile.config import ToolConfig
from sessile.live.tail import Tail
from sessile.ports import Clock, ModelFault, ModelRequest
from sessile.rows import Claim, Once, Rejoined
from sessile.service.inputs import parse
from sessile.testing.clock import FakeClock
from sessile.testing.faults import FaultyModel, ShiftedClock, When, fill_disk, free_disk
from sessile.testing.script import Step, call, say, think, wait_for, words
from sessile.testing.scripted_model import ScriptedModel, ScriptedModels
from sessile.tools.python import PythonTool
from sessile.wire.errors import StorageUnavailable
from sessile.wire.sessions import CreateSessionRequest

PATIENCE = 20.0
WORDS = words("One two three four.")
BROKEN = ModelFault("model_unavailable", "It broke off.", retryable=True)
KEY = Once("k", b"the request")
SESSION = "s"


class Counted:
    """A tool that counts how often it was started."""

    def __init__(self) -> None:
        self.starts = 0

    async def work(self) -> str:
        """Work."""
        self.starts += 1
        return "done"


class World:
    """A database, a model and a tool, and one incarnation of the server after the other."""

    def __init__(self, folder: Path, clock: Clock | None = None, *, idempotent: bool = False) -> None:
        self.folder = folder
        self.clock = clock or FakeClock()
        self.scripted = ScriptedModel(self._decide)
        self.model = FaultyModel(self.scripted)
        self.counted = Counted()
        config = ToolConfig(function="work", idempotent=idempotent)
        self.tools = ToolBox({"work": PythonTool("work", config, self.counted.work)})
        self.answers: list[Sequence[Step]] = []
        """What the model says at its first call in a turn, at its second and so on."""
        self.lives: list[Incarnation] = []

    @property
    def now(self) -> Incarnation:
        """The latest incarnation."""
        return self.lives[-1]

    def _decide(self, request: ModelRequest) -> Sequence[Step]:
        kinds = [type(message).__name__ for message in request.messages]
        turn = kinds[::-1].index("UserMessage")
        return self.answers[kinds[len(kinds) - turn :].count("ToolMessage")]

    async def begin(self) -> None:
        self.lives.append(await Incarnation.first(self.folder, ScriptedModels(self.model), self.tools, self.clock))
        await self.now.sessions.create(OWNER, AGENT, CreateSessionRequest(key=SESSION))

    async def next(self) -> Incarnation:
        """The next incarnation, which has taken up what the one before left."""
        self.lives.append(Incarnation(self.now.database, ScriptedModels(self.model), self.tools, self.clock, 0.01))
        await self.now.worker.recover()
        return self.now

    async def post(self, once: Once | None = None) -> Claim | Rejoined:
        claim, tail = await self.now.inputs.accept(
            OWNER, AGENT, SESSION, parse({"content": "Go."}), lambda claim: self.follow(claim.session.id), once
        )
        tail.close()
        return claim

    def follow(self, session_id: int) -> Tail:
        return self.now.hub.follow(session_id, 0)

    async def ended(self, turns: int = 1) -> list[dict[str, Any]]:
        """The log, once so many turns have ended; nothing is wrong with it."""
        async with asyncio.timeout(PATIENCE):
            while types(log := await self.now.log(SESSION)).count("turn_ended") < turns:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert problems(log) == []
        return log


@asynccontextmanager
async def world_of(folder: Path, clock: Clock | None = None, *, idempotent: bool = False) -> AsyncIterator[World]:
    world = World(folder, clock, idempotent=idempotent)
    world.answers = [[think("Hm."), say("I do it. "), call("work", {}, "c1")], [say("It is done.")]]
    await world.begin()
    yield world
    for life in world.lives:
        await life.kill()
    await world.now.database.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def pass_time(world: World) -> None:
    """Let a while pass, once somebody waits for that."""
    clock = world.clock
    assert isinstance(clock, FakeClock)
    await until(lambda: clock.sleepers)
    await clock.advance(60)


def types(log: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in log]


COMMITS = ("the input", "the tool call", "its output", "the end")
DONE = ["input_message", "turn_started", "thinking", "agent_output", "tool_input", "tool_output"]
DONE += ["agent_output", "turn_ended"]


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("commit", range(1, len(COMMITS) + 1))
async def test_a_kill_at_any_commit_of_a_turn(tmp_path: Path, commit: int, when: When, idempotent: bool) -> None:
    async with world_of(tmp_path, idempotent=idempotent) as world:
        world.now.life.kill_at(commit, when)
        accepted = True
        try:
            await world.post(KEY)
        except asyncio.CancelledError:
            accepted = False
        assert accepted == (commit > 1)
        await until(lambda: world.now.life.killed)
        await world.now.kill()
        await world.next()
        claim = await world.post(KEY)
        assert isinstance(claim, Rejoined) == ((commit, when) != (1, "before")), "an input is taken once"
        log = await world.ended()
        assert types(log) == DONE
        never_started, ran = (commit, when) == (2, "after"), (commit, when) == (3, "before")
        assert log[5]["error"] == ((never_started or ran) and not idempotent)
        assert world.counted.starts == (1 + ran if idempotent else 1 - never_started)
        assert log[-1]["stop_reason"] == "end_turn"


async def test_a_stalled_worker_that_wakes_up_changes_nothing(world: World) -> None:
    stalled = world.now
    stalled.life.stall()
    await world.post()
    await until(lambda: stalled.life.stalled)
    await world.next()
    log = await world.ended()
    stalled.life.resume()
    await stalled.worker.drain(0, PATIENCE)
    assert await world.now.log(SESSION) == log
    assert types(log) == DONE


@pytest.mark.parametrize("after", range(len(WORDS) + 1))
async def test_a_model_that_breaks_off_after_any_delta(world: World, after: int) -> None:
    world.answers = [[say("".join(WORDS))]]
    world.model.fail(after, BROKEN)
    await world.post()
    if not after:  # nothing was shown, so the call is made again, after a while
        await pass_time(world)
    log = await world.ended()
    assert log[2]["content"] == "".join(WORDS[:after] or WORDS)
    assert log[2].get("partial", False) == bool(after)
    assert log[-1]["usage"]["model_calls"] == (1 if after else 2)
    assert (log[-1]["error"] or {}).get("code") == ("model_unavailable" if after else None)


@pytest.mark.parametrize("after", range(len(WORDS) + 1))
async def test_a_model_that_hangs_after_any_delta_can_be_interrupted(world: World, after: int) -> None:
    world.answers = [[say("".join(WORDS))]]
    world.model.hang(after)
    await world.post()
    await asyncio.wait_for(world.model.hanging.wait(), PATIENCE)
    await world.now.inputs.interrupt(OWNER, AGENT, SESSION, lambda found: None)
    log = await world.ended()
    partial = [(event["content"], event["partial"]) for event in log if event["type"] == "agent_output"]
    assert partial == ([("".join(WORDS[:after]), True)] if after else [])
    assert log[-1]["stop_reason"] == "interrupted"


async def test_announcements_that_never_arrive_are_made_up_for_at_the_heartbeat(world: World) -> None:
    world.now.sink.lose(100)
    session = await world.now.sessions.get(OWNER, AGENT, SESSION)
    tail = world.follow(session.id)
    await world.post()
    seen: list[int] = []
    async with asyncio.timeout(PATIENCE):
        while len(seen) < len(DONE):
            seen += [node.entry.sequence for node in await tail.next() if node.entry]
    tail.close()
    assert world.now.sink.lost == len(COMMITS)
    assert seen == [event["sequence"] for event in await world.ended()]


async def test_a_clock_that_goes_back_changes_no_order(tmp_path: Path) -> None:
    clock = ShiftedClock(FakeClock())
    async with world_of(tmp_path, clock) as world:
        first = await world.post(KEY)
        await world.ended()
        clock.shift(-3 * 86_400)
        again = await world.post(KEY)
        assert isinstance(again, Rejoined)
        assert again.turn_id == first.turn_id, "a key is not forgotten sooner"
        await world.post()
        log = await world.ended(2)
        assert types(log) == DONE + DONE
        assert log[len(DONE)]["created_at"] < log[0]["created_at"]


async def test_a_turn_outlives_a_full_disk(world: World) -> None:
    gate = asyncio.Event()
    world.answers = [[wait_for(gate), say("x" * 200_000, whole=True)]]
    await world.post()
    await fill_disk(world.now.database)
    gate.set()
    clock = world.clock
    assert isinstance(clock, FakeClock)
    await until(lambda: clock.sleepers)  # it waits for the store
    assert types(await world.now.log(SESSION)) == ["input_message", "turn_started"]
    with pytest.raises(StorageUnavailable):
        await world.now.sessions.create(OWNER, AGENT, CreateSessionRequest(key="x", metadata={"x": "y" * 60_000}))
    await free_disk(world.now.database)
    await pass_time(world)
    log = await world.ended()
    assert types(log) == ["input_message", "turn_started", "agent_output", "turn_ended"]
