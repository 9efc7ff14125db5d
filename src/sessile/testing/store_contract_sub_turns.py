"""What every Store must do with turns that tool calls start in sessions of other agents. Part of `store_contract`."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from sessile.ports import CallsTooDeep, Store, TooManyCalls
from sessile.rows import AgentRow, Claim, Creator, Interruption, NewSession, Rejoined, SessionRef, SessionRow, SubCall
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    DONE,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    append,
    new_session,
    purge_all,
    read_all,
    said,
    shown,
)
from sessile.wire import ids
from sessile.wire.errors import AgentDisabled, FenceLost, NotFound, SessionRunning
from sessile.wire.limits import MAX_SUB_AGENT_DEPTH, MAX_SUB_AGENT_TURNS

HELPER = "helper"


def by(claim: Claim, event_id: str = "aev_1", **fields: Any) -> SubCall:
    """A call of a running turn, to the helper."""
    above = claim.session
    values = {"tenant_id": above.tenant_id, "agent_key": HELPER, **fields}
    creator = Creator(agent_key=above.agent_key, session_key=above.key, agent_id=above.agent_id, session_id=above.id)
    return SubCall(turn_id=claim.turn_id, event_id=event_id, creator=creator, **values)


def fresh(key: str = "sub", **fields: Any) -> NewSession:
    """The session that a call creates."""
    values = {"name": key, "description": None, "metadata": b'{"case":7}', "enabled": True, "tti_minutes": 5}
    return NewSession(key=key, **(values | fields))


async def start(store: Store, call: SubCall, key: str = "sub") -> Claim | Rejoined:
    """Start the turn of a call, or find it again."""
    return await store.start_sub_turn(call, fresh(key), said("Do it."), ids.turn_id(), admit_all)


async def started(store: Store, call: SubCall, key: str = "sub") -> Claim:
    """Start the turn of a call."""
    claim = await start(store, call, key)
    assert isinstance(claim, Claim)
    return claim


async def end(store: Store, claim: Claim) -> None:
    """End a turn well."""
    await append(store, claim.fence, [answered()], NOTHING, DONE)


async def sessions(store: Store, tenant: int, agent: str = HELPER) -> list[SessionRow]:
    """The sessions of an agent, newest first."""
    return list((await store.list_sessions(tenant, agent, cursor=None, limit=100)).rows)


class SubTurnContract(Fixtures):
    """Turns below other turns: started once, refused, counted, interrupted."""

    @pytest.fixture
    async def above(self, store: Store, tenant: int, ref: SessionRef) -> Claim:
        """A running turn, beside an agent that it may ask."""
        await store.create_agent(tenant, HELPER, DOCUMENT, True)
        return await accept(store, ref)

    async def test_a_call_starts_a_turn_in_a_session_that_names_its_creator(self, store: Store, above: Claim) -> None:
        tenant = above.session.tenant_id
        below = await started(store, by(above))
        assert [entry.type for entry in below.opened] == ["input_message", "turn_started"]
        row = await store.get_session(SessionRef(tenant, HELPER, "sub"))
        assert (row.running_turn, row.metadata, row.tti_minutes) == (below.turn_id, b'{"case":7}', 5)
        assert row.creator == below.session.creator
        assert row.creator is not None
        assert [found.creator for found in await sessions(store, tenant)] == [row.creator]
        assert (await store.get_session(SessionRef(tenant, AGENT, above.session.key))).creator is None
        await end(store, below)
        assert (await store.get_session(SessionRef(tenant, HELPER, "sub"))).stop_reason == "end_turn"

    async def test_the_same_call_finds_its_turn_whatever_it_asks_for(self, store: Store, above: Claim) -> None:
        tenant = above.session.tenant_id
        below = await started(store, by(above))
        for running in (True, False):
            again = await start(store, by(above), "another")
            assert isinstance(again, Rejoined)
            assert (again.turn_id, again.session.key, again.running) == (below.turn_id, "sub", running)
            assert shown(again.opened) == shown(below.opened[:1])
            if running:
                await end(store, below)
        assert len(await sessions(store, tenant)) == 1
        other = await started(store, by(above, "aev_2"), "another")
        assert other.turn_id != below.turn_id

    async def test_calls_at_once_start_one_turn(self, store: Store, above: Claim) -> None:
        found = await asyncio.gather(*(start(store, by(above), f"s{number}") for number in range(8)))
        assert len({each.turn_id for each in found}) == 1
        assert sum(isinstance(each, Claim) for each in found) == 1
        assert len(await sessions(store, above.session.tenant_id)) == 1

    async def test_it_is_found_after_a_restart(self, harness: Harness, store: Store, above: Claim) -> None:
        below = await started(store, by(above))
        store = await harness.reopen()
        assert {claim.turn_id for claim in await store.take_unfinished_turns()} == {above.turn_id, below.turn_id}
        again = await start(store, by(above), "another")
        assert (again.turn_id, len(await sessions(store, above.session.tenant_id))) == (below.turn_id, 1)

    async def test_a_turn_that_does_not_run_calls_nobody(self, store: Store, ref: SessionRef, above: Claim) -> None:
        await store.interrupt(ref)
        with pytest.raises(FenceLost):
            await start(store, by(above))
        await end(store, above)
        with pytest.raises(FenceLost):
            await start(store, by(above))
        assert await sessions(store, ref.tenant_id) == []

    async def test_an_agent_or_a_session_that_is_not_there(self, store: Store, above: Claim) -> None:
        with pytest.raises(NotFound):
            await start(store, by(above, agent_key="nobody"))
        with pytest.raises(NotFound):
            await start(store, by(above, creates=False))
        await new_session(store, above.session.tenant_id, "theirs")
        with pytest.raises(NotFound):
            await start(store, by(above, agent_key=AGENT), "theirs")
        assert await sessions(store, above.session.tenant_id) == []

    async def test_what_is_not_admitted_leaves_nothing(self, store: Store, above: Claim) -> None:
        def refuse(agent: AgentRow, session: SessionRow) -> None:
            assert (agent.key, session.key) == (HELPER, "sub")
            raise AgentDisabled

        with pytest.raises(AgentDisabled):
            await store.start_sub_turn(by(above), fresh(), said(), ids.turn_id(), refuse)
        assert await sessions(store, above.session.tenant_id) == []
        await started(store, by(above))

    async def test_a_session_is_shared_by_whom_the_call_says(
        self, store: Store, tenant: int, ref: SessionRef, above: Claim
    ) -> None:
        below = await started(store, by(above))
        with pytest.raises(SessionRunning):
            await start(store, by(above, "aev_2"))
        await end(store, below)
        again = await started(store, by(above, "aev_2", creates=False))
        assert again.session.id == below.session.id
        await end(store, again)
        sibling = await accept(store, await new_session(store, tenant, "sibling"))
        with pytest.raises(NotFound):
            await start(store, by(sibling))
        shared = await started(store, by(sibling, shared_by="agent"))
        assert shared.session.id == below.session.id

    async def test_turns_stand_so_deep_and_no_deeper(self, store: Store, above: Claim) -> None:
        lowest = above
        for level in range(MAX_SUB_AGENT_DEPTH):
            lowest = await started(store, by(lowest), f"level-{level}")
        with pytest.raises(CallsTooDeep):
            await start(store, by(lowest), "too-deep")
        assert len(await sessions(store, above.session.tenant_id)) == MAX_SUB_AGENT_DEPTH

    async def test_so_many_turns_stand_below_one_and_no_more(self, store: Store, above: Claim) -> None:
        below = await started(store, by(above), "below")
        for number in range(MAX_SUB_AGENT_TURNS - 1):
            caller, key = ((above, "first"), (below, "second"))[number % 2]
            await end(store, await started(store, by(caller, f"aev_{number + 2}"), key))
        for claim in (above, below):
            with pytest.raises(TooManyCalls):
                await start(store, by(claim, "aev_0"), "shared")
        again = await start(store, by(above), "below")
        assert again.turn_id == below.turn_id

    async def test_an_interrupt_reaches_all_turns_below(
        self, harness: Harness, store: Store, ref: SessionRef, above: Claim
    ) -> None:
        first = await started(store, by(above), "first")
        second = await started(store, by(above, "aev_2"), "second")
        lowest = await started(store, by(first), "lowest")
        ended = await started(store, by(above, "aev_3"), "ended")
        await end(store, ended)
        found = await store.interrupt(ref)
        assert {each.turn_id for each in found.below} == {first.turn_id, second.turn_id, lowest.turn_id}
        assert all(each.claim is None for each in found.below)
        store = await harness.reopen()
        taken = await store.take_unfinished_turns()
        assert [claim.interrupted for claim in taken] == [True] * 4

    async def test_an_interrupt_below_leaves_those_above(self, store: Store, above: Claim) -> None:
        below = await started(store, by(above))
        found = await store.interrupt(SessionRef(above.session.tenant_id, HELPER, "sub"))
        assert found == replace(found, turn_id=below.turn_id, below=[])
        assert isinstance(found, Interruption)
        taken = {claim.turn_id: claim.interrupted for claim in await store.take_unfinished_turns()}
        assert taken == {above.turn_id: False, below.turn_id: True}

    async def test_deleting_one_leaves_the_other(self, store: Store, ref: SessionRef, above: Claim) -> None:
        below = await started(store, by(above))
        creator = below.session.creator
        await store.delete_session(ref, None)
        await purge_all(store)
        await end(store, below)
        row = await store.get_session(SessionRef(ref.tenant_id, HELPER, "sub"))
        assert (row.stop_reason, row.creator) == ("end_turn", creator)
        assert len(await read_all(store, row.id)) == 4
        await store.delete_session(SessionRef(ref.tenant_id, HELPER, "sub"), None)
        await purge_all(store)
        assert await sessions(store, ref.tenant_id) == []

    async def test_a_session_with_the_key_of_a_deleted_one_created_nothing(
        self, store: Store, ref: SessionRef, above: Claim
    ) -> None:
        await end(store, await started(store, by(above)))
        await store.delete_session(ref, None)
        anew = await accept(store, await new_session(store, ref.tenant_id, ref.session_key))
        with pytest.raises(NotFound):
            await start(store, by(anew))
