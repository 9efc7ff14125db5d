"""What every Store must do with inputs that come while a turn runs. Part of `store_contract`."""

import asyncio
from typing import Any

import pytest

from sessile.ports import Store
from sessile.rows import AgentRow, Claim, Fence, Once, Queued, Rejoined, SessionChanges, SessionRef, SessionRow, TurnEnd
from sessile.testing.store_world import (
    AGENT,
    DONE,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    new_session,
    new_tenant,
    purge_all,
    read_all,
    said,
    sequences,
    shown,
    thought,
)
from sessile.wire import ids
from sessile.wire.errors import (
    AgentDisabled,
    FenceLost,
    InputTaken,
    InputWithdrawn,
    NotFound,
    SessionRunning,
    TooManyInputs,
)
from sessile.wire.inputs import Behavior
from sessile.wire.limits import MAX_WAITING_INPUTS

ONCE = Once("k", b"this")


async def queue(
    store: Store, ref: SessionRef, text: str = "More", behavior: Behavior = "follow_up", once: Once | None = None
) -> Queued:
    """An input that waits."""
    queued = await store.accept_input(ref, said(text), ids.turn_id(), admit_all, once, behavior=behavior)
    assert isinstance(queued, Queued)
    return queued


async def end(store: Store, claim: Claim) -> Claim | None:
    """End a turn; returns the next one."""
    return (await store.append(claim.fence, [answered()], NOTHING, DONE)).next


def words(claim: Claim | None) -> str:
    """The input of a turn."""
    assert claim is not None
    event: Any = claim.opened[0].event()
    assert isinstance(event.content, str)
    return event.content


