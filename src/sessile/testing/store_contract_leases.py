"""What every Store must do with the leases of turns. Part of `store_contract`."""

import asyncio

import pytest

from sessile.ports import Store
from sessile.rows import LEASE_SECONDS, Claim, Fence, SessionRef, Standing
from sessile.testing.store_contract_waiting import end, queue
from sessile.testing.store_world import (
    AGENT,
    DONE,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    answered,
    new_session,
    read_all,
    sequences,
    thought,
)
from sessile.wire.errors import FenceLost

EARLY = LEASE_SECONDS * 2 / 3
"""Not yet a lease, but two of them are more than one."""


class LeaseContract(Fixtures):
    """Who may claim a turn, and when."""

    async def test_a_turn_under_a_lease_is_not_taken(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        assert await store.take_expired_turns() == []
        await harness.clock.advance(EARLY)
        assert await store.take_expired_turns() == []
        await store.append(claim.fence, [thought()], NOTHING)

    async def test_a_turn_whose_lease_has_run_out_is_taken_once(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        claim = await accept(store, ref)
        await store.append(claim.fence, [thought()], NOTHING)
        await harness.clock.advance(LEASE_SECONDS)
        found = await asyncio.gather(*(store.take_expired_turns() for _ in range(5)))
        (taken,) = [claim for claims in found for claim in claims]
        assert (taken.turn_id, taken.opened) == (claim.turn_id, [])
        assert taken.fence == Fence(claim.fence.session_id, claim.fence.turn, claim.fence.token + 1)
        assert taken.session.last_sequence == 3
        for drafts in ([], [answered()]):
            with pytest.raises(FenceLost):
                await store.append(claim.fence, drafts, NOTHING, DONE)
        assert sequences((await store.append(taken.fence, [answered()], NOTHING, DONE)).entries) == [4, 5]
        assert len(await read_all(store, claim.session.id)) == 5

    async def test_when_the_next_lease_runs_out(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        assert await store.next_expiry() is None
        claim = await accept(store, ref)
        assert await store.next_expiry() == LEASE_SECONDS
        await harness.clock.advance(EARLY)
        await accept(store, await new_session(store, ref.tenant_id, "other"))
        assert await store.next_expiry() == pytest.approx(LEASE_SECONDS - EARLY)
        await store.renew([claim.fence])
        assert await store.next_expiry() == LEASE_SECONDS
        await harness.clock.advance(2 * LEASE_SECONDS)
        assert await store.next_expiry() == -LEASE_SECONDS
        assert len(await store.take_expired_turns()) == 2
        assert await store.next_expiry() == LEASE_SECONDS

    async def test_as_many_expired_turns_are_taken_as_are_asked_for(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        made = [await accept(store, ref)]
        made += [await accept(store, await new_session(store, ref.tenant_id, f"other-{number}")) for number in range(4)]
        await harness.clock.advance(LEASE_SECONDS)
        taken = [await store.take_expired_turns(2) for _ in range(4)]
        assert [len(claims) for claims in taken] == [2, 2, 1, 0]
        assert {claim.turn_id for claims in taken for claim in claims} == {claim.turn_id for claim in made}

    async def test_the_fence_decides_and_not_the_lease(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await harness.clock.advance(100 * LEASE_SECONDS)
        await store.append(claim.fence, [thought()], NOTHING)
        assert await store.renew([claim.fence]) == []
        assert await store.take_expired_turns() == []
        await store.append(claim.fence, [answered()], NOTHING, DONE)
        await harness.clock.advance(100 * LEASE_SECONDS)
        assert await store.take_expired_turns() == []

    async def test_a_renewed_lease_holds_for_another(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        other = await accept(store, await new_session(store, ref.tenant_id, "other"))
        claim = await accept(store, ref)
        for _ in range(3):
            await harness.clock.advance(EARLY)
            assert await store.renew([claim.fence]) == []
        assert [taken.turn_id for taken in await store.take_expired_turns()] == [other.turn_id]
        await harness.clock.advance(LEASE_SECONDS)
        assert {taken.turn_id for taken in await store.take_expired_turns()} == {claim.turn_id, other.turn_id}

    async def test_renewing_tells_what_is_lost(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        claims = [await accept(store, await new_session(store, ref.tenant_id, key)) for key in ("a", "b", "c", "d")]
        kept, taken, ended, deleted = [claim.fence for claim in claims]
        await harness.clock.advance(EARLY)
        await store.renew([kept, ended, deleted])
        await harness.clock.advance(EARLY)
        (claim,) = await store.take_expired_turns()
        await store.append(ended, [answered()], NOTHING, DONE)
        assert claim.fence.turn == taken.turn
        assert set(await store.renew([kept, taken, ended])) == {taken, ended}
        assert list(await store.renew([claim.fence])) == []
        assert list(await store.renew([])) == []

    async def test_every_way_to_a_claim_gives_a_lease(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        first = await accept(store, ref)
        await queue(store, ref)
        await harness.clock.advance(EARLY)
        queued = await end(store, first)
        assert queued is not None
        await harness.clock.advance(EARLY)
        assert await store.take_expired_turns() == [], "a turn out of the queue has a lease of its own"
        (taken,) = await store.take_unfinished_turns()
        await harness.clock.advance(EARLY)
        assert await store.take_expired_turns() == [], "and so has one that a start took up"
        await harness.clock.advance(EARLY)
        (again,) = await store.take_expired_turns()
        assert (again.turn_id, again.fence.token) == (queued.turn_id, taken.fence.token + 1)
        await harness.clock.advance(EARLY)
        assert await store.take_expired_turns() == [], "and one whose lease had run out"

    async def test_a_clock_that_goes_back_costs_time_and_nothing_else(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        claim = await accept(store, ref)
        await harness.clock.advance(-1000)
        assert await store.take_expired_turns() == []
        await store.append(claim.fence, [thought()], NOTHING)
        assert await store.renew([claim.fence]) == []
        await harness.clock.advance(LEASE_SECONDS)
        (taken,) = await store.take_expired_turns()
        assert await end(store, taken) is None

    async def test_an_interrupt_is_told_to_whoever_takes_the_turn(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        claim = await accept(store, ref)
        await store.interrupt(ref)
        await harness.clock.advance(LEASE_SECONDS)
        (taken,) = await store.take_expired_turns()
        assert isinstance(taken, Claim)
        assert (taken.turn_id, taken.interrupted) == (claim.turn_id, True)

    async def test_a_deleted_session_has_no_turn_to_take(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        await accept(store, ref)
        await harness.clock.advance(LEASE_SECONDS)
        await store.delete_session(ref, None)
        assert await store.take_expired_turns() == []

    async def test_how_claims_stand(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        other = await new_session(store, ref.tenant_id, "other")
        elsewhere = await accept(store, other)
        both, none = [claim.fence, elsewhere.fence], Fence(claim.fence.session_id, claim.fence.turn, 7)
        assert await store.standing([]) == {}
        assert await store.standing([*both, none]) == dict.fromkeys(both, Standing(False, False))
        await queue(store, ref, behavior="follow_up")
        assert await store.standing(both) == dict.fromkeys(both, Standing(False, False))
        await queue(store, ref, behavior="steer")
        assert (await store.standing(both))[claim.fence] == Standing(False, True)
        await store.take_steering(claim.fence)
        await store.interrupt(other)
        assert await store.standing(both) == {
            claim.fence: Standing(False, False),
            elsewhere.fence: Standing(True, False),
        }
        await harness.clock.advance(LEASE_SECONDS)
        assert len(await store.standing(both)) == 2, "a lease that has run out takes nothing away"
        for taken in await store.take_expired_turns():
            assert list(await store.standing([*both, taken.fence])) == [taken.fence]

    async def test_turns_that_end_or_go_with_their_session_stand_no_more(self, store: Store, ref: SessionRef) -> None:
        ended, gone = await accept(store, ref), await new_session(store, ref.tenant_id, "gone")
        parked, deleted = (
            await accept(store, await new_session(store, ref.tenant_id, "parked")),
            await accept(store, gone),
        )
        fences = [ended.fence, parked.fence, deleted.fence]
        assert set(await store.standing(fences)) == set(fences)
        await end(store, ended)
        await store.park(parked.fence, [], NOTHING, ["aev_1"])
        await store.delete_session(gone, None)
        assert await store.standing(fences) == {}
        last = await accept(store, ref)
        await store.delete_agent(ref.tenant_id, AGENT)
        assert await store.standing([last.fence]) == {}
