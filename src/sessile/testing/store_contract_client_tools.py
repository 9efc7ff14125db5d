"""What every Store must do with turns that wait for client tools. Part of `store_contract`."""

from collections.abc import Sequence

import pytest

from sessile.domain.client_tools import CallOutput, failed, pending
from sessile.domain.log import Draft, Entry, draft
from sessile.ports import Store
from sessile.rows import AgentRow, Answered, Claim, Once, Rejoined, SessionRef, SessionRow, TurnEnd
from sessile.testing.store_world import (
    DONE,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    purge_all,
    read_all,
    shown,
)
from sessile.wire.errors import (
    FenceLost,
    IdempotencyKeyReused,
    NotFound,
    SessionDisabled,
    SessionRunning,
    ToolCallNotOutstanding,
)
from sessile.wire.events import ClientToolPendingEvent, ToolInputEvent, ToolOutputEvent

KEY = Once("key", b"first")


def called(call_id: str) -> Draft:
    """A call of a client tool."""
    return draft(
        ToolInputEvent(
            tool_call_id=call_id, tool_configuration_name="approve", tool_name="form", tool_input={"of": call_id}
        )
    )


async def calls(store: Store, ref: SessionRef, *call_ids: str) -> tuple[Claim, list[ToolInputEvent]]:
    """A running turn with these calls in its log."""
    claim = await accept(store, ref)
    entries = (await store.append(claim.fence, [called(call_id) for call_id in call_ids], NOTHING)).entries
    return claim, [event for entry in entries if isinstance(event := entry.event(), ToolInputEvent)]


async def parked(store: Store, ref: SessionRef, *call_ids: str) -> tuple[Claim, list[str]]:
    """A parked turn, and the ids of the events that it waits for."""
    claim, made = await calls(store, ref, *call_ids)
    waiting = [call.id for call in made]
    assert await store.park(claim.fence, [draft(pending(made))], NOTHING, waiting)
    return claim, waiting


async def answer(store: Store, ref: SessionRef, *outputs: CallOutput, once: Once | None = None) -> Answered:
    """Answer calls that wait."""
    found = await store.answer_calls(ref, outputs, admit_all, once)
    assert isinstance(found, Answered)
    return found


def approved(event_id: str) -> CallOutput:
    """A success."""
    return CallOutput(event_id, {"ok": True})


def types(entries: Sequence[Entry]) -> list[str]:
    """Their types."""
    return [entry.type for entry in entries]


