"""Turns that wait for client tools, on a real store: what races and faults leave in the log."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from integration.test_turns import OWNER, Harness, last, recovered, types
from sessile.clock import SystemClock
from sessile.live.tail import Tail
from sessile.rows import Answered, Interruption
from sessile.service.inputs import parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.script import call, say
from sessile.testing.scripted_model import ScriptedModel
from sessile.wire.errors import StorageUnavailable

TOOLS = {"add": {"type": "lambda"}, "ask": {"type": "client", "tool_id": "tol_ask"}}
PATIENCE = 20


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    await store.create_tenant("default", "Default")
    made = Harness(store, ScriptedModel())
    await made.create(tool_configurations=TOOLS)
    yield made
    await made.drain()
    await store.close()


async def parked(harness: Harness) -> list[str]:
    """Post an input whose turn waits for a client; returns the calls that wait."""
    harness.model.add(call("ask", {}, "c1"))
    await until(await harness.post(), "client_tool_pending")
    return await waiting(harness)


async def waiting(harness: Harness) -> list[str]:
    return [entry.id for entry in await harness.store.outstanding_calls(harness.ref)]


async def until(tail: Tail, type: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not any(node.entry and node.entry.type == type for node in await tail.next()):
            pass


async def answer(harness: Harness, *event_ids: str) -> Tail:
    outputs = [{"type": "success", "event_id": event_id, "output": {"ok": True}} for event_id in event_ids]

    def attach(found: Any) -> Tail:
        assert isinstance(found, Answered)
        return harness.hub.follow(found.session.id, found.opened[-1].sequence)

    request: Any = parse({"type": "tool_output", "tool_outputs": outputs})
    return (await harness.inputs.answer_calls(OWNER, "a", "s", request, attach))[1]


async def interrupt(harness: Harness) -> Tail:
    def attach(found: Interruption) -> Tail:
        return harness.hub.follow(found.session.id, found.session.last_sequence)

    tail = (await harness.inputs.interrupt(OWNER, "a", "s", attach))[1]
    assert tail is not None
    return tail


async def test_an_interrupt_that_is_recorded_before_the_turn_parks(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    parking, go_on, park = asyncio.Event(), asyncio.Event(), harness.store.park

    async def slowly(*arguments: Any) -> Any:
        parking.set()
        await go_on.wait()
        return await park(*arguments)

    monkeypatch.setattr(harness.store, "park", slowly)
    harness.model.add(call("add", {"a": 1, "b": 1}, "c1"), call("ask", {}, "c2"))
    posting = await harness.post()
    await parking.wait()
    interrupting = await interrupt(harness)
    go_on.set()
    entries = await harness.until_ended(interrupting)
    ended = ["tool_input", "tool_input", "tool_output", "tool_output", "session_interrupted", "turn_ended"]
    assert types(entries)[2:] == ended
    assert [entry.event().tool_output.get("code") for entry in entries[4:6]] == [None, "turn_interrupted"]
    assert last(entries).stop_reason == "interrupted"
    posting.close()


async def test_an_interrupt_that_comes_while_the_turn_parks(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    parked, go_on, park = asyncio.Event(), asyncio.Event(), harness.store.park

    async def slowly(*arguments: Any) -> Any:
        entries = await park(*arguments)
        parked.set()
        await go_on.wait()
        return entries

    monkeypatch.setattr(harness.store, "park", slowly)
    harness.model.add(call("ask", {}, "c1"))
    await harness.post()
    await parked.wait()
    entries = await harness.until_ended(await interrupt(harness))
    go_on.set()
    assert types(entries)[3:] == ["client_tool_pending", "tool_output", "session_interrupted", "turn_ended"]
    harness.model.add(say("Fine."))
    assert last(await harness.turn("Again")).stop_reason == "end_turn"


async def test_a_store_that_fails_while_the_turn_parks_is_waited_for(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, park = [StorageUnavailable()], harness.store.park

    async def fail_once(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await park(*arguments)

    monkeypatch.setattr(harness.store, "park", fail_once)
    (event_id,) = await parked(harness)
    harness.model.add(say("Fine."))
    assert last(await harness.until_ended(await answer(harness, event_id))).stop_reason == "end_turn"


async def test_a_log_that_cannot_be_read_is_waited_for(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    (event_id,) = await parked(harness)
    failures, read_log = [StorageUnavailable()], harness.store.read_log

    async def fail_once(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await read_log(*arguments)

    monkeypatch.setattr(harness.store, "read_log", fail_once)
    harness.model.add(say("Fine."))
    entries = await harness.until_ended(await answer(harness, event_id))
    assert types(entries)[-3:] == ["tool_output", "agent_output", "turn_ended"]


async def test_a_drain_leaves_a_turn_whose_log_cannot_be_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event_id,) = await parked(harness)
    asked = asyncio.Event()

    async def refuse(*_: Any) -> Any:
        asked.set()
        raise StorageUnavailable

    monkeypatch.setattr(harness.store, "read_log", refuse)
    await answer(harness, event_id)
    await asked.wait()
    await harness.worker.drain(0, PATIENCE)
    monkeypatch.undo()
    assert types(await harness.log())[-1] == "tool_output"
    other = harness.other()
    other.model.add(say("Fine."))
    assert last(await recovered(other)).stop_reason == "end_turn"


async def test_a_parked_turn_holds_no_task(harness: Harness) -> None:
    await parked(harness)
    assert harness.worker._running == {}
    other = harness.other()
    assert await other.worker.recover() == 0
    await harness.worker.drain(60, PATIENCE)


async def test_a_model_call_count_goes_on_over_a_wait(harness: Harness) -> None:
    for _ in range(2):
        harness.model.add(call("add", {"a": 1, "b": 1}))
    harness.model.add(call("ask", {}))
    await until(await harness.post(), "client_tool_pending")
    entries = await harness.until_ended(await answer(harness, *await waiting(harness)))
    assert (last(entries).stop_reason, last(entries).usage.model_calls) == ("limit", 3)