class WaitingContract(Fixtures):
    """Queueing, taking, withdrawing."""

    @pytest.mark.parametrize("behavior", ["steer", "follow_up"])
    async def test_on_an_idle_session_a_turn_starts_at_once(
        self, store: Store, ref: SessionRef, behavior: Behavior
    ) -> None:
        claim = await store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior=behavior)
        assert isinstance(claim, Claim)
        assert (sequences(claim.opened), claim.waited) == ([1, 2], False)
        assert await store.list_waiting(ref) == []

    async def test_what_waits_is_listed_and_in_no_log(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        session = await store.get_session(ref)
        queued = [await queue(store, ref, "a"), await queue(store, ref, "b", "steer"), await queue(store, ref, "c")]
        waiting = await store.list_waiting(ref)
        assert waiting == [one.input for one in queued]
        assert [(one.body, one.behavior) for one in waiting] == [
            (said("a").body, "follow_up"),
            (said("b").body, "steer"),
            (said("c").body, "follow_up"),
        ]
        assert {one.session for one in queued} == {session}
        assert await store.get_session(ref) == session
        assert shown(await read_all(store, session.id)) == shown(claim.opened)
        for one in waiting:
            assert one.event_id > claim.opened[-1].id
            with pytest.raises(NotFound):
                await store.get_event(ref, one.event_id)
        assert await (await harness.reopen()).list_waiting(ref) == waiting

    async def test_the_commit_that_ends_a_turn_starts_the_next(self, store: Store, ref: SessionRef) -> None:
        first = await accept(store, ref)
        queued = await queue(store, ref, "b")
        ended = await store.append(first.fence, [answered()], NOTHING, TurnEnd("interrupted"))
        claim = ended.next
        assert claim is not None
        assert [entry.type for entry in claim.opened] == ["input_message", "turn_started"]
        assert sequences(ended.entries + claim.opened) == [3, 4, 5, 6]
        assert (claim.turn_id, claim.fence.session_id, claim.waited) == (queued.input.turn_id, first.session.id, True)
        assert (claim.session.last_sequence, claim.session.status) == (4, "stopped")
        assert claim.agent == first.agent
        assert ids.is_same_input(claim.opened[0].id, queued.input.event_id)
        assert ids.sequence_of(claim.opened[0].id) == 5
        assert claim.opened[1].event().input_event_id == claim.opened[0].id  # type: ignore[union-attr]
        row, turn = await store.get_session(ref), await store.get_turn(ref, claim.turn_id)
        assert (row.status, row.running_turn, row.last_sequence) == ("running", claim.turn_id, 6)
        assert (row.last_event_id, row.stop_reason) == (claim.opened[0].id, None)
        assert (turn.running, turn.input_event_id, turn.input_sequence) == (True, claim.opened[0].id, 5)
        assert shown(await read_all(store, row.id)) == shown(first.opened + ended.entries + claim.opened)
        assert await end(store, claim) is None
        assert (await store.get_session(ref)).status == "stopped"

    async def test_turns_come_in_the_order_of_acceptance(self, store: Store, ref: SessionRef) -> None:
        claim: Claim | None = await accept(store, ref, "0")
        for number in range(1, 6):
            await queue(store, ref, str(number), "steer" if number % 2 else "follow_up")
        told = []
        while claim is not None:
            told.append(words(claim))
            with pytest.raises(SessionRunning):
                await accept(store, ref)
            claim = await end(store, claim)
        assert told == ["0", "1", "2", "3", "4", "5"]
        assert words(await accept(store, ref, "6")) == "6"

    async def test_a_taken_input_is_found_under_both_ids(self, harness: Harness, store: Store, ref: SessionRef) -> None:
        first = await accept(store, ref)
        waiting_id = (await queue(store, ref)).input.event_id
        claim = await end(store, first)
        assert claim is not None
        for _ in range(2):
            for name in (waiting_id, claim.opened[0].id):
                assert (await harness.store.get_event(ref, name)).json == claim.opened[0].json
            await harness.reopen()
        with pytest.raises(NotFound):
            await harness.store.get_event(ref, waiting_id[:-1] + ("0" if waiting_id[-1] != "0" else "1"))

    async def test_steering_inputs_join_the_turn_that_runs(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        assert await store.take_steering(claim.fence) == []
        assert not (await store.append(claim.fence, [thought()], NOTHING)).steered
        queued = [await queue(store, ref, text, behavior) for text, behavior in _MIXED]
        assert (await store.append(claim.fence, [thought()], NOTHING)).steered
        before = (await store.get_session(ref)).last_sequence
        entries = await store.take_steering(claim.fence)
        assert [entry.event().content for entry in entries] == ["a", "c"]  # type: ignore[union-attr]
        assert sequences(entries) == [before + 1, before + 2]
        assert {entry.turn_id for entry in entries} == {claim.turn_id}
        row = await store.get_session(ref)
        assert (row.last_sequence, row.last_event_id, row.running_turn) == (before + 2, entries[1].id, claim.turn_id)
        assert await store.list_waiting(ref) == [queued[1].input]
        assert (await store.get_event(ref, queued[0].input.event_id)).id == entries[0].id
        appended = await store.append(claim.fence, [answered()], NOTHING)
        assert (sequences(appended.entries), appended.steered) == ([before + 3], False)
        assert words(await end(store, claim)) == "b"

    async def test_what_could_not_join_a_turn_gets_its_own(self, store: Store, ref: SessionRef) -> None:
        first = await accept(store, ref)
        queued = [await queue(store, ref, text, "steer") for text in "ab"]
        claim = await end(store, first)
        assert (words(claim), claim.turn_id if claim else "") == ("a", queued[0].input.turn_id)
        (waiting,) = await store.list_waiting(ref)
        assert (waiting.behavior, waiting.turn_id) == ("follow_up", queued[1].input.turn_id)
        assert claim is not None
        assert await store.take_steering(claim.fence) == [], "it has its own turn to come"

    async def test_only_the_owner_takes_steering_inputs(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await queue(store, ref, "a", "steer")
        fence = claim.fence
        with pytest.raises(FenceLost):
            await store.take_steering(Fence(fence.session_id, fence.turn, fence.token - 1))
        await store.take_unfinished_turns()
        with pytest.raises(FenceLost):
            await store.take_steering(fence)
        assert len(await store.list_waiting(ref)) == 1

    async def test_a_refused_append_takes_nothing(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await queue(store, ref)
        with pytest.raises(FenceLost):
            await store.append(Fence(claim.fence.session_id, claim.fence.turn, 9), [answered()], NOTHING, DONE)
        assert len(await store.list_waiting(ref)) == 1

    async def test_an_input_that_waits_can_be_withdrawn_once(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        first, second = await queue(store, ref, "a"), await queue(store, ref, "b", "steer")
        assert await store.withdraw_input(ref, first.input.event_id) == claim.session.id
        assert await store.list_waiting(ref) == [second.input]
        for unknown in (first.input.event_id, claim.opened[0].id, ids.waiting_id(), "x"):
            with pytest.raises(NotFound):
                await store.withdraw_input(ref, unknown)
        with pytest.raises(NotFound):
            await store.get_event(ref, first.input.event_id)
        taken = await end(store, claim)
        assert words(taken) == "b"
        with pytest.raises(InputTaken) as caught:
            await store.withdraw_input(ref, second.input.event_id)
        assert taken is not None
        assert caught.value.id == taken.turn_id
        assert await end(store, taken) is None

    async def test_waiting_inputs_of_other_sessions_are_apart(self, store: Store, ref: SessionRef) -> None:
        other = await new_session(store, ref.tenant_id, "other")
        foreign = SessionRef(await new_tenant(store, "umbrella"), ref.agent_key, ref.session_key)
        first, second = await accept(store, ref), await accept(store, other)
        queued = await queue(store, ref)
        for stranger in (other, foreign):
            assert await store.list_waiting(stranger) == []
            with pytest.raises(NotFound):
                await store.withdraw_input(stranger, queued.input.event_id)
        assert await store.take_steering(second.fence) == []
        assert await end(store, second) is None
        assert await end(store, first) is not None

    async def test_a_session_takes_so_many_and_no_more(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await asyncio.gather(*(queue(store, ref, str(number)) for number in range(MAX_WAITING_INPUTS)))
        with pytest.raises(TooManyInputs):
            await queue(store, ref, once=ONCE)
        assert len(await store.list_waiting(ref)) == MAX_WAITING_INPUTS
        assert await end(store, claim) is not None
        await queue(store, ref, once=ONCE)

    async def test_what_admit_raises_is_raised_and_nothing_waits(self, store: Store, ref: SessionRef) -> None:
        await accept(store, ref)

        def refuse(agent: AgentRow, session: SessionRow) -> None:
            raise AgentDisabled

        with pytest.raises(AgentDisabled):
            await store.accept_input(ref, said(), ids.turn_id(), refuse, behavior="steer")
        assert await store.list_waiting(ref) == []

    async def test_the_same_key_finds_its_input_wherever_it_stands(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        first = await accept(store, ref)
        queued = await queue(store, ref, once=ONCE)
        assert (await queue(store, ref, once=ONCE)).input == queued.input
        assert (await queue(await harness.reopen(), ref, once=ONCE)).input == queued.input
        store = harness.store
        claim = await end(store, first)
        assert claim is not None
        for running in (True, False):
            again = await store.accept_input(ref, said(), ids.turn_id(), admit_all, ONCE, behavior="follow_up")
            assert isinstance(again, Rejoined)
            assert (again.turn_id, again.running) == (claim.turn_id, running)
            assert shown(again.opened) == shown(claim.opened[:1])
            if running:
                await end(store, claim)

    async def test_the_same_key_finds_what_has_joined_a_turn(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await queue(store, ref, "a", "steer", ONCE)
        (entry,) = await store.take_steering(claim.fence)
        again = await store.accept_input(ref, said(), ids.turn_id(), admit_all, ONCE, behavior="steer")
        assert isinstance(again, Rejoined)
        assert (again.turn_id, again.running, shown(again.opened)) == (claim.turn_id, True, shown([entry]))

    async def test_the_same_key_does_not_bring_back_what_was_withdrawn(self, store: Store, ref: SessionRef) -> None:
        await accept(store, ref)
        queued = await queue(store, ref, once=ONCE)
        await store.withdraw_input(ref, queued.input.event_id)
        with pytest.raises(InputWithdrawn) as caught:
            await queue(store, ref, once=ONCE)
        assert caught.value.id == queued.input.event_id
        assert await store.list_waiting(ref) == []

    async def test_of_many_with_the_same_key_at_once_one_waits(self, store: Store, ref: SessionRef) -> None:
        await accept(store, ref)
        queued = await asyncio.gather(*(queue(store, ref, once=ONCE) for _ in range(20)))
        assert {one.input.event_id for one in queued} == {one.event_id for one in await store.list_waiting(ref)}
        assert len(await store.list_waiting(ref)) == 1

    async def test_which_inputs_were_withdrawn(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        withdrawn, taken, waits = [(await queue(store, ref, text)).input.event_id for text in ("1", "2", "3")]
        asked = [withdrawn, taken, waits, ids.waiting_id(), "", "x\0y"]
        assert list(await store.withdrawn_inputs(claim.session.id, asked)) == []
        await store.withdraw_input(ref, withdrawn)
        await store.append(claim.fence, [answered()], NOTHING, DONE)
        assert list(await store.withdrawn_inputs(claim.session.id, asked)) == [withdrawn]
        assert list(await store.withdrawn_inputs(claim.session.id, [])) == []
        other = (await store.get_session(await new_session(store, ref.tenant_id, "other"))).id
        assert list(await store.withdrawn_inputs(other, asked)) == []

    async def test_withdrawing_and_taking_at_once_have_one_outcome(self, store: Store, ref: SessionRef) -> None:
        claim: Claim | None = await accept(store, ref)
        queued = [(await queue(store, ref, str(number))).input.event_id for number in range(10)]
        outcomes = asyncio.gather(*(store.withdraw_input(ref, one) for one in queued), return_exceptions=True)
        taken = 0
        while claim is not None:
            claim = await end(store, claim)
            taken += claim is not None
        lost = [outcome for outcome in await outcomes if isinstance(outcome, BaseException)]
        assert [type(error) for error in lost] == [InputTaken] * taken

    async def test_a_crash_leaves_a_running_turn_and_what_waits(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        first = await accept(store, ref)
        await queue(store, ref, "b")
        await queue(store, ref, "c")
        claim = await end(store, first)
        assert claim is not None
        store = await harness.reopen()
        (taken,) = await store.take_unfinished_turns()
        assert (taken.turn_id, taken.fence.token, taken.waited) == (claim.turn_id, 2, True)
        assert [one.body for one in await store.list_waiting(ref)] == [said("c").body]
        await store.append(taken.fence, [thought()], NOTHING)
        (again,) = await store.take_unfinished_turns()
        assert again.waited is False, "it has begun"
        assert words(await end(store, again)) == "c"

    async def test_the_next_turn_has_the_agent_and_the_session_of_its_start(
        self, store: Store, ref: SessionRef
    ) -> None:
        first = await accept(store, ref)
        await queue(store, ref)
        await store.save_agent(ref.tenant_id, AGENT, b"{}", False, 1)
        await store.update_session(ref, SessionChanges(enabled=False), None)
        claim = await end(store, first)
        assert claim is not None
        assert (claim.agent.enabled, claim.agent.document, claim.session.enabled) == (False, b"{}", False)

    async def test_deleting_a_session_deletes_what_waits(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        queued = await queue(store, ref)
        await store.delete_session(ref, None)
        for verb in (store.list_waiting(ref), store.withdraw_input(ref, queued.input.event_id)):
            with pytest.raises(NotFound):
                await verb
        with pytest.raises(FenceLost):
            await end(store, claim)
        await new_session(store, ref.tenant_id)
        assert await store.list_waiting(ref) == []
        await purge_all(store)
        again = await accept(store, ref)
        assert await end(store, again) is None


_MIXED: tuple[tuple[str, Behavior], ...] = (("a", "steer"), ("b", "follow_up"), ("c", "steer"))
