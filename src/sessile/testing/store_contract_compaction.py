"""What every Store must do with summaries: orders, what one covers, which one stands. Part of `store_contract`."""

import pytest

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import LogMovedOn, Store
from sessile.rows import LEASE_SECONDS, Claim, Cover, Once, Rejoined, SessionRef, Span, Summary
from sessile.testing.store_contract_client_tools import parked
from sessile.testing.store_contract_once import ONCE
from sessile.testing.store_contract_waiting import queue
from sessile.testing.store_world import (
    DONE,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    append,
    read_all,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import (
    FenceLost,
    IdempotencyKeyReused,
    InvalidRequest,
    NothingToCompact,
    PreconditionFailed,
    SessionRunning,
)
from sessile.wire.events import CompactionEvent


def summary(span: Span, text: str = "Short.") -> Draft:
    """A summary of a span."""
    return draft(
        CompactionEvent(
            turns_compacted=span.turns,
            events_compacted=span.events,
            summary_key="sum_1",
            summary_text=text,
            up_to_event_id=span.last_event_id,
        )
    )


async def order(store: Store, ref: SessionRef, up_to: str | None = None, **more: object) -> Claim | Rejoined:
    """Order a compaction."""
    return await store.accept_compaction(ref, up_to, None, ids.turn_id(), admit_all, **more)  # type: ignore[arg-type]


async def compacted(store: Store, ref: SessionRef, up_to: str | None = None, text: str = "Short.") -> Entry:
    """A compaction that has ended; returns its event."""
    claim = await order(store, ref, up_to)
    assert isinstance(claim, Claim)
    assert claim.order is not None
    through = ids.sequence_of(claim.order.up_to_event_id)
    span = await store.span(claim.session.id, through=through)
    assert span is not None
    cover = Cover(span, claim.opened[-1].sequence)
    entries = await append(store, claim.fence, [summary(span, text)], NOTHING, DONE, cover)
    return entries[0]


class CompactionContract(Fixtures):
    """Summaries in the place of the beginnings of logs."""

    async def test_an_order_is_a_turn_without_an_input(self, store: Store, ref: SessionRef) -> None:
        first = await whole_turn(store, ref)
        await whole_turn(store, ref)
        before = await store.get_session(ref)
        claim = await store.accept_compaction(ref, None, "Briefly.", ids.turn_id(), admit_all)
        assert isinstance(claim, Claim)
        assert claim.order is not None
        (entry,) = claim.opened
        assert (entry.type, entry.sequence, entry.turn_id) == ("turn_started", 9, claim.turn_id)
        assert (claim.order.up_to_event_id, claim.order.compaction_message) == (first[-1].id, "Briefly.")
        assert entry.event().compaction == claim.order  # type: ignore[union-attr]
        row = await store.get_session(ref)
        assert (row.status, row.last_sequence, row.last_event_id) == ("running", 9, before.last_event_id)
        assert (await store.get_turn(ref, claim.turn_id)).input_event_id == ""
        with pytest.raises(SessionRunning):
            await order(store, ref)

    async def test_too_few_turns(self, store: Store, ref: SessionRef) -> None:
        with pytest.raises(NothingToCompact):
            await order(store, ref)
        turn = await whole_turn(store, ref)
        with pytest.raises(NothingToCompact):
            await order(store, ref)
        with pytest.raises(InvalidRequest):
            await order(store, ref, ids.event_id(1))
        with pytest.raises(PreconditionFailed):
            await order(store, ref, turn[-1].id, if_match="start")
        assert (await store.get_session(ref)).last_sequence == len(turn)
        await compacted(store, ref, turn[-1].id)
        with pytest.raises(NothingToCompact):
            await order(store, ref, turn[-1].id)

    async def test_the_same_order_again(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        await whole_turn(store, ref)
        claim = await order(store, ref, once=ONCE)
        again = await order(store, ref, once=ONCE)
        assert isinstance(again, Rejoined)
        assert (again.turn_id, again.running, again.opened[0].id) == (claim.turn_id, True, claim.opened[0].id)

    async def test_a_key_that_a_waiting_input_has_used(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        await accept(store, ref)
        await queue(store, ref, once=ONCE)
        with pytest.raises(IdempotencyKeyReused):
            await order(store, ref, once=Once(ONCE.key, b"an order"))

    async def test_a_turn_that_waits_for_a_client_takes_no_order(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        claim, _ = await parked(store, ref, "one")
        with pytest.raises(SessionRunning) as refusal:
            await order(store, ref)
        assert refusal.value.id == claim.turn_id

    async def test_an_order_whose_lease_has_run_out_is_taken_up(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        await whole_turn(store, ref)
        await whole_turn(store, ref)
        claim = await order(store, ref)
        assert await store.take_expired_turns() == []
        await harness.clock.advance(LEASE_SECONDS)
        (taken,) = await store.take_expired_turns()
        assert (taken.turn_id, taken.opened, taken.waited) == (claim.turn_id, [], False)

    async def test_the_commit_of_a_summary_that_ends_its_turn_takes_what_waits(
        self, store: Store, ref: SessionRef
    ) -> None:
        agent = await store.get_agent(ref.tenant_id, ref.agent_key)
        document = b'{"compaction":{"keep_recent_inputs":1}}'
        await store.save_agent(ref.tenant_id, ref.agent_key, document, True, agent.version)
        turns = [await whole_turn(store, ref) for _ in range(2)]
        claim = await order(store, ref)
        assert isinstance(claim, Claim)
        await queue(store, ref, "Next", "steer")
        span = await store.span(claim.session.id, through=turns[0][-1].sequence)
        assert span is not None
        cover = Cover(span, claim.opened[-1].sequence)
        added = await store.append(claim.fence, [summary(span)], NOTHING, DONE, cover)
        assert [entry.type for entry in added.entries] == ["compaction", "turn_ended"]
        assert added.next is not None
        assert [entry.type for entry in added.next.opened] == ["input_message", "turn_started"]
        assert added.next.session.compaction == '{"keep_recent_inputs":1}'
        entries = await read_all(store, claim.session.id)
        assert [entry.sequence for entry in entries if entry.hidden] == [1, 3]
        assert entries[-1].sequence == added.next.opened[-1].sequence

    async def test_an_input_that_has_joined_a_turn_stays_with_it(self, store: Store, ref: SessionRef) -> None:
        first = await whole_turn(store, ref)
        claim = await accept(store, ref)
        await queue(store, ref, "Now", "steer")
        assert len(await store.take_steering(claim.fence)) == 1
        await append(store, claim.fence, [answered()], NOTHING, DONE)
        span = await store.span(claim.session.id, keep=1)
        assert span is not None
        assert (span.through, span.turns) == (first[-1].sequence, 1)

    async def test_what_is_covered_is_hidden_in_the_same_commit(self, store: Store, ref: SessionRef) -> None:
        first = await whole_turn(store, ref)
        second = await whole_turn(store, ref)
        session_id = (await store.get_session(ref)).id
        assert await store.summary(session_id) == Summary()
        span = await store.span(session_id, keep=1)
        assert span == Span(0, 4, first[-1].id, 1, 2)
        await compacted(store, ref)
        entries = await read_all(store, session_id)
        hidden = [entry.sequence for entry in entries if entry.hidden]
        assert hidden == [1, 3], "records stay"
        assert not any(entry.hidden for entry in entries if entry.id in {event.id for event in second})
        assert await store.summary(session_id) == Summary("Short.", 4, 0)
        assert await store.span(session_id, keep=1) is None
        third = await whole_turn(store, ref)
        assert await store.span(session_id, keep=1) == Span(4, third[0].sequence - 1, entries[-1].id, 1, 3)

    async def test_kept_inputs(self, store: Store, ref: SessionRef) -> None:
        turns = [await whole_turn(store, ref) for _ in range(4)]
        session_id = (await store.get_session(ref)).id
        for keep in (1, 2, 3):
            span = await store.span(session_id, keep=keep)
            assert span is not None
            assert (span.through, span.turns) == (turns[-keep][0].sequence - 1, 4 - keep)
        assert await store.span(session_id, keep=4) is None
        assert await store.span(session_id, keep=10**18) is None

    async def test_a_change_meanwhile_throws_the_summary_away(self, store: Store, ref: SessionRef) -> None:
        first = await whole_turn(store, ref)
        await whole_turn(store, ref)
        claim = await accept(store, ref)
        span = await store.span(claim.session.id, keep=1)
        assert span is not None
        cover = Cover(span, claim.opened[-1].sequence)
        await store.set_hidden(ref, first[0].id, True)
        with pytest.raises(LogMovedOn):
            await store.append(claim.fence, [summary(span)], NOTHING, None, cover)
        entries = await read_all(store, claim.session.id)
        assert [entry.sequence for entry in entries if entry.hidden] == [1]
        assert "compaction" not in {entry.type for entry in entries}
        seen = Cover(span, entries[-1].sequence)
        await store.append(claim.fence, [summary(span)], NOTHING, None, seen)
        await store.append(claim.fence, [], NOTHING, DONE)
        with pytest.raises(FenceLost):
            await store.append(claim.fence, [summary(span)], NOTHING, None, seen)

    async def test_a_deletion_reaches_the_summaries_that_cover_it(self, store: Store, ref: SessionRef) -> None:
        turns = [await whole_turn(store, ref) for _ in range(4)]
        session_id = (await store.get_session(ref)).id
        one = await compacted(store, ref, turns[0][-1].id, "one")
        two = await compacted(store, ref, turns[1][-1].id, "two")
        three = await compacted(store, ref, turns[2][-1].id, "three")
        assert await store.summary(session_id) == Summary("three", turns[2][-1].sequence, 0)
        await store.delete_event(ref, turns[1][0].id)
        left = [(await store.get_event(ref, entry.id)).event() for entry in (one, two, three)]
        assert [event.stale for event in left] == [False, True, True]  # type: ignore[union-attr]
        assert [bool(event.summary_text) for event in left] == [True, False, False]  # type: ignore[union-attr]
        expected = Summary("one", turns[0][-1].sequence, turns[2][-1].sequence)
        assert await store.summary(session_id) == expected
        again = await store.span(session_id, through=expected.stale_through)
        assert again is not None
        assert (again.after, again.turns, again.events) == (turns[0][-1].sequence, 1, 3)
        await store.delete_event(ref, turns[3][0].id)
        assert await store.summary(session_id) == expected

    async def test_what_is_left_of_a_turn_without_its_input_is_summarised_again(
        self, store: Store, ref: SessionRef
    ) -> None:
        turn = await whole_turn(store, ref)
        await whole_turn(store, ref)
        await compacted(store, ref)
        session_id = (await store.get_session(ref)).id
        await store.delete_event(ref, turn[0].id)
        stale = (await store.summary(session_id)).stale_through
        assert await store.span(session_id, through=stale) == Span(0, 4, turn[-1].id, 0, 1)
        await store.delete_event(ref, turn[2].id)
        assert await store.span(session_id, through=stale) is None

    async def test_a_summary_that_a_caller_hid_does_not_count(self, store: Store, ref: SessionRef) -> None:
        turns = [await whole_turn(store, ref) for _ in range(3)]
        session_id = (await store.get_session(ref)).id
        await compacted(store, ref, turns[0][-1].id, "one")
        two = await compacted(store, ref, turns[1][-1].id, "two")
        await store.set_hidden(ref, two.id, True)
        assert await store.summary(session_id) == Summary("one", turns[0][-1].sequence, 0)
        await store.delete_event(ref, two.id)
        assert await store.summary(session_id) == Summary("one", turns[0][-1].sequence, 0)

    async def test_a_covered_event_is_hidden_already_and_can_be_shown(self, store: Store, ref: SessionRef) -> None:
        turn = await whole_turn(store, ref, answered("a"))
        await whole_turn(store, ref)
        await compacted(store, ref)
        assert (await store.set_hidden(ref, turn[0].id, True)).records == []
        shown = await store.set_hidden(ref, turn[0].id, False)
        assert (shown.entry.hidden, len(shown.records)) == (False, 1)

    async def test_a_session_shows_how_its_agent_wants_it(self, store: Store, ref: SessionRef) -> None:
        assert (await store.get_session(ref)).compaction is None
        agent = await store.get_agent(ref.tenant_id, ref.agent_key)
        document = b'{"compaction":{"enabled":false}}'
        await store.save_agent(ref.tenant_id, ref.agent_key, document, True, agent.version)
        found = [await store.get_session(ref)]
        found += (await store.list_sessions(ref.tenant_id, ref.agent_key, cursor=None, limit=10)).rows
        assert {row.compaction for row in found} == {'{"enabled":false}'}
