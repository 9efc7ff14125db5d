"""What every Store must do when events are hidden, unhidden and deleted. Part of `store_contract`."""

import asyncio
from typing import Any

import msgspec
import pytest

from sessile.domain.log import Entry, draft
from sessile.ports import Store
from sessile.rows import SessionRef, Shown, TurnEnd
from sessile.testing.store_world import (
    DONE,
    EVERYTHING,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    answered,
    new_tenant,
    read_all,
    sequences,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import NotFound, RecordFixed, SessionRunning
from sessile.wire.events import ToolInputEvent, ToolOutputEvent

WITH_DELETED = msgspec.structs.replace(EVERYTHING, include_deleted=True)
VISIBLE = msgspec.structs.replace(EVERYTHING, include_hidden=False)
SECRET = "tortoise"


def recorded(shown: Shown) -> list[tuple[str, str, str]]:
    """What the records of a change say: type, the event, the turn."""
    return [(entry.type, entry.event().event_id, entry.turn_id) for entry in shown.records]  # type: ignore[union-attr]


class VisibilityContract(Fixtures):
    """Hiding, unhiding, deleting."""

    async def test_hiding_and_its_record_are_one_commit(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        before = await store.get_session(ref)
        shown = await store.set_hidden(ref, turn[2].id, True)
        assert (shown.entry.id, shown.entry.hidden, shown.entry.body) == (turn[2].id, True, turn[2].body)
        assert recorded(shown) == [("event_hidden", turn[2].id, "")]
        assert shown.records[0].sequence == turn[-1].sequence + 1
        row = await store.get_session(ref)
        assert row.last_sequence == shown.records[0].sequence
        assert (row.last_event_id, row.version, row.status) == (before.last_event_id, before.version, "stopped")
        assert sequences(await read_all(store, row.id, VISIBLE)) == [1, 2, 4, 5]
        assert sequences(await read_all(store, row.id)) == [1, 2, 3, 4, 5]
        assert (await store.get_event(ref, turn[2].id)).hidden

    async def test_hiding_twice_changes_nothing(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        await store.set_hidden(ref, turn[2].id, True)
        again = await store.set_hidden(ref, turn[2].id, True)
        assert (again.entry.hidden, again.records) == (True, [])
        assert (await store.get_session(ref)).last_sequence == 5

    async def test_unhiding(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        untouched = await store.set_hidden(ref, turn[2].id, False)
        assert (untouched.entry.hidden, untouched.records) == (False, [])
        await store.set_hidden(ref, turn[2].id, True)
        shown = await store.set_hidden(ref, turn[2].id, False)
        assert not shown.entry.hidden
        assert recorded(shown) == [("event_unhidden", turn[2].id, "")]
        assert shown.entry.json == turn[2].json

    async def test_of_many_at_once_one_hides(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        changes = await asyncio.gather(*(store.set_hidden(ref, turn[2].id, True) for _ in range(20)))
        assert sum(len(change.records) for change in changes) == 1

    async def test_a_deleted_event_leaves_its_place_and_no_text(
        self, store: Store, harness: Harness, ref: SessionRef
    ) -> None:
        turn = await whole_turn(store, ref, answered(SECRET))
        shown = await store.delete_event(ref, turn[2].id)
        assert recorded(shown) == [("event_deleted", turn[2].id, "")]
        store = await harness.reopen()
        session = await store.get_session(ref)
        assert session.last_event_id == turn[2].id
        assert sequences(await read_all(store, session.id)) == [1, 2, 4, 5]
        assert sequences((await store.list_events(ref, EVERYTHING)).rows) == [1, 2, 4, 5]
        kept = await read_all(store, session.id, WITH_DELETED)
        assert sequences(kept) == [1, 2, 3, 4, 5]
        left = await store.get_event(ref, turn[2].id)
        assert (left.id, left.type, left.deleted, left.hidden) == (turn[2].id, "agent_output", True, True)
        assert left.event().output_id == "out_1"  # type: ignore[union-attr]
        assert not any(SECRET.encode() in entry.body for entry in kept)

    async def test_what_is_deleted_can_not_be_changed_again(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        await store.delete_event(ref, turn[2].id)
        for verb in (
            store.set_hidden(ref, turn[2].id, True),
            store.set_hidden(ref, turn[2].id, False),
            store.delete_event(ref, turn[2].id),
        ):
            with pytest.raises(NotFound):
                await verb
        assert (await store.get_session(ref)).last_sequence == 5

    async def test_a_hidden_event_can_be_deleted(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        await store.set_hidden(ref, turn[0].id, True)
        assert recorded(await store.delete_event(ref, turn[0].id)) == [("event_deleted", turn[0].id, "")]

    async def test_halves_of_a_call_keep_what_joins_them(self, store: Store, ref: SessionRef) -> None:
        names: dict[str, Any] = {"tool_call_id": "c1", "tool_configuration_name": "find", "tool_name": "find"}
        call = draft(ToolInputEvent(**names, tool_input={"what": SECRET}))
        output = draft(ToolOutputEvent(**names, tool_output={"found": SECRET}, error=False))
        turn = await whole_turn(store, ref, call, output, answered())
        for entry in turn[2:4]:
            await store.delete_event(ref, entry.id)
        left = [(await store.get_event(ref, entry.id)).event() for entry in turn[2:4]]
        assert [event.tool_call_id for event in left] == ["c1", "c1"]  # type: ignore[union-attr]
        assert (left[0].tool_input, left[1].tool_output) == ({}, {})  # type: ignore[union-attr]

    async def test_records_stay(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        hidden = await store.set_hidden(ref, turn[0].id, True)
        for record in (turn[1], turn[-1], hidden.records[0]):
            with pytest.raises(RecordFixed):
                await store.set_hidden(ref, record.id, True)
            with pytest.raises(RecordFixed):
                await store.delete_event(ref, record.id)
        assert (await store.get_session(ref)).last_sequence == hidden.records[0].sequence

    async def test_a_running_turn_keeps_its_events_and_goes_on(self, store: Store, ref: SessionRef) -> None:
        old = await whole_turn(store, ref)
        claim = await accept(store, ref)
        for verb in (store.set_hidden(ref, claim.opened[0].id, True), store.delete_event(ref, claim.opened[0].id)):
            with pytest.raises(SessionRunning) as caught:
                await verb
            assert caught.value.id == claim.turn_id
        record = (await store.set_hidden(ref, old[0].id, True)).records[0]
        (entry,) = (await store.append(claim.fence, [answered()], NOTHING)).entries
        assert (record.sequence, entry.sequence) == (claim.opened[-1].sequence + 1, claim.opened[-1].sequence + 2)
        await store.append(claim.fence, [], NOTHING, DONE)
        assert (await store.set_hidden(ref, claim.opened[0].id, True)).entry.hidden

    async def test_a_turn_that_waits_for_a_client_keeps_its_events(self, store: Store, ref: SessionRef) -> None:
        old = await whole_turn(store, ref)
        claim = await accept(store, ref)
        await store.append(claim.fence, [], NOTHING, TurnEnd("requires_action"))
        with pytest.raises(SessionRunning) as caught:
            await store.delete_event(ref, claim.opened[0].id)
        assert caught.value.id == claim.turn_id
        await store.delete_event(ref, old[0].id)

    async def test_what_is_not_there(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref)
        other = await new_tenant(store, "other")
        for strange in ("aev_1", ids.event_id(1), ids.event_id(999)):
            with pytest.raises(NotFound):
                await store.set_hidden(ref, strange, True)
            with pytest.raises(NotFound):
                await store.delete_event(ref, strange)
        for place in (SessionRef(other, ref.agent_key, ref.session_key), SessionRef(ref.tenant_id, "a", "b")):
            with pytest.raises(NotFound):
                await store.delete_event(place, turn[0].id)

    async def test_at_once_with_a_turn_no_place_is_given_twice(self, store: Store, ref: SessionRef) -> None:
        old: list[Entry] = []
        for _ in range(5):
            old += await whole_turn(store, ref)
        claim = await accept(store, ref)
        hidings = [store.set_hidden(ref, entry.id, True) for entry in old if entry.type == "agent_output"]
        await asyncio.gather(*hidings, *(store.append(claim.fence, [answered()], NOTHING) for _ in range(5)))
        found = sequences(await read_all(store, claim.session.id))
        assert found == list(range(1, len(old) + 2 + 10 + 1))
