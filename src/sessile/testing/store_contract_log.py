"""What every Store must do with logs: accept, append, end, read. Part of `store_contract`."""

import asyncio
from typing import Literal

import msgspec
import pytest

from sessile.domain.log import Entry
from sessile.ports import Store
from sessile.rows import AgentRow, Claim, EventQuery, Fence, Page, SessionRef, SessionRow, TurnEnd, TurnProgress
from sessile.testing.store_world import (
    AGENT,
    DONE,
    EVERYTHING,
    NOTHING,
    SESSION,
    Fixtures,
    accept,
    answered,
    append,
    new_session,
    new_tenant,
    read_all,
    said,
    sequences,
    shown,
    thought,
    walk,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import FenceLost, NotFound, SessionDisabled, SessionRunning
from sessile.wire.events import TurnError
from sessile.wire.sessions import InputTokens, OutputTokens, SessionContextUsage, Usage


class LogContract(Fixtures):
    """Accepting, appending, reading."""

    async def test_an_input_and_its_turn_come_first(self, store: Store, ref: SessionRef) -> None:
        session = await store.get_session(ref)
        claim = await accept(store, ref)
        assert [(entry.sequence, entry.type) for entry in claim.opened] == [(1, "input_message"), (2, "turn_started")]
        assert claim.session == session
        assert claim.agent == await store.get_agent(ref.tenant_id, AGENT)
        assert claim.fence.session_id == session.id
        assert shown(await read_all(store, session.id)) == shown(claim.opened)
        assert claim.opened[0].event().content == "Hello"  # type: ignore[union-attr]
        assert claim.opened[1].event().input_event_id == claim.opened[0].id  # type: ignore[union-attr]
        row = await store.get_session(ref)
        assert (row.status, row.stop_reason, row.last_sequence) == ("running", None, 2)
        assert row.last_event_id == claim.opened[0].id
        turn = await store.get_turn(ref, claim.turn_id)
        assert (turn.running, turn.stop_reason, turn.ended_at, turn.error) == (True, None, None, None)
        assert (turn.input_event_id, turn.input_sequence) == (claim.opened[0].id, 1)

    async def test_heads_of_logs_without_what_is_gone(self, store: Store, ref: SessionRef) -> None:
        first = await store.get_session(ref)
        other = await store.get_session(await new_session(store, ref.tenant_id, "other"))
        await accept(store, ref)
        assert await store.heads([first.id, other.id, 10**9]) == {first.id: 2, other.id: 0}
        assert await store.heads([]) == {}
        await store.delete_session(ref, None)
        assert await store.heads([first.id, other.id]) == {other.id: 0}
        await store.delete_agent(ref.tenant_id, AGENT)
        assert await store.heads([other.id]) == {}

    async def test_a_session_names_its_running_turn(self, store: Store, ref: SessionRef) -> None:
        assert (await store.get_session(ref)).running_turn is None
        claim = await accept(store, ref)
        assert (await store.get_session(ref)).running_turn == claim.turn_id
        await append(store, claim.fence, [], NOTHING, DONE)
        assert (await store.get_session(ref)).running_turn is None

    async def test_event_ids_are_unique_and_sort_in_log_order(self, store: Store, ref: SessionRef) -> None:
        for _ in range(10):
            await whole_turn(store, ref, *[thought()] * 7)
        entries = (await store.list_events(ref, EVERYTHING)).rows
        found = [entry.id for entry in entries]
        assert found == sorted(set(found))
        assert sequences(entries) == list(range(1, len(entries) + 1))

    async def test_a_running_turn_refuses_input_and_is_named(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        with pytest.raises(SessionRunning) as caught:
            await accept(store, ref)
        assert caught.value.id == claim.turn_id
        assert len(await read_all(store, claim.session.id)) == 2

    async def test_of_many_inputs_at_once_one_is_accepted(self, store: Store, ref: SessionRef) -> None:
        outcomes = await asyncio.gather(*(accept(store, ref) for _ in range(30)), return_exceptions=True)
        (claim,) = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, SessionRunning)]
        assert ({error.id for error in refused}, len(refused)) == ({claim.turn_id}, 29)
        assert len(await read_all(store, claim.session.id)) == 2

    async def test_what_admit_raises_is_raised_and_nothing_written(self, store: Store, ref: SessionRef) -> None:
        seen: list[str] = []

        def refuse(agent: AgentRow, session: SessionRow) -> None:
            seen.extend((agent.key, session.key))
            raise SessionDisabled

        turn_id = ids.turn_id()
        with pytest.raises(SessionDisabled):
            await store.accept_input(ref, said(), turn_id, refuse)
        row = await store.get_session(ref)
        assert (seen, row.status, row.last_sequence) == ([AGENT, SESSION], "unstarted", 0)
        assert await read_all(store, row.id) == []
        with pytest.raises(NotFound):
            await store.get_turn(ref, turn_id)

    async def test_appends_take_consecutive_places(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        first = await append(store, claim.fence, [thought("a"), thought("b")], NOTHING)
        second = await append(store, claim.fence, [answered("c")], NOTHING)
        assert sequences(first + second) == [3, 4, 5]
        assert {entry.turn_id for entry in first + second} == {claim.turn_id}
        assert shown(await read_all(store, claim.session.id)) == shown(claim.opened + first + second)
        assert (await store.get_session(ref)).last_event_id == second[0].id

    async def test_progress_is_stored_beside_the_events(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        context = SessionContextUsage(
            input_tokens=InputTokens(count=5), output_tokens=OutputTokens(count=2), total_tokens=7
        )
        progress = TurnProgress(
            turn_usage=Usage(5, 1, 2, 0, 1), session_usage=Usage(9, 1, 4, 0, 2), context_usage=context
        )
        await append(store, claim.fence, [thought()], progress)
        await append(store, claim.fence, [], msgspec.structs.replace(progress, context_usage=None))
        row, turn = await store.get_session(ref), await store.get_turn(ref, claim.turn_id)
        assert msgspec.json.decode(row.usage, type=Usage) == progress.session_usage
        assert msgspec.json.decode(turn.usage, type=Usage) == progress.turn_usage
        assert row.context_usage is not None
        assert msgspec.json.decode(row.context_usage, type=SessionContextUsage) == context

    async def test_an_end_closes_the_turn_and_comes_last(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        error = TurnError("model_timeout", "Too slow.")
        usage = Usage(1, 0, 2, 0, 1)
        progress = TurnProgress(turn_usage=usage, session_usage=usage, context_usage=None)
        entries = await append(store, claim.fence, [answered()], progress, TurnEnd("error", error))
        assert [entry.type for entry in entries] == ["agent_output", "turn_ended"]
        ended = entries[-1].event()
        assert (ended.stop_reason, ended.error, ended.usage) == ("error", error, usage)  # type: ignore[union-attr]
        row, turn = await store.get_session(ref), await store.get_turn(ref, claim.turn_id)
        assert (row.status, row.stop_reason, row.last_sequence) == ("stopped", "error", 4)
        assert row.last_event_id == entries[0].id
        assert (turn.running, turn.stop_reason) == (False, "error")
        assert turn.ended_at is not None
        assert turn.error is not None
        assert msgspec.json.decode(turn.error, type=TurnError) == error
        assert sequences((await accept(store, ref)).opened) == [5, 6]

    async def test_a_fence_that_is_not_current_is_refused(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        fence = claim.fence
        wrong = (
            Fence(fence.session_id, fence.turn, fence.token + 1),
            Fence(fence.session_id, fence.turn, fence.token - 1),
            Fence(fence.session_id, fence.turn + 1, fence.token),
            Fence(fence.session_id + 1, fence.turn, fence.token),
        )
        for other in wrong:
            with pytest.raises(FenceLost):
                await append(store, other, [answered()], NOTHING, DONE)
        assert len(await read_all(store, claim.session.id)) == 2
        await append(store, fence, [], NOTHING, DONE)
        with pytest.raises(FenceLost):
            await append(store, fence, [answered()], NOTHING)

    async def test_a_deleted_sessions_fence_is_refused(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await store.delete_session(ref, None)
        with pytest.raises(FenceLost):
            await append(store, claim.fence, [answered()], NOTHING)

    async def test_an_interrupt_is_recorded_with_the_running_turn(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        assert claim.interrupted is False
        await append(store, claim.fence, [thought()], NOTHING)
        row = await store.get_session(ref)
        for _ in range(2):
            found = await store.interrupt(ref)
            assert (found.turn_id, found.session) == (claim.turn_id, row)
        assert await store.get_session(ref) == row
        assert (await store.get_turn(ref, claim.turn_id)).running
        (taken,) = await store.take_unfinished_turns()
        assert taken.interrupted is True
        ended = await append(store, taken.fence, [answered()], NOTHING, TurnEnd("interrupted"))
        assert sequences(ended) == [4, 5]
        assert (await store.get_session(ref)).stop_reason == "interrupted"

    async def test_a_turn_that_was_handed_over_counts_no_take(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await store.hand_over([claim.fence])
        for takes in (0, 1, 2):
            (claim,) = await store.take_unfinished_turns()
            assert claim.takes == takes
        await store.hand_over([Fence(claim.fence.session_id, claim.fence.turn, claim.fence.token - 1)])
        (claim,) = await store.take_unfinished_turns()
        assert claim.takes == 3
        await store.hand_over([claim.fence])
        (claim,) = await store.take_unfinished_turns()
        assert claim.takes == 3
        await store.hand_over([])

    async def test_an_interrupt_without_a_running_turn_leaves_nothing(self, store: Store, ref: SessionRef) -> None:
        row = await store.get_session(ref)
        found = await store.interrupt(ref)
        assert (found.turn_id, found.session) == (None, row)
        await whole_turn(store, ref)
        row = await store.get_session(ref)
        found = await store.interrupt(ref)
        assert (found.turn_id, found.session) == (None, row)
        assert (await accept(store, ref)).interrupted is False
        (taken,) = await store.take_unfinished_turns()
        assert taken.interrupted is False

    async def test_an_interrupt_concerns_one_session_of_one_tenant(self, store: Store, ref: SessionRef) -> None:
        other = await new_session(store, ref.tenant_id, "other")
        claim, untouched = await accept(store, ref), await accept(store, other)
        assert (await store.interrupt(ref)).turn_id == claim.turn_id
        taken = {found.turn_id: found.interrupted for found in await store.take_unfinished_turns()}
        assert taken == {claim.turn_id: True, untouched.turn_id: False}
        stranger = await new_tenant(store, "stranger")
        for nowhere in (
            SessionRef(ref.tenant_id, AGENT, "absent"),
            SessionRef(ref.tenant_id, "absent", SESSION),
            SessionRef(stranger + 1, AGENT, SESSION),
        ):
            with pytest.raises(NotFound):
                await store.interrupt(nowhere)
        assert (await store.interrupt(SessionRef(stranger, AGENT, SESSION))).turn_id is None

    async def test_an_interrupt_and_an_end_at_once_leave_one_end(self, store: Store, tenant: int) -> None:
        for number in range(20):
            ref = await new_session(store, tenant, f"s{number}")
            claim = await accept(store, ref)
            first = [asyncio.ensure_future(store.interrupt(ref))] if number % 2 else []
            ending = asyncio.ensure_future(append(store, claim.fence, [answered()], NOTHING, DONE))
            for found in [await one for one in (*first, asyncio.ensure_future(store.interrupt(ref)))]:
                assert found.turn_id in (claim.turn_id, None)
                assert found.session.last_sequence == (4 if found.turn_id is None else 2)
            ended = await ending
            log = await read_all(store, claim.session.id)
            assert shown(log[2:]) == shown(ended)
            assert [entry.type for entry in log[2:]] == ["agent_output", "turn_ended"]
            assert (await store.get_session(ref)).stop_reason == "end_turn"
            assert await store.take_unfinished_turns() == []

    async def test_an_unfinished_turn_brings_what_it_has_used(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        assert msgspec.json.decode(claim.usage, type=Usage) == Usage()
        used = Usage(5, 1, 2, 0, 1)
        progress = TurnProgress(turn_usage=used, session_usage=used, context_usage=None)
        await append(store, claim.fence, [thought()], progress)
        (taken,) = await store.take_unfinished_turns()
        assert msgspec.json.decode(taken.usage, type=Usage) == used
        assert msgspec.json.decode(taken.session.usage, type=Usage) == used

    async def test_unfinished_turns_are_claimed_under_a_new_fence(self, store: Store, ref: SessionRef) -> None:
        ended = await new_session(store, ref.tenant_id, "ended")
        await whole_turn(store, ended)
        claim = await accept(store, ref)
        (taken,) = await store.take_unfinished_turns()
        assert (taken.turn_id, taken.opened, taken.agent) == (claim.turn_id, [], claim.agent)
        assert taken.session == await store.get_session(ref)
        assert taken.fence.token > claim.fence.token
        with pytest.raises(FenceLost):
            await append(store, claim.fence, [answered()], NOTHING)
        assert sequences(await append(store, taken.fence, [answered()], NOTHING, DONE)) == [3, 4]
        assert await store.take_unfinished_turns() == []


class ReadingContract(Fixtures):
    """Pages of a log, single events, and what is left after a restart."""

    async def test_both_orders_give_every_event_once(self, store: Store, ref: SessionRef) -> None:
        entries = [entry for _ in range(6) for entry in await whole_turn(store, ref, thought(), answered())]
        for limit in (1, 3, 30, 31):
            query = EventQuery(limit=limit, records=True)
            assert shown(await _listed(store, ref, query, "asc")) == shown(entries), limit
            assert shown(await _listed(store, ref, query, "desc")) == shown(entries[::-1]), limit

    async def test_records_and_types_are_chosen(self, store: Store, ref: SessionRef) -> None:
        entries = await whole_turn(store, ref, thought(), answered())

        async def types(**query: object) -> list[str]:
            page = await store.list_events(ref, EventQuery(limit=10, **query))  # type: ignore[arg-type]
            return [entry.type for entry in page.rows]

        everything = [entry.type for entry in entries]
        assert everything == ["input_message", "turn_started", "thinking", "agent_output", "turn_ended"]
        assert await types(records=True) == everything
        assert await types() == ["input_message", "thinking", "agent_output"]
        assert await types(types=["thinking", "turn_ended"]) == ["thinking"]
        assert await types(types=["thinking", "turn_ended"], records=True) == ["thinking", "turn_ended"]
        assert await types(types=["think"], records=True) == []
        assert await types(types=[], records=True) == []

    async def test_a_rare_type_is_found_in_a_long_log(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        rare = []
        for block in range(30):
            drafts = [thought()] * 100
            if block in (0, 7, 8, 29):
                drafts[block] = answered(f"rare {block}")
            rare += [e for e in await append(store, claim.fence, drafts, NOTHING) if e.type == "agent_output"]
        assert len(rare) == 4
        query = EventQuery(limit=3, types=["agent_output"])
        assert shown(await _listed(store, ref, query, "asc")) == shown(rare)
        assert shown(await _listed(store, ref, query, "desc")) == shown(rare[::-1])
        assert await _listed(store, ref, EventQuery(limit=3, types=["compaction"]), "asc") == []

    async def test_a_cursor_may_point_anywhere(self, store: Store, ref: SessionRef) -> None:
        entries = await whole_turn(store, ref)
        for cursor in (0, 1, 2, len(entries), len(entries) + 1, 2**40):
            after = await store.list_events(ref, msgspec.structs.replace(EVERYTHING, cursor=cursor))
            before = await store.list_events(ref, msgspec.structs.replace(EVERYTHING, cursor=cursor, order="desc"))
            assert sequences(after.rows) == [n for n in range(1, len(entries) + 1) if n > cursor]
            assert sequences(before.rows) == [n for n in range(len(entries), 0, -1) if n < cursor]

    async def test_the_internal_id_reads_the_same(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        session_id = (await store.get_session(ref)).id
        by_key, by_id = await store.list_events(ref, EVERYTHING), await store.read_log(session_id, EVERYTHING)
        assert (shown(by_key.rows), by_key.next) == (shown(by_id.rows), by_id.next)
        assert await store.read_log(session_id + 1, EVERYTHING) == Page([], None)

    async def test_an_event_is_found_by_its_whole_id_only(self, store: Store, ref: SessionRef) -> None:
        other = await new_session(store, ref.tenant_id, "other")
        entries = await whole_turn(store, ref)
        foreign = (await whole_turn(store, other))[2]
        for entry in entries:
            assert (await store.get_event(ref, entry.id)).json == entry.json
        for wrong in (ids.event_id(3), ids.event_id(99), foreign.id, "aev_x", "", entries[0].id.upper()):
            with pytest.raises(NotFound):
                await store.get_event(ref, wrong)

    async def test_a_turn_belongs_to_its_session(self, store: Store, ref: SessionRef) -> None:
        other = await new_session(store, ref.tenant_id, "other")
        claim = await accept(store, ref)
        assert (await store.get_turn(ref, claim.turn_id)).turn_id == claim.turn_id
        for where, turn_id in ((other, claim.turn_id), (ref, ids.turn_id())):
            with pytest.raises(NotFound):
                await store.get_turn(where, turn_id)


async def _listed(store: Store, ref: SessionRef, query: EventQuery, order: Literal["asc", "desc"]) -> list[Entry]:
    async def page_at(cursor: int | None) -> Page[Entry]:
        page = await store.list_events(ref, msgspec.structs.replace(query, cursor=cursor, order=order))
        assert len(page.rows) <= query.limit
        return page

    return await walk(page_at)
