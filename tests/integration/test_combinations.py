"""Inputs that wait, client tools, leases and stops together, on a real store: what one of them makes of the others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from integration.test_client_tools import TOOLS, answer, interrupt, parked, until, waiting
from integration.test_turns import OWNER
from integration.test_waiting import PATIENCE, Room, said, types, user_texts
from sessile.api.queued_answer import Awaited, QueuedAnswer
from sessile.domain.messages import AssistantMessage, ToolMessage, UserMessage
from sessile.rows import LEASE_SECONDS, Claim, Queued
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.script import call, say
from sessile.testing.scripted_model import ScriptedModel
from sessile.wire.errors import NotFound, ToolCallNotOutstanding
from sessile.wire.inputs import Behavior

ENDED = ["tool_output", "session_interrupted", "turn_ended"]
NEXT = ["input_message", "turn_started", "agent_output", "turn_ended"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def room(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Room]:
    store = await SqliteStore.open(tmp_path / "s.db", clock)
    await store.create_tenant("default", "Default")
    made = Room(store, ScriptedModel())
    await made.create(tool_configurations=TOOLS)
    yield made
    await made.drain()
    await store.close()


async def test_a_steering_input_of_a_parked_turn_is_read_after_the_outputs(room: Room) -> None:
    room.model.add(call("ask", {}, "c1"), call("ask", {}, "c2"))
    await until(await room.post("Ask."), "client_tool_pending")
    accepted, source = await room.queue("In words!", "steer")
    first, second = await waiting(room)
    (await answer(room, first)).close()
    assert types(await room.log())[-2:] == ["tool_output", "client_tool_pending"]
    room.model.add(say("Fine."))
    (await answer(room, second)).close()
    told = await room.told(accepted, source)
    entries = await room.stopped()
    assert types(entries)[-4:] == ["tool_output", "input_message", "agent_output", "turn_ended"]
    assert len({entry.turn_id for entry in entries}) == 1
    messages = room.model.calls[1].request.messages
    assert list(map(type, messages)) == [UserMessage, AssistantMessage, ToolMessage, ToolMessage, UserMessage]
    assert user_texts(room.model, 2) == ["Ask.", "In words!"]
    assert [event["content"] for event in told["events"]] == ["In words!", "Fine."]
    assert (told["stop_reason"], told["turn_id"]) == ("end_turn", entries[0].turn_id)


@pytest.mark.parametrize("behavior", ["steer", "follow_up"])
async def test_an_interrupt_of_a_parked_turn_starts_the_next_input(room: Room, behavior: Behavior) -> None:
    (event_id,) = await parked(room)
    accepted, source = await room.queue("Next", behavior)
    last, _ = await room.queue("Last")
    room.model.add(say("next")).add(say("last"))
    (await interrupt(room)).close()
    told = await room.told(accepted, source)
    entries = await room.stopped()
    assert types(entries)[4:] == [*ENDED, *NEXT, *NEXT]
    assert [event["content"] for event in told["events"]] == ["Next", "next"]
    assert (told["stop_reason"], told["turn_id"]) == ("end_turn", entries[7].turn_id)
    assert isinstance(last, Queued)
    assert entries[-1].turn_id == last.input.turn_id
    with pytest.raises(ToolCallNotOutstanding):
        await answer(room, event_id)


async def test_a_polite_stop_leaves_a_parked_turn_and_all_that_waits_for_it(room: Room) -> None:
    (event_id,) = await parked(room)
    steering, source = await room.queue("Steer", "steer")
    await room.queue("Next")
    await room.worker.drain(60, PATIENCE)
    room.hub.drain()
    told = await room.told(steering, source)
    assert (told["status"], told["reason"], told["events"]) == ("running", "drain", [])
    other = Room(room.store, ScriptedModel().add(say("one")).add(say("two")))
    assert await other.worker.recover() == 0
    assert await waiting(other) == [event_id]
    assert [input.behavior for input in await other.inputs.waiting(OWNER, "a", "s")] == ["steer", "follow_up"]
    (await answer(other, event_id)).close()
    entries = await other.stopped()
    texts = [text for _, text in said(entries)]
    assert texts == ["Hello", "Steer", "one", "Next", "two"]
    assert user_texts(other.model, 1) == ["Hello", "Steer"]
    await other.drain()


async def test_answers_of_clients_whose_hand_off_was_lost_are_taken_up_after_a_lease(
    room: Room, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Claim] = []
    (event_id,) = await parked(room)
    submit = room.worker.submit
    monkeypatch.setattr(room.worker, "submit", lost.append)
    await clock.advance(3 * LEASE_SECONDS)
    await room.worker.tend_leases()
    (await answer(room, event_id)).close()
    await room.queue("Meanwhile", "steer")
    other = room.other()
    other.model.add(say("Fine."))
    await other.worker.tend_leases()
    assert types(await room.log())[-1] == "tool_output"
    with pytest.raises(ToolCallNotOutstanding):
        await answer(room, event_id)
    await clock.advance(LEASE_SECONDS)
    await other.worker.tend_leases()
    entries = await room.stopped()
    submit(lost[0])  # it comes after all, and changes nothing
    async with asyncio.timeout(PATIENCE):
        while room.worker._running:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
    assert await room.stopped() == entries
    assert types(entries)[4:] == ["tool_output", "input_message", "agent_output", "turn_ended"]
    assert (len(room.model.calls), len(other.model.calls)) == (1, 1)
    assert isinstance(other.model.calls[0].request.messages[-2], ToolMessage)


async def test_a_deleted_session_ends_the_answers_to_what_waits_for_its_parked_turn(room: Room) -> None:
    await parked(room)
    whole = [
        asyncio.create_task(room.answer(text, behavior)) for text, behavior in (("1", "steer"), ("2", "follow_up"))
    ]  # type: ignore[arg-type]
    accepted, source = await room.queue("3", since=0)
    streamed = QueuedAnswer(Awaited(accepted), 0)
    shown = streamed.render(await source.next())
    async with asyncio.timeout(PATIENCE):
        while len(await room.inputs.waiting(OWNER, "a", "s")) < 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
    await room.sessions.delete(OWNER, "a", "s", None)
    for told in await asyncio.gather(*whole):
        assert (told["status"], told["stop_reason"], told["reason"]) == ("stopped", None, "deleted")
        assert told["events"] == []
    async with asyncio.timeout(PATIENCE):
        while nodes := await source.next():
            shown += streamed.render(nodes)
    shown += streamed.closed(source.closed or "")
    assert b"event: client_tool_pending\n" in shown
    assert shown.endswith(b'event: end\ndata: {"type":"end","status":"stopped","reason":"deleted"}\n\n')
    with pytest.raises(NotFound):
        await room.inputs.waiting(OWNER, "a", "s")
    assert len(room.model.calls) == 1
