"""Leases of turns, with two workers on one store: who stalls loses its turns, and changes nothing when it wakes up."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from integration.test_turns import OWNER, Harness, last, types
from sessile.domain.log import Entry
from sessile.rows import LEASE_SECONDS, Claim, Fence, SessionRef
from sessile.runner.worker import MAX_TAKES
from sessile.service.events import Events
from sessile.service.inputs import parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.script import call, hang, say, wait_for
from sessile.testing.scripted_model import ScriptedModel
from sessile.wire.errors import StorageUnavailable
from sessile.wire.sessions import CreateSessionRequest

PATIENCE = 20.0


class Pair:
    """Two workers, each with a model of its own, and the clock of their store."""

    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self.clock = clock
        self.first = Harness(store, ScriptedModel())
        self.second = self.first.other()

    async def ended(self) -> list[Entry]:
        """The log, once no turn runs; it must hold every rule."""
        store = self.first.store
        async with asyncio.timeout(PATIENCE):
            while (await store.get_session(self.first.ref)).status == "running":  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        check = await Events(store).check(OWNER, "a", "s")
        assert check.ok, check
        return await self.first.log()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    clock = FakeClock()
    store = await SqliteStore.open(tmp_path / "s.db", clock)
    await store.create_tenant("default", "Default")
    made = Pair(store, clock)
    await made.first.create()
    yield made
    await made.first.drain()
    await store.close()


async def idle(harness: Harness) -> None:
    """Wait until a worker runs nothing."""
    async with asyncio.timeout(PATIENCE):
        while harness.worker._running:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def test_a_worker_that_stalls_loses_its_turn_and_changes_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, renew, blocked = asyncio.Event(), pair.first.store.renew, asyncio.Event()

    async def stalled(fences: Collection[Fence]) -> Collection[Fence]:
        blocked.set()
        await go_on.wait()
        return await renew(fences)

    pair.first.model.add(say("From the first"), wait_for(go_on), say(", too late."))
    pair.second.model.add(say("From the second."))
    await pair.first.post()
    await pair.first.model.arrived(1)
    monkeypatch.setattr(pair.first.store, "renew", stalled)
    tending = asyncio.create_task(pair.first.worker.tend_leases())
    async with asyncio.timeout(PATIENCE):
        await blocked.wait()
    await pair.clock.advance(LEASE_SECONDS)
    await pair.second.worker.tend_leases()
    log = await pair.ended()
    go_on.set()
    await tending
    await idle(pair.first)
    assert await pair.ended() == log
    assert types(log) == ["input_message", "turn_started", "agent_output", "turn_ended"]
    assert log[2].event().content == "From the second."  # type: ignore[union-attr]
    assert last(log).error is None
    assert not any(channel.running for channel in pair.first.hub._channels.values()), "it runs there no more"


async def test_a_worker_that_wakes_up_without_asking_is_refused(pair: Pair) -> None:
    """It does not look after its leases at all: the fence alone must hold."""
    go_on = asyncio.Event()
    pair.first.model.add(wait_for(go_on), call("add", {"a": 1, "b": 2})).add(say("Never."))
    pair.second.model.add(say("From the second."))
    await pair.first.post()
    await pair.first.model.arrived(1)
    await pair.clock.advance(LEASE_SECONDS)
    await pair.second.worker.tend_leases()
    log = await pair.ended()
    go_on.set()
    await idle(pair.first)
    assert await pair.ended() == log
    assert types(log).count("turn_ended") == 1
    assert len(pair.first.model.calls) == 1


async def test_a_turn_that_is_lost_is_stopped(pair: Pair) -> None:
    pair.first.model.add(hang())
    pair.second.model.add(say("From the second."))
    await pair.first.post()
    model_call = await pair.first.model.arrived(1)
    await pair.clock.advance(LEASE_SECONDS)
    await pair.second.worker.tend_leases()
    await pair.first.worker.tend_leases()
    async with asyncio.timeout(PATIENCE):
        await model_call.closed.wait()
    await idle(pair.first)
    assert last(await pair.ended()).stop_reason == "end_turn"


async def test_a_renewed_turn_is_left_alone(pair: Pair) -> None:
    go_on = asyncio.Event()
    pair.first.model.add(wait_for(go_on), say("From the first."))
    await pair.first.post()
    await pair.first.model.arrived(1)
    for _ in range(4):
        await pair.clock.advance(LEASE_SECONDS * 2 / 3)
        await pair.first.worker.tend_leases()
        await pair.second.worker.tend_leases()
    await pair.clock.advance(10 * LEASE_SECONDS)
    await pair.first.worker.tend_leases()
    await pair.second.worker.tend_leases()
    go_on.set()
    assert (await pair.ended())[2].event().content == "From the first."  # type: ignore[union-attr]
    assert pair.second.model.calls == []


@pytest.mark.parametrize("late", [False, True])
async def test_a_lost_hand_off_costs_a_lease(pair: Pair, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """The claim never comes, or it comes when the turn was taken up by the same worker."""
    claims: list[Claim] = []
    submit = pair.first.worker.submit
    monkeypatch.setattr(pair.first.worker, "submit", claims.append)
    go_on = asyncio.Event()
    pair.first.model.add(wait_for(go_on), say("At last."))
    await pair.first.post()
    await pair.first.worker.tend_leases()
    assert pair.first.model.calls == []
    await pair.clock.advance(LEASE_SECONDS)
    await pair.first.worker.tend_leases()
    await pair.first.model.arrived(1)
    if late:
        submit(claims[0])
    go_on.set()
    log = await pair.ended()
    assert types(log) == ["input_message", "turn_started", "agent_output", "turn_ended"]
    assert len(pair.first.model.calls) == 1


async def test_a_hand_off_that_comes_when_the_next_turn_runs_changes_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[Claim] = []
    with monkeypatch.context() as patched:
        patched.setattr(pair.first.worker, "submit", claims.append)
        await pair.first.post()
    pair.first.model.add(say("At last.")).add(hang())
    await pair.clock.advance(LEASE_SECONDS)
    await pair.first.worker.tend_leases()
    await pair.ended()
    await pair.first.post("The next")
    running = await pair.first.model.arrived(2)
    pair.first.worker.submit(claims[0])
    for _ in range(3):  # what it would do, it would do at once
        await asyncio.sleep(0.005)
    await pair.first.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    async with asyncio.timeout(PATIENCE):
        await running.closed.wait()
    assert last(await pair.ended()).stop_reason == "interrupted"
    assert len(pair.first.model.calls) == 2


async def test_a_take_over_closes_open_tool_calls_as_a_start_does(pair: Pair) -> None:
    pair.first.model.add(call("add", {"a": 1, "b": 2})).add(hang())
    pair.second.model.add(say("Three."))
    await pair.first.post()
    await pair.first.model.arrived(2)
    await pair.clock.advance(LEASE_SECONDS)
    await pair.second.worker.tend_leases()
    log = await pair.ended()
    assert types(log)[2:] == ["tool_input", "tool_output", "agent_output", "turn_ended"]


async def test_too_many_take_overs_close_the_turn(pair: Pair) -> None:
    pair.first.model.add(hang())
    await pair.first.post()
    for _ in range(MAX_TAKES):
        await pair.clock.advance(LEASE_SECONDS)
        await pair.first.store.take_expired_turns()
    assert (await pair.first.store.get_session(pair.first.ref)).status == "running"
    await pair.clock.advance(LEASE_SECONDS)
    await pair.second.worker.tend_leases()
    assert last(await pair.ended()).error.code == "server_restarted"


async def test_a_turn_that_is_gone_before_it_is_closed_keeps_no_other_from_being_taken_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair.first, pair.second
    await first.sessions.create(OWNER, "a", CreateSessionRequest(key="other"))
    monkeypatch.setattr(first.worker, "submit", lambda claim: None)
    await first.post()
    await first.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    await first.inputs.accept(OWNER, "a", "other", parse({"content": "Hello"}), lambda claim: None)
    take = second.store.take_expired_turns

    async def take_and_delete(limit: int | None = None) -> list[Claim]:
        claims = await take(limit)
        await first.sessions.delete(OWNER, "a", "s", None)
        return claims

    monkeypatch.setattr(second.store, "take_expired_turns", take_and_delete)
    second.model.add(say("Here."))
    await pair.clock.advance(LEASE_SECONDS)
    await second.worker.tend_leases()
    await second.model.arrived(1)
    await idle(second)
    ref = SessionRef(1, "a", "other")
    assert (await second.store.get_session(ref)).stop_reason == "end_turn"


async def test_nothing_is_written_while_nothing_runs(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(verb: Any) -> Any:
        raise AssertionError("a commit that nobody needs")

    monkeypatch.setattr(pair.first.store._writer, "run", never)
    await pair.first.worker.tend_leases()


async def test_a_keeper_looks_when_a_lease_of_somebody_else_runs_out(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    expiries = iter([None, LEASE_SECONDS, 0.4 * LEASE_SECONDS / 3, -LEASE_SECONDS])

    async def next_expiry() -> float | None:
        return next(expiries)

    worker = pair.second.worker
    monkeypatch.setattr(worker._env.clock, "sleep", sleep)
    monkeypatch.setattr(worker._env.store, "next_expiry", next_expiry)
    with pytest.raises(asyncio.CancelledError):
        await worker.keep_leases(LEASE_SECONDS)
    third = LEASE_SECONDS / 3
    assert pauses == [third, third, third, pytest.approx(0.4 * third), LEASE_SECONDS / 50]


async def test_a_store_that_is_away_does_not_end_the_keeper(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [StorageUnavailable(), ValueError("a defect")]
    tended = asyncio.Event()
    clock = FakeClock()

    async def tend() -> None:
        if failures:
            raise failures.pop(0)
        tended.set()

    worker = pair.first.other().worker
    monkeypatch.setattr(worker, "tend_leases", tend)
    monkeypatch.setattr(worker._env.clock, "sleep", clock.sleep)
    keeper = asyncio.create_task(worker.keep_leases(LEASE_SECONDS))
    for _ in range(3):
        await asyncio.sleep(0)
        assert not tended.is_set()
        await clock.advance(LEASE_SECONDS / 3)
    async with asyncio.timeout(PATIENCE):
        await tended.wait()
    keeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeper
