"""Inputs that come while a turn runs, on a real store with a scripted model: who takes them, when, and who is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from integration.test_turns import OWNER, Harness, last, types
from sessile.api import queued_answer
from sessile.api.queued_answer import Awaited, QueuedAnswer
from sessile.clock import SystemClock
from sessile.domain.log import Entry
from sessile.domain.messages import AssistantMessage, ToolMessage, UserMessage
from sessile.live.replay import Source
from sessile.ports import ModelFault
from sessile.rows import Claim, Once, Queued, Rejoined
from sessile.service.events import Events
from sessile.service.inputs import Accepted, parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.script import call, fail, hang, say, usage, wait_for
from sessile.testing.scripted_model import ScriptedModel
from sessile.wire import codec
from sessile.wire.errors import NotFound
from sessile.wire.inputs import Behavior
from sessile.wire.sessions import UpdateSessionRequest

PATIENCE = 20.0


class Room(Harness):
    """The harness of turns, with inputs that wait."""

    async def queue(
        self, text: str, behavior: Behavior = "follow_up", *, since: int | None = None, once: Once | None = None
    ) -> tuple[Accepted, Source]:
        """Post an input with a behavior."""

        def attach(accepted: Accepted) -> Source:
            return queued_answer.source(self.hub, accepted, since, deltas=True)

        return await self.inputs.accept(OWNER, "a", "s", parse({"content": text}), attach, once, behavior=behavior)

    async def answer(
        self,
        text: str,
        behavior: Behavior = "follow_up",
        *,
        since: int | None = None,
        patience: float | None = PATIENCE,
    ) -> Any:
        """The whole answer to an input with a behavior."""
        accepted, source = await self.queue(text, behavior, since=since)
        return codec.decode(await queued_answer.whole(Awaited(accepted), source, patience, since))

    async def told(self, accepted: Accepted, source: Source, since: int | None = None) -> Any:
        """The whole answer to an input that was posted."""
        return codec.decode(await queued_answer.whole(Awaited(accepted), source, PATIENCE, since))

    async def stopped(self) -> list[Entry]:
        """The log, once the session runs no more."""
        async with asyncio.timeout(PATIENCE):
            while (await self.store.get_session(self.ref)).status == "running":  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        check = await Events(self.store).check(OWNER, "a", "s")
        assert check.ok, check
        return await self.log()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    await store.create_tenant("default", "Default")
    made = Room(store, ScriptedModel())
    yield made
    await made.drain()
    await store.close()


def said(entries: list[Entry]) -> list[tuple[str, str]]:
    """Who said what."""
    return [(e.type, e.event().content) for e in entries if e.type in ("input_message", "agent_output")]  # type: ignore[union-attr]


def user_texts(model: ScriptedModel, number: int) -> list[str]:
    """What a user said, as the model read it."""
    return [message.content for message in model.calls[number - 1].request.messages if isinstance(message, UserMessage)]


async def test_inputs_that_follow_up_get_turns_of_their_own_in_order(room: Room) -> None:
    await room.create()
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("one")).add(say("two")).add(say("three"))
    await room.post("1")
    await room.model.arrived(1)
    queued = [await room.queue(text) for text in "23"]
    go_on.set()
    second, third = [await room.told(*one) for one in queued]
    entries = await room.stopped()
    assert said(entries) == [
        *[("input_message", "1"), ("agent_output", "one")],
        *[("input_message", "2"), ("agent_output", "two")],
        *[("input_message", "3"), ("agent_output", "three")],
    ]
    assert [event["content"] for event in second["events"]] == ["2", "two"]
    assert [event["content"] for event in third["events"]] == ["3", "three"]
    assert (second["status"], second["stop_reason"], second["turn_id"]) == ("stopped", "end_turn", entries[5].turn_id)
    assert user_texts(room.model, 3) == ["1", "2", "3"]


async def test_a_steering_input_is_read_after_the_tool_outputs(room: Room) -> None:
    await room.create()
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), call("add", {"a": 1, "b": 2})).add(say("Three, then."))
    await room.post("Add.")
    await room.model.arrived(1)
    accepted, source = await room.queue("In words!", "steer")
    assert isinstance(accepted, Queued)
    go_on.set()
    answer = await room.told(accepted, source)
    entries = await room.stopped()
    assert types(entries) == [
        *["input_message", "turn_started", "tool_input", "tool_output", "input_message", "agent_output", "turn_ended"]
    ]
    assert len({entry.turn_id for entry in entries}) == 1
    assert list(map(type, room.model.calls[1].request.messages)) == [
        *[UserMessage, AssistantMessage, ToolMessage, UserMessage]
    ]
    assert user_texts(room.model, 2) == ["Add.", "In words!"]
    assert [event["type"] for event in answer["events"]] == ["input_message", "agent_output"]
    assert answer["turn_id"] == entries[0].turn_id
    assert answer["events"][0]["id"] == entries[4].id


async def test_a_steering_input_that_comes_too_late_gets_its_own_turn(room: Room) -> None:
    await room.create()
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("one")).add(say("two")).add(say("three"))
    await room.post("1")
    await room.model.arrived(1)
    for text in ("2", "3"):
        await room.queue(text, "steer")
    go_on.set()
    entries = await room.stopped()
    assert [text for _, text in said(entries)] == ["1", "one", "2", "two", "3", "three"]
    assert len({entry.turn_id for entry in entries}) == 3


async def test_a_lost_hint_costs_no_steering_input_its_turn(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint before the first tool is lost; the append of the tool's output tells."""
    await room.create()
    monkeypatch.setattr(room.worker, "steer", lambda session_id: None)
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), call("add", {"a": 1, "b": 2})).add(say("Three."))
    await room.post("Add.")
    await room.model.arrived(1)
    await room.queue("In words!", "steer")
    go_on.set()
    assert types(await room.stopped())[4:6] == ["input_message", "agent_output"]