class ClientToolContract(Fixtures):
    """Parking a turn, answering its calls, interrupting it while it waits."""

    async def test_a_parked_turn_stops_its_session_and_is_still_its_turn(self, store: Store, ref: SessionRef) -> None:
        claim, made = await calls(store, ref, "a", "b")
        waiting = [call.id for call in made]
        entries = await store.park(claim.fence, [answered(), draft(pending(made))], NOTHING, waiting)
        assert entries is not None
        assert types(entries) == ["agent_output", "client_tool_pending"]
        row = await store.get_session(ref)
        assert (row.status, row.stop_reason, row.running_turn) == ("stopped", "requires_action", claim.turn_id)
        assert (row.last_sequence, row.last_event_id) == (entries[-1].sequence, entries[-1].id)
        turn = await store.get_turn(ref, claim.turn_id)
        assert (turn.running, turn.parked, turn.stop_reason, turn.ended_at) == (True, True, None, None)
        assert [entry.id for entry in await store.outstanding_calls(ref)] == waiting

    async def test_nobody_writes_starts_or_takes_up_a_parked_turn(self, store: Store, ref: SessionRef) -> None:
        claim, waiting = await parked(store, ref, "a")
        before = shown(await read_all(store, claim.session.id))
        with pytest.raises(FenceLost):
            await store.append(claim.fence, [answered()], NOTHING, DONE)
        with pytest.raises(FenceLost):
            await store.park(claim.fence, [answered()], NOTHING, waiting)
        with pytest.raises(SessionRunning) as caught:
            await accept(store, ref)
        assert caught.value.id == claim.turn_id
        assert await store.take_unfinished_turns() == []
        assert shown(await read_all(store, claim.session.id)) == before

    async def test_only_the_current_fence_parks(self, store: Store, ref: SessionRef) -> None:
        claim, made = await calls(store, ref, "a")
        (taken,) = await store.take_unfinished_turns()
        with pytest.raises(FenceLost):
            await store.park(claim.fence, [draft(pending(made))], NOTHING, [made[0].id])
        assert (await store.get_session(ref)).status == "running"
        assert await store.park(taken.fence, [draft(pending(made))], NOTHING, [made[0].id])

    async def test_a_turn_that_a_caller_wants_stopped_is_not_parked(self, store: Store, ref: SessionRef) -> None:
        claim, made = await calls(store, ref, "a")
        assert (await store.interrupt(ref)).claim is None
        before = shown(await read_all(store, claim.session.id))
        assert await store.park(claim.fence, [draft(pending(made))], NOTHING, [made[0].id]) is None
        assert shown(await read_all(store, claim.session.id)) == before
        await store.append(claim.fence, [], NOTHING, TurnEnd("interrupted"))

    async def test_the_last_output_claims_the_turn(self, store: Store, harness: Harness, ref: SessionRef) -> None:
        claim, (first, second) = await parked(store, ref, "a", "b")
        store = await harness.reopen()
        found = await answer(store, ref, approved(second), failed(first, "no"))
        assert types(found.opened) == ["tool_output", "tool_output"]
        events = [event for entry in found.opened if isinstance(event := entry.event(), ToolOutputEvent)]
        assert [(e.tool_call_id, e.tool_configuration_name, e.tool_name) for e in events] == [
            ("b", "approve", "form"),
            ("a", "approve", "form"),
        ]
        assert [(e.error, e.tool_output) for e in events] == [
            (False, {"ok": True}),
            (True, {"error": "no", "code": "tool_failed"}),
        ]
        assert found.claim is not None
        row = await store.get_session(ref)
        assert (row.status, row.stop_reason, row.running_turn) == ("running", None, claim.turn_id)
        assert found.claim.session.last_sequence == row.last_sequence == found.opened[-1].sequence
        assert (found.claim.turn_id, found.claim.opened, found.claim.interrupted) == (claim.turn_id, [], False)
        assert found.claim.fence.token > claim.fence.token
        assert await store.outstanding_calls(ref) == []
        with pytest.raises(FenceLost):
            await store.append(claim.fence, [answered()], NOTHING)
        await store.append(found.claim.fence, [answered()], NOTHING, DONE)
        assert (await store.get_session(ref)).stop_reason == "end_turn"

    async def test_some_outputs_leave_the_turn_parked(self, store: Store, ref: SessionRef) -> None:
        claim, (first, second) = await parked(store, ref, "a", "b")
        found = await answer(store, ref, approved(first))
        assert (found.claim, found.turn_id) == (None, claim.turn_id)
        assert types(found.opened) == ["tool_output", "client_tool_pending"]
        left = found.opened[-1].event()
        assert isinstance(left, ClientToolPendingEvent)
        assert [(call.event_id, call.arguments) for call in left.pending_calls] == [(second, {"of": "b"})]
        row = await store.get_session(ref)
        assert (row.status, row.stop_reason, row.last_event_id) == ("stopped", "requires_action", left.id)
        assert [entry.id for entry in await store.outstanding_calls(ref)] == [second]
        assert await store.take_unfinished_turns() == []
        assert (await answer(store, ref, approved(second))).claim is not None

    async def test_what_is_not_outstanding_is_refused_whole(self, store: Store, ref: SessionRef) -> None:
        with pytest.raises(ToolCallNotOutstanding):
            await answer(store, ref, approved("aev_nothing"))
        claim, (first, second) = await parked(store, ref, "a", "b")
        before = shown(await read_all(store, claim.session.id))
        for wrong in ("aev_nothing", "", claim.opened[0].id, first):
            with pytest.raises(ToolCallNotOutstanding) as caught:
                await answer(store, ref, approved(first), approved(wrong))
            assert list(caught.value.field_errors or ()) == ["tool_outputs[1].event_id"]
        assert shown(await read_all(store, claim.session.id)) == before
        await answer(store, ref, approved(first))
        with pytest.raises(ToolCallNotOutstanding):
            await answer(store, ref, approved(first))
        resumed = (await answer(store, ref, approved(second))).claim
        assert resumed is not None
        for late in (first, second):
            with pytest.raises(ToolCallNotOutstanding):
                await answer(store, ref, approved(late))
        await store.append(resumed.fence, [], NOTHING, DONE)
        with pytest.raises(ToolCallNotOutstanding):
            await answer(store, ref, approved(second))

    async def test_a_call_that_the_running_turn_may_wait_for_is_too_early(self, store: Store, ref: SessionRef) -> None:
        claim, made = await calls(store, ref, "a")
        with pytest.raises(SessionRunning) as caught:
            await answer(store, ref, approved(made[0].id))
        assert caught.value.id == claim.turn_id
        with pytest.raises(ToolCallNotOutstanding):
            await answer(store, ref, approved(made[0].id), approved("aev_nothing"))

    async def test_what_admit_raises_stores_no_output(self, store: Store, ref: SessionRef) -> None:
        def refuse(agent: AgentRow, session: SessionRow) -> None:
            raise SessionDisabled

        _, waiting = await parked(store, ref, "a")
        with pytest.raises(SessionDisabled):
            await store.answer_calls(ref, [approved(waiting[0])], refuse)
        assert len(await store.outstanding_calls(ref)) == 1

    async def test_outputs_with_a_key_are_stored_once(self, store: Store, ref: SessionRef) -> None:
        _, (first, second) = await parked(store, ref, "a", "b")
        given = await answer(store, ref, approved(first), once=KEY)
        again = await store.answer_calls(ref, [approved(first)], admit_all, KEY)
        assert isinstance(again, Rejoined)
        assert (shown(again.opened), again.turn_id, again.running) == (shown(given.opened[:1]), given.turn_id, False)
        with pytest.raises(IdempotencyKeyReused):
            await store.answer_calls(ref, [approved(second)], admit_all, Once("key", b"other"))
        assert (await answer(store, ref, approved(second))).claim is not None
        again = await store.answer_calls(ref, [approved(first)], admit_all, KEY)
        assert isinstance(again, Rejoined)
        assert again.running is True

    async def test_an_interrupt_claims_a_parked_turn_to_end_it(self, store: Store, ref: SessionRef) -> None:
        claim, waiting = await parked(store, ref, "a")
        found = await store.interrupt(ref)
        assert found.turn_id == claim.turn_id
        assert found.claim is not None
        assert found.claim.interrupted is True
        assert found.claim.fence.token > claim.fence.token
        second = await store.interrupt(ref)
        assert (second.turn_id, second.claim) == (claim.turn_id, None)
        with pytest.raises(ToolCallNotOutstanding):
            await answer(store, ref, approved(waiting[0]))
        assert await store.outstanding_calls(ref) == []
        await store.append(found.claim.fence, [answered()], NOTHING, TurnEnd("interrupted"))
        row = await store.get_session(ref)
        assert (row.status, row.stop_reason, row.running_turn) == ("stopped", "interrupted", None)
        await accept(store, ref)

    async def test_a_start_takes_up_an_interrupted_turn_that_was_parked(self, store: Store, ref: SessionRef) -> None:
        claim, _ = await parked(store, ref, "a")
        await store.interrupt(ref)
        (taken,) = await store.take_unfinished_turns()
        assert (taken.turn_id, taken.interrupted) == (claim.turn_id, True)

    async def test_outputs_start_the_count_of_takes_anew(self, store: Store, ref: SessionRef) -> None:
        claim, made = await calls(store, ref, "a")
        for takes in (1, 2, 3):
            (claim,) = await store.take_unfinished_turns()
            assert claim.takes == takes
        assert await store.park(claim.fence, [draft(pending(made))], NOTHING, [made[0].id])
        await answer(store, ref, approved(made[0].id))
        (claim,) = await store.take_unfinished_turns()
        assert claim.takes == 1

    async def test_a_parked_turn_goes_with_its_session(self, store: Store, ref: SessionRef) -> None:
        claim, waiting = await parked(store, ref, "a")
        await store.delete_session(ref, None)
        with pytest.raises(NotFound):
            await answer(store, ref, approved(waiting[0]))
        with pytest.raises(NotFound):
            await store.outstanding_calls(ref)
        await purge_all(store)
        assert await read_all(store, claim.session.id) == []
