"""Compactions among all else that happens to a session: waiting inputs, waiting turns, leases, stops, interrupts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from integration.test_client_tools import TOOLS, answer, parked, waiting
from integration.test_turns import OWNER, last, types
from integration.test_waiting import PATIENCE, Room, said, user_texts
from sessile.clock import SystemClock
from sessile.domain.log import Entry
from sessile.domain.messages import AssistantMessage, ToolMessage, UserMessage
from sessile.live.replay import Source
from sessile.live.tail import Tail
from sessile.ports import LogMovedOn, ModelFault
from sessile.rows import LEASE_SECONDS, Claim, Cover, EventQuery, Once, Queued, Rejoined
from sessile.service.events import Events
from sessile.service.inputs import parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.script import call, fail, hang, say, usage, wait_for
from sessile.testing.scripted_model import ScriptedModel
from sessile.wire.errors import IdempotencyKeyReused, SessionRunning, StorageUnavailable
from sessile.wire.events import CompactionEvent

WINDOW = 1000
FULL = usage(850, 10)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    await store.create_tenant("default", "Default")
    made = Room(store, ScriptedModel(context_window=WINDOW))
    await made.create(tool_configurations=TOOLS)
    yield made
    await made.drain()
    await store.close()


async def talk(room: Room, *texts: str) -> None:
    """One turn for each text."""
    for text in texts:
        room.model.add(say(f"Yes to {text}"))
        await room.turn(text)
    room.model.calls.clear()


async def fill(room: Room) -> None:
    """Two turns, the second of which leaves the window full."""
    await talk(room, "One.")
    room.model.add(say("Yes to Two."), FULL)
    await room.turn("Two.")
    room.model.calls.clear()


async def compact(room: Room, once: Once | None = None) -> tuple[Claim | Rejoined, Source]:
    """Order a compaction."""

    def attach(turn: Claim | Rejoined) -> Tail:
        return room.hub.follow(turn.session.id, turn.opened[-1].sequence)

    request: Any = parse({"type": "compact"})
    return await room.inputs.compact(OWNER, "a", "s", request, attach, once)


def covers(arguments: tuple[Any, ...]) -> bool:
    """Whether the arguments of an append say what a summary covers."""
    return any(isinstance(argument, Cover) for argument in arguments)


def summaries(entries: list[Entry]) -> list[str | None]:
    events = [entry.event() for entry in entries if entry.type == "compaction"]
    return [event.summary_text or None for event in events if isinstance(event, CompactionEvent)]


def ends(entries: list[Entry]) -> list[str]:
    return [entry.event().stop_reason for entry in entries if entry.type == "turn_ended"]  # type: ignore[union-attr]


@pytest.mark.parametrize("behavior", ["steer", "follow_up"])
async def test_an_input_that_comes_during_an_ordered_compaction_is_the_next_turn(room: Room, behavior: Any) -> None:
    await talk(room, "One.", "Two.")
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("Short.")).add(say("Yes to Three."))
    turn, _ = await compact(room)
    await room.model.arrived(1)
    accepted, source = await room.queue("Three.", behavior)
    assert isinstance(accepted, Queued)
    go_on.set()
    answered = await room.told(accepted, source)
    assert answered["turn_id"] != turn.turn_id
    assert [event["type"] for event in answered["events"]] == ["input_message", "agent_output"]
    entries = await room.stopped()
    assert types(entries)[-7:] == [
        *["turn_started", "compaction", "turn_ended"],
        *["input_message", "turn_started", "agent_output", "turn_ended"],
    ]
    assert user_texts(room.model, 2)[1:] == ["Two.", "Three."]
    assert user_texts(room.model, 2)[0].endswith("Short.")


async def test_an_input_that_steers_a_turn_while_it_compacts_is_read_by_its_next_model_call(room: Room) -> None:
    await fill(room)
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("Short.")).add(say("Done."))
    await room.post("Three.")
    await room.model.arrived(1)
    await room.queue("In words!", "steer")
    go_on.set()
    entries = await room.stopped()
    assert types(entries)[-5:] == ["turn_started", "compaction", "input_message", "agent_output", "turn_ended"]
    assert len({entry.turn_id for entry in entries[-6:]}) == 1
    assert user_texts(room.model, 2)[1:] == ["Three.\nIn words!"]
    assert len(room.model.calls) == 2


async def test_a_steering_input_belongs_to_the_turn_that_is_kept(room: Room) -> None:
    """What is kept is counted in turns: an input that has joined one goes or stays with it."""
    await talk(room, "One.")
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), call("add", {"a": 1, "b": 2})).add(say("Three."), FULL)
    await room.post("Two.")
    await room.model.arrived(1)
    await room.queue("In words!", "steer")
    go_on.set()
    await room.stopped()
    room.model.add(say("Short."))
    await room.until_ended((await compact(room))[1])  # type: ignore[arg-type]
    assert [text for _, text in said(await room.log())] == ["Two.", "In words!", "Three."]
    room.model.add(say("Shorter.")).add(say("Four."))
    await room.turn("Next.")
    entries = await room.stopped()
    assert summaries(entries) == ["Short."], "the window was empty again"


async def test_a_turn_that_cannot_be_made_fit_goes_on_with_the_next(room: Room) -> None:
    too_long = fail(ModelFault("model_context_exceeded", "Too big.", retryable=False))
    await talk(room, "One.")
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), too_long).add(say("Short.")).add(too_long).add(say("Yes to Three."))
    await room.post("Two.")
    await room.model.arrived(1)
    await room.queue("Three.")
    go_on.set()
    entries = await room.stopped()
    assert ends(entries) == ["end_turn", "limit", "end_turn"]
    assert said(entries)[-1] == ("agent_output", "Yes to Three.")


async def test_with_since_an_answer_holds_the_compaction_before_its_turn(room: Room) -> None:
    await talk(room, "One.", "Two.")
    known = (await room.log())[-1].sequence
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("Short.")).add(say("Yes to Three."))
    await compact(room)
    await room.model.arrived(1)
    accepted, source = await room.queue("Three.", since=known)
    go_on.set()
    answered = await room.told(accepted, source, known)
    assert [event["type"] for event in answered["events"]] == ["compaction", "input_message", "agent_output"]


async def test_a_key_that_a_waiting_input_has_used_orders_nothing(room: Room) -> None:
    await talk(room, "One.", "Two.")
    room.model.add(hang())
    await room.post("Three.")
    await room.model.arrived(1)
    await room.queue("Four.", once=Once("k", b"four"))
    with pytest.raises(IdempotencyKeyReused):
        await compact(room, Once("k", b"compact"))


async def test_a_turn_that_waits_for_a_client_is_not_compacted_and_is_once_it_goes_on(room: Room) -> None:
    await fill(room)
    room.model.add(say("Short."))
    event_id = (await parked(room))[0]
    assert types(await room.log())[-3:] == ["compaction", "tool_input", "client_tool_pending"]
    with pytest.raises(SessionRunning):
        await compact(room)
    await answer(room, event_id)


async def test_a_full_window_is_compacted_when_a_parked_turn_goes_on(room: Room) -> None:
    await talk(room, "One.")
    room.model.add(call("ask", {}, "c1"), FULL)
    tail = await room.post("Two.")
    async with asyncio.timeout(PATIENCE):
        while not any(node.entry and node.entry.type == "client_tool_pending" for node in await tail.next()):
            pass
    room.model.add(say("Short.")).add(say("Done."), usage(50, 5))
    entries = await room.until_ended(await answer(room, *await waiting(room)))
    assert types(entries)[-4:] == ["tool_output", "compaction", "agent_output", "turn_ended"]
    assert list(map(type, room.model.calls[-1].request.messages)) == [
        *[UserMessage, AssistantMessage, UserMessage, AssistantMessage, ToolMessage]
    ]
    assert (await Events(room.store).check(OWNER, "a", "s")).ok


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_server_that_stops_leaves_a_compaction_to_the_next(room: Room, ordered: bool) -> None:
    await fill(room)
    room.model.add(say("Half a summ"), hang())
    if ordered:
        await compact(room)
    else:
        await room.post("Three.")
    await room.model.arrived(1)
    await room.queue("Four.")
    await room.worker.drain(0, PATIENCE)
    assert summaries(await room.log()) == []
    other = Room(room.store, ScriptedModel(context_window=WINDOW))
    other.model.add(say("Short.")).add(say("Yes.")).add(say("Yes."))
    assert await other.worker.recover() == 1
    entries = await other.stopped()
    assert summaries(entries) == ["Short."]
    assert set(ends(entries)) == {"end_turn"}
    assert said(entries)[-2:] == [("input_message", "Four."), ("agent_output", "Yes.")]
    assert len(other.model.calls) == (2 if ordered else 3)


async def test_an_interrupt_of_a_compaction_leaves_the_log_and_goes_on_with_the_next(room: Room) -> None:
    await talk(room, "One.", "Two.")
    room.model.add(say("Half a summ"), hang()).add(say("Yes to Three."))
    await compact(room)
    await room.model.arrived(1)
    await room.queue("Three.")
    await room.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    entries = await room.stopped()
    assert ends(entries) == ["end_turn", "end_turn", "interrupted", "end_turn"]
    assert [text for _, text in said(entries)] == [
        "One.",
        "Yes to One.",
        "Two.",
        "Yes to Two.",
        "Three.",
        "Yes to Three.",
    ]


async def test_an_interrupt_while_a_summary_is_refused_makes_no_other(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk(room, "One.", "Two.")
    append, writing, go_on = room.store.append, asyncio.Event(), asyncio.Event()

    async def refused(*arguments: Any) -> Any:
        if covers(arguments):
            writing.set()
            await go_on.wait()
            raise LogMovedOn
        return await append(*arguments)

    monkeypatch.setattr(room.store, "append", refused)
    room.model.add(say("Short."))
    await compact(room)
    await writing.wait()
    await room.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    go_on.set()
    entries = await room.stopped()
    assert ends(entries)[-1] == "interrupted"
    assert len(room.model.calls) == 1


async def test_an_interrupt_while_a_summary_is_written_keeps_it_and_what_it_says_of_the_window(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(room)
    append, written, go_on = room.store.append, asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        added = await append(*arguments)
        if covers(arguments):
            written.set()
            await go_on.wait()
        return added

    monkeypatch.setattr(room.store, "append", slowly)
    room.model.add(say("Short."))
    await room.post("Three.")
    await written.wait()
    left = (await room.store.get_session(room.ref)).context_usage
    await room.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    go_on.set()
    entries = await room.stopped()
    assert types(entries)[-3:] == ["compaction", "session_interrupted", "turn_ended"]
    assert (await room.store.get_session(room.ref)).context_usage == left
    assert len(room.model.calls) == 1


async def test_a_turn_that_is_left_while_its_summary_cannot_be_written_calls_no_model(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(room)
    append, writing, go_on = room.store.append, asyncio.Event(), asyncio.Event()

    async def away(*arguments: Any) -> Any:
        if covers(arguments):
            writing.set()
            await go_on.wait()
            raise StorageUnavailable
        return await append(*arguments)

    monkeypatch.setattr(room.store, "append", away)
    room.model.add(say("Short.")).add(say("Never."))
    await room.post("Three.")
    await writing.wait()
    ((turn, _),) = room.worker._running.values()
    draining = asyncio.create_task(room.worker.drain(0, PATIENCE))
    async with asyncio.timeout(PATIENCE):
        while not turn.stopping:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    go_on.set()
    await draining
    assert len(room.model.calls) == 1
    monkeypatch.undo()
    other = Room(room.store, ScriptedModel(context_window=WINDOW).add(say("Short.")).add(say("Yes.")))
    assert await other.worker.recover() == 1
    assert summaries(await other.stopped()) == ["Short."]


async def test_a_worker_that_stalls_while_it_summarises_loses_its_turn(tmp_path: Path) -> None:
    clock = FakeClock()
    store = await SqliteStore.open(tmp_path / "s.db", clock)
    await store.create_tenant("default", "Default")
    first = Room(store, ScriptedModel(context_window=WINDOW))
    second = Room(store, ScriptedModel(context_window=WINDOW))
    await first.create()
    await talk(first, "One.", "Two.")
    go_on = asyncio.Event()
    first.model.add(wait_for(go_on), say("From the first."))
    second.model.add(say("From the second."))
    await compact(first)
    await first.model.arrived(1)
    await clock.advance(LEASE_SECONDS)
    await second.worker.tend_leases()
    entries = await second.stopped()
    go_on.set()
    await first.worker.drain(PATIENCE, PATIENCE)
    assert await second.stopped() == entries
    assert summaries(entries) == ["From the second."]
    assert last(entries).stop_reason == "end_turn"
    await second.drain()
    await store.close()


async def test_a_deletion_in_the_summary_before_is_told_to_the_one_that_is_being_made(room: Room) -> None:
    """Its summary is stale: what it covered belongs to the new one, without what was deleted."""
    await talk(room, "One.", "Two.")
    room.model.add(say("About One."))
    await compact(room)
    await room.stopped()
    await talk(room, "Three.")
    room.model.calls.clear()
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("About One and Two.")).add(say("About what is left."))
    await compact(room)
    await room.model.arrived(1)
    everything = EventQuery(limit=100, include_hidden=True)
    whole = await room.store.list_events(room.ref, everything)
    answer_to_one = next(entry for entry in whole.rows if entry.type == "agent_output")
    await room.store.delete_event(room.ref, answer_to_one.id)
    go_on.set()
    entries = await room.stopped()
    assert summaries(entries) == ["About what is left."]
    asked = "".join(user_texts(room.model, 2))
    assert "One." in asked
    assert "Two." in asked
    assert "Yes to One." not in asked
    event = next(entry.event() for entry in reversed(entries) if entry.type == "compaction")
    assert isinstance(event, CompactionEvent)
    assert event.turns_compacted == 2