async def test_an_ordinary_turn_asks_for_no_steering_input(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await room.create()

    async def never(fence: object) -> list[Entry]:
        raise AssertionError("a commit that nobody needs")

    monkeypatch.setattr(room.store, "take_steering", never)
    room.model.add(call("add", {"a": 1, "b": 2})).add(say("Three."))
    entries = await room.turn("Add.")
    assert last(entries).error is None


async def test_a_turn_that_fails_or_is_interrupted_goes_on_with_the_next(room: Room) -> None:
    await room.create()
    fault = ModelFault("model_rejected", "No.", retryable=False)
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), fail(fault)).add(say("half"), hang()).add(say("three"))
    await room.post("1")
    await room.model.arrived(1)
    await room.queue("2")
    await room.queue("3")
    go_on.set()
    await room.model.arrived(2)
    await room.inputs.interrupt(OWNER, "a", "s", lambda found: None)
    entries = await room.stopped()
    ends = [entry.event() for entry in entries if entry.type == "turn_ended"]
    assert [end.stop_reason for end in ends] == ["error", "interrupted", "end_turn"]  # type: ignore[union-attr]
    assert said(entries)[-1] == ("agent_output", "three")


@pytest.mark.parametrize("noun", ["agent", "session", "template"])
async def test_what_was_disabled_while_an_input_waited_ends_its_turn(room: Room, noun: str) -> None:
    template = {"instructions": [{"type": "inline", "name": "i", "template": "For ${session.metadata.plan}."}]}
    await room.create(first_step=template)
    go_on = asyncio.Event()
    room.model.add(wait_for(go_on), say("one"))
    await room.post("1")
    await room.model.arrived(1)
    accepted, source = await room.queue("2")
    await room.queue("3")
    if noun == "agent":
        await room.agents.update(OWNER, "a", {"enabled": False})
    else:
        change = {"enabled": False} if noun == "session" else {"metadata": {}}
        await room.sessions.update(OWNER, "a", "s", msgspec.convert(change, UpdateSessionRequest), None)
    go_on.set()
    answer = await room.told(accepted, source)
    code = "template_invalid" if noun == "template" else f"{noun}_disabled"
    assert (answer["stop_reason"], answer["error"]["code"]) == ("error", code)
    entries = await room.stopped()
    ends = [entry.event() for entry in entries if entry.type == "turn_ended"]
    assert [end.error.code if end.error else None for end in ends] == [None, code, code]  # type: ignore[union-attr]
    assert len(room.model.calls) == 1


async def test_whoever_awaits_a_withdrawn_input_is_told(room: Room) -> None:
    await room.create()
    room.model.add(say("one"), hang())
    await room.post("1")
    await room.model.arrived(1)
    (accepted, source), other = await room.queue("2"), asyncio.create_task(room.answer("3", patience=0.05))
    assert isinstance(accepted, Queued)
    waiting = asyncio.create_task(queued_answer.whole(Awaited(accepted), source, PATIENCE, None))
    await asyncio.sleep(0)
    await room.inputs.withdraw(OWNER, "a", "s", accepted.input.event_id)
    told = codec.decode(await waiting)
    assert (told["status"], told["reason"], told["events"]) == ("stopped", "withdrawn", [])
    late = await other
    assert (late["status"], late["events"], "reason" in late) == ("running", [], False)
    assert late["turn_id"] == (await room.store.list_waiting(room.ref))[0].turn_id


async def test_with_since_the_answer_holds_what_came_before_the_turn(room: Room) -> None:
    await room.create()
    go_on = asyncio.Event()
    room.model.add(say("zero")).add(wait_for(go_on), say("one")).add(say("two"))
    before = await room.turn("0")
    await room.post("1")
    await room.model.arrived(2)
    accepted, source = await room.queue("2", since=before[-1].sequence)
    go_on.set()
    answer = await room.told(accepted, source, before[-1].sequence)
    assert [event["content"] for event in answer["events"]] == ["1", "one", "2", "two"]
    assert answer["stop_reason"] == "end_turn"
    idle = room.model.add(say("three")) and await room.answer("3", since=0)
    assert [event["content"] for event in idle["events"]] == ["0", "zero", "1", "one", "2", "two", "3", "three"]


async def test_an_input_comes_back_with_its_key_whatever_became_of_it(room: Room) -> None:
    await room.create()
    go_on, once = asyncio.Event(), Once("k", b"x")
    room.model.add(wait_for(go_on), say("one")).add(say("two"), usage(1, 1))
    await room.post("1")
    await room.model.arrived(1)
    accepted, source = await room.queue("2", once=once)
    again, other = await room.queue("2", once=once)
    assert isinstance(accepted, Queued)
    assert isinstance(again, Queued)
    assert accepted.input == again.input
    go_on.set()
    answers = [
        codec.decode(await queued_answer.whole(Awaited(one), tail, PATIENCE, None))
        for one, tail in ((accepted, source), (again, other))
    ]
    late, replay = await room.queue("2", once=once)
    assert isinstance(late, Rejoined)
    answers.append(await room.told(late, replay))
    known = (await room.log())[-1].sequence
    late, replay = await room.queue("2", once=once, since=known)
    nothing_new = await room.told(late, replay, known)
    assert answers[0] == answers[1] == answers[2]
    assert nothing_new == answers[0] | {"events": []}


async def test_a_server_that_stops_leaves_what_waits_to_the_next(room: Room) -> None:
    await room.create()
    room.model.add(hang()).add(say("one")).add(say("two")).add(say("three"))
    await room.post("1")
    await room.model.arrived(1)
    accepted, source = await room.queue("2")
    await room.queue("3")
    rendering = QueuedAnswer(Awaited(accepted), None)
    await room.worker.drain(0, PATIENCE)
    room.hub.drain()
    shown = b"".join([rendering.render(await source.next()), rendering.closed(source.closed or "")])
    assert shown.count(b"event: ") == 1
    assert b'"status":"running","reason":"drain"' in shown
    assert (await room.store.get_session(room.ref)).status == "running"
    other = Room(room.store, room.model)
    assert await other.worker.recover() == 1
    entries = await other.stopped()
    assert [text for _, text in said(entries)] == ["1", "one", "2", "two", "3", "three"]
    ends = [entry.event() for entry in entries if entry.type == "turn_ended"]
    assert [end.error for end in ends] == [None, None, None]  # type: ignore[union-attr]


async def test_a_turn_that_is_taken_up_reads_the_inputs_that_wait_to_steer_it(room: Room) -> None:
    await room.create()
    room.model.add(hang())
    await room.post("1")
    await room.model.arrived(1)
    await room.queue("now", "steer")
    other = Room(room.store, ScriptedModel().add(say("done")))
    assert await other.worker.recover() == 1
    entries = await other.stopped()
    assert user_texts(other.model, 1) == ["1\nnow"]
    assert len({entry.turn_id for entry in entries}) == 1


async def test_a_session_that_is_deleted_ends_its_turn_and_the_next(room: Room) -> None:
    await room.create()
    room.model.add(hang()).add(hang())
    await room.post("1")
    await room.model.arrived(1)
    _, source = await room.queue("2")
    await room.sessions.delete(OWNER, "a", "s", None)
    async with asyncio.timeout(PATIENCE):
        while await source.next():
            pass
    assert source.closed == "deleted"
    assert len(room.model.calls) == 1
    with pytest.raises(NotFound):
        await room.inputs.waiting(OWNER, "a", "s")


async def test_an_idle_session_starts_either_at_once(room: Room) -> None:
    await room.create()
    for behavior in ("steer", "follow_up"):
        room.model.add(say(behavior))
        accepted, source = await room.queue(behavior, behavior)  # type: ignore[arg-type]
        assert isinstance(accepted, Claim)
        answer = await room.told(accepted, source)
        assert [event["content"] for event in answer["events"]] == [behavior, behavior]
