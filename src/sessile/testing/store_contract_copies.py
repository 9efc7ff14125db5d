"""What every Store must do about sessions that are made from others, and about sessions that nobody uses."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from sessile.domain.log import Draft, Entry, draft
from sessile.domain.transcript import TranscriptCheck
from sessile.ports import Store
from sessile.rows import NewSession, Once, Page, SessionChanges, SessionRef, SessionRow, TurnProgress
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    DONE,
    EVERYTHING,
    NOTHING,
    SESSION,
    Fixtures,
    Harness,
    accept,
    answered,
    new_session,
    purge_all,
    read_all,
    sequences,
    shown,
    thought,
    whole_turn,
)
from sessile.wire.errors import FenceLost, IdempotencyKeyReused, InvalidRequest, KeyTaken, NotFound, StorageUnavailable
from sessile.wire.events import ToolInputEvent, TurnStartedRecord
from sessile.wire.sessions import Usage

ORIGIN = b'{"agent_key":"support","session_key":"chat"}'
OPENED = ["input_message", "turn_started"]
BROKEN_OFF = ["session_interrupted", "turn_ended"]
WHOLE = [*OPENED, "agent_output", "turn_ended"]
SPENT = Usage(input_tokens=7, output_tokens=3, model_calls=1)


def called(id: str = "call_1") -> Draft:
    """A tool call."""
    event = ToolInputEvent(tool_call_id=id, tool_configuration_name="t", tool_name="t", tool_input={})
    return draft(event)


async def fork(
    store: Store, source: SessionRef, up_to: str | None = None, key: str = "copy", once: Once | None = None
) -> SessionRow:
    """A fork of a session under its own agent."""
    return await store.fork_session(source.tenant_id, source.agent_key, new_row(key), source, up_to, once)


def new_row(key: str = "copy") -> NewSession:
    """What a caller chose for a session that is made from another."""
    return NewSession(key=key, name=key, description=None, metadata=b"{}", enabled=True, tti_minutes=0, origin=ORIGIN)


async def in_slices(*slices: list[Entry]) -> AsyncIterator[list[Entry]]:
    """A log as it comes to an import."""
    for entries in slices:
        yield entries


async def spent_turn(store: Store, ref: SessionRef) -> None:
    """A turn that has used tokens."""
    claim = await accept(store, ref)
    used = msgspec.json.decode(claim.session.usage, type=Usage) + SPENT
    progress = TurnProgress(turn_usage=SPENT, session_usage=used, context_usage=None)
    await store.append(claim.fence, [thought(), answered()], progress, DONE)


def check(session: SessionRow, entries: list[Entry]) -> None:
    """A log that holds every rule, and a session that says the same of it."""
    transcript = TranscriptCheck()
    found = [violation for entry in entries for violation in transcript.feed(entry.event())]
    found += transcript.end()
    found += transcript.stale(
        status=session.status,
        stop_reason=session.stop_reason,
        last_sequence=session.last_sequence,
        last_event_id=session.last_event_id,
        usage=msgspec.json.decode(session.usage, type=Usage),
    )
    assert found == []


def said_of(entries: list[Entry]) -> list[tuple[int, str, int, bytes]]:
    """What a copy keeps: place, type, time and body; bodies of records name events, which have new ids."""
    return [(e.sequence, e.type, e.created_at, b"" if e.type == "turn_started" else e.body) for e in entries]


class ForkContract(Fixtures):
    """Forks."""

    async def test_a_fork_has_the_log_of_its_source_under_new_ids(self, store: Store, ref: SessionRef) -> None:
        for _ in range(3):
            await spent_turn(store, ref)
        source = await store.get_session(ref)
        before = await read_all(store, source.id)
        copy = await fork(store, ref)
        entries = await read_all(store, copy.id)
        assert said_of(entries) == said_of(before)
        assert not {entry.id for entry in entries} & {entry.id for entry in before}
        assert not {entry.turn_id for entry in entries} & {entry.turn_id for entry in before}
        assert len({entry.turn_id for entry in entries}) == 3
        check(copy, entries)
        assert copy == await store.get_session(SessionRef(ref.tenant_id, AGENT, "copy"))
        assert (copy.origin, copy.version, copy.usage) == (ORIGIN, 1, source.usage)
        assert await read_all(store, source.id) == before

    async def test_what_was_copied_can_be_asked_for(self, store: Store, ref: SessionRef) -> None:
        await spent_turn(store, ref)
        copy = await fork(store, ref)
        copied = SessionRef(ref.tenant_id, AGENT, "copy")
        entries = await read_all(store, copy.id)
        assert await store.get_event(copied, entries[0].id) == entries[0]
        turn = await store.get_turn(copied, entries[0].turn_id)
        assert (turn.running, turn.stop_reason, turn.input_event_id) == (False, "end_turn", entries[0].id)
        started = entries[1].event()
        assert isinstance(started, TurnStartedRecord)
        assert started.input_event_id == entries[0].id
        with pytest.raises(NotFound):
            await store.get_turn(ref, entries[0].turn_id)

    async def test_source_and_fork_go_their_own_ways(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        await fork(store, ref)
        copied = SessionRef(ref.tenant_id, AGENT, "copy")
        assert sequences(await whole_turn(store, copied)) == [5, 6, 7, 8]
        assert (await store.get_session(ref)).last_sequence == 4
        await store.delete_session(ref, None)
        await purge_all(store)
        copy = await store.get_session(copied)
        check(copy, await read_all(store, copy.id))
        assert copy.last_sequence == 8

    async def test_a_fork_of_nothing_is_empty(self, store: Store, ref: SessionRef) -> None:
        copy = await fork(store, ref)
        assert (copy.last_sequence, copy.last_event_id, copy.status) == (0, None, "unstarted")
        assert sequences(await whole_turn(store, SessionRef(ref.tenant_id, AGENT, "copy"))) == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("up_to", "types"),
        [
            (1, [*OPENED, *BROKEN_OFF]),
            (2, [*OPENED, *BROKEN_OFF]),
            (3, WHOLE),
            (4, WHOLE),
            (5, [*WHOLE, *OPENED, *BROKEN_OFF]),
            (7, [*WHOLE, *OPENED, "tool_input", "tool_output", *BROKEN_OFF]),
        ],
    )
    async def test_a_fork_goes_up_to_an_event(
        self, store: Store, ref: SessionRef, up_to: int, types: list[str]
    ) -> None:
        await whole_turn(store, ref)
        claim = await accept(store, ref)
        await store.append(claim.fence, [called()], NOTHING)
        (entry,) = [entry for entry in await read_all(store, claim.session.id) if entry.sequence == up_to]
        copy = await fork(store, ref, entry.id)
        entries = await read_all(store, copy.id)
        assert [entry.type for entry in entries] == types
        check(copy, entries)
        turn = await store.get_turn(SessionRef(ref.tenant_id, AGENT, "copy"), entries[-1].turn_id)
        assert turn.stop_reason == copy.stop_reason == ("end_turn" if up_to in (3, 4) else "interrupted")
        assert turn.ended_at is not None

    async def test_a_fork_of_a_running_session_takes_what_is_durable(self, store: Store, ref: SessionRef) -> None:
        await spent_turn(store, ref)
        claim = await accept(store, ref)
        used = TurnProgress(turn_usage=SPENT, session_usage=SPENT + SPENT, context_usage=None)
        await store.append(claim.fence, [answered(), called("a"), called("b")], used)
        copy = await fork(store, ref)
        check(copy, await read_all(store, copy.id))
        assert (copy.status, copy.stop_reason) == ("stopped", "interrupted")
        assert msgspec.json.decode(copy.usage, type=Usage) == SPENT
        await store.append(claim.fence, [answered()], NOTHING)
        assert (await store.get_session(ref)).status == "running"
        assert len(await store.take_unfinished_turns()) == 1

    async def test_hidden_stays_hidden_and_the_whole_log_is_copied(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        for _ in range(13):
            await store.append(claim.fence, [thought("x" * 100)] * 100, NOTHING)
        await store.append(claim.fence, [thought("y" * 900_000), thought("z" * 900_000), answered()], NOTHING, DONE)
        before = await read_all(store, claim.session.id)
        copy = await fork(store, ref)
        entries = await read_all(store, copy.id)
        assert said_of(entries) == said_of(before)
        check(copy, entries)

    async def test_another_event_and_another_source_are_refused(self, store: Store, ref: SessionRef) -> None:
        first = (await whole_turn(store, ref))[0]
        other = await new_session(store, ref.tenant_id, "other")
        foreign = (await whole_turn(store, other))[0]
        for up_to in (foreign.id, "aev_nothing", first.id[:-1] + ("0" if first.id[-1] != "0" else "1")):
            with pytest.raises(InvalidRequest):
                await fork(store, ref, up_to)
        with pytest.raises(NotFound):
            await fork(store, SessionRef(ref.tenant_id, AGENT, "nowhere"))
        with pytest.raises(KeyTaken):
            await fork(store, ref, key=SESSION)
        strange = (await store.create_tenant("strange", "Strange")).id
        await store.create_agent(strange, AGENT, DOCUMENT, True)
        with pytest.raises(NotFound):
            await fork(store, SessionRef(strange, AGENT, SESSION))
        await store.delete_session(other, None)
        with pytest.raises(NotFound):
            await fork(store, other)

    async def test_a_fork_that_fails_leaves_nothing(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        outcomes = await asyncio.gather(*(fork(store, ref) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(outcome, KeyTaken) for outcome in outcomes) == 4
        await purge_all(store)
        page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
        assert sorted(row.key for row in page.rows) == ["chat", "copy"]
        for row in page.rows:
            check(row, await read_all(store, row.id))

    async def test_with_a_key_a_fork_is_made_once(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        once = Once("key", b"same")
        copy = await fork(store, ref, once=once)
        await whole_turn(store, ref)
        assert await fork(store, ref, key="again", once=once) == copy
        with pytest.raises(IdempotencyKeyReused):
            await fork(store, ref, key="again", once=Once("key", b"other"))
        await store.delete_session(SessionRef(ref.tenant_id, AGENT, "copy"), None)
        with pytest.raises(NotFound):
            await fork(store, ref, key="again", once=once)

    async def test_of_many_forks_under_one_key_one_is_made(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        once = Once("key", b"same")
        made = await asyncio.gather(*(fork(store, ref, key=f"copy{n}", once=once) for n in range(5)))
        assert len({row.id for row in made}) == 1
        page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
        assert len(page.rows) == 2

    async def test_nobody_sees_a_fork_before_it_is_whole(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        for _ in range(30):
            await store.append(claim.fence, [thought()] * 100, NOTHING)
        await store.append(claim.fence, [answered()], NOTHING, DONE)
        copied = SessionRef(ref.tenant_id, AGENT, "copy")
        making = asyncio.ensure_future(fork(store, ref))
        looks = 0
        while not making.done():
            page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
            for row in page.rows:
                if row.key == "copy":
                    check(row, await read_all(store, row.id))
            await asyncio.sleep(0)
            looks += 1
        assert looks > 3
        check(await making, await read_all(store, (await store.get_session(copied)).id))

    async def test_other_writers_get_their_turn_while_a_fork_is_made(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        for _ in range(30):
            await store.append(claim.fence, [thought()] * 100, NOTHING)
        making = asyncio.ensure_future(fork(store, ref))
        written = 0
        while not making.done():
            await store.append(claim.fence, [thought()], NOTHING)
            written += 1
        assert written > 3
        copy = await making
        check(copy, await read_all(store, copy.id))

    async def test_a_source_that_is_deleted_meanwhile_is_not_found(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        for _ in range(30):
            await store.append(claim.fence, [thought()] * 100, NOTHING)
        making = asyncio.ensure_future(fork(store, ref))
        await store.ping()
        await store.delete_session(ref, None)
        with pytest.raises(NotFound):
            await making
        await purge_all(store)
        assert (await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)).rows == []
        with pytest.raises(FenceLost):
            await store.append(claim.fence, [thought()], NOTHING)

    async def test_a_fork_that_is_cut_off_is_purged(self, harness: Harness, ref: SessionRef) -> None:
        store = harness.store
        claim = await accept(store, ref)
        for _ in range(30):
            await store.append(claim.fence, [thought()] * 100, NOTHING)
        making = asyncio.ensure_future(fork(store, ref))
        for _ in range(3):
            await store.ping()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        store = await harness.reopen()
        page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
        assert [row.key for row in page.rows] == [SESSION]
        assert await purge_all(store) > 1
        assert await read_all(store, claim.session.id) != []


class ImportContract(Fixtures):
    """Imports."""

    async def test_a_log_from_elsewhere_keeps_its_ids(self, store: Store, ref: SessionRef) -> None:
        for _ in range(3):
            await spent_turn(store, ref)
        before = await store.get_session(ref)
        entries = await read_all(store, before.id)
        await store.delete_session(ref, None)
        await purge_all(store)
        row = await store.import_session(ref.tenant_id, AGENT, new_row(SESSION), in_slices(entries[:4], entries[4:]))
        assert row == await store.get_session(ref)
        assert row.id != before.id
        assert shown(await read_all(store, row.id)) == shown(entries)
        check(row, entries)
        turn = await store.get_turn(ref, entries[0].turn_id)
        assert (turn.running, turn.stop_reason, turn.input_event_id) == (False, "end_turn", entries[0].id)
        assert msgspec.json.decode(turn.usage, type=Usage) == SPENT
        assert (turn.created_at, turn.ended_at) == (entries[1].created_at, entries[4].created_at)
        assert sequences(await whole_turn(store, ref))[0] == len(entries) + 1
        assert await store.take_unfinished_turns() == []

    async def test_a_log_that_is_here_already_gets_new_ids(self, store: Store, ref: SessionRef) -> None:
        await spent_turn(store, ref)
        await spent_turn(store, ref)
        entries = await read_all(store, (await store.get_session(ref)).id)
        slices = [[entry] for entry in entries]
        row = await store.import_session(ref.tenant_id, AGENT, new_row(), in_slices(*slices))
        copied = await read_all(store, row.id)
        assert said_of(copied) == said_of(entries)
        assert not {entry.id for entry in copied} & {entry.id for entry in entries}
        check(row, copied)
        turn = await store.get_turn(SessionRef(ref.tenant_id, AGENT, "copy"), copied[-1].turn_id)
        assert turn.input_event_id == copied[5].id

    async def test_nothing_is_an_empty_session(self, store: Store, tenant: int) -> None:
        row = await store.import_session(tenant, AGENT, new_row(), in_slices())
        assert (row.status, row.last_sequence, row.origin) == ("unstarted", 0, ORIGIN)

    async def test_the_first_session_of_a_store_may_be_an_import(self, store: Store) -> None:
        tenant = (await store.create_tenant("fresh", "Fresh")).id
        await store.create_agent(tenant, AGENT, DOCUMENT, True)
        row = await store.import_session(tenant, AGENT, new_row(), in_slices())
        await new_session(store, tenant)
        page = await store.list_sessions(tenant, AGENT, cursor=None, limit=10)
        assert [(one.key, one.id > row.id) for one in page.rows] == [(SESSION, True), ("copy", False)]

    async def test_what_the_log_raises_leaves_nothing(self, store: Store, ref: SessionRef) -> None:
        await spent_turn(store, ref)
        entries = await read_all(store, (await store.get_session(ref)).id)

        async def broken() -> AsyncIterator[list[Entry]]:
            yield entries
            raise InvalidRequest("broken")

        with pytest.raises(InvalidRequest, match="broken"):
            await store.import_session(ref.tenant_id, AGENT, new_row(), broken())
        assert await purge_all(store) > 1
        assert (await store.import_session(ref.tenant_id, AGENT, new_row(), in_slices(entries))).last_sequence == 5

    async def test_a_later_turn_that_is_here_already_is_refused(self, store: Store, ref: SessionRef) -> None:
        await spent_turn(store, ref)
        other = await new_session(store, ref.tenant_id, "other")
        await spent_turn(store, other)
        await spent_turn(store, other)
        entries = await read_all(store, (await store.get_session(other)).id)
        kept = [
            msgspec.structs.replace(entry, turn_id=f"trn_{number // 5:020x}") for number, entry in enumerate(entries)
        ]
        mixed = [*kept[:5], *entries[5:]]
        with pytest.raises(InvalidRequest):
            await store.import_session(ref.tenant_id, AGENT, new_row(), in_slices(mixed))
        assert (await store.import_session(ref.tenant_id, AGENT, new_row(), in_slices(kept))).last_sequence == 10

    async def test_a_key_or_an_agent_that_cannot_be_is_refused(self, store: Store, ref: SessionRef) -> None:
        with pytest.raises(KeyTaken):
            await store.import_session(ref.tenant_id, AGENT, new_row(SESSION), in_slices())
        with pytest.raises(NotFound):
            await store.import_session(ref.tenant_id, "nobody", new_row(), in_slices())

        async def meanwhile() -> AsyncIterator[list[Entry]]:
            await new_session(store, ref.tenant_id, "copy")
            if ref.session_key != SESSION:
                yield []

        with pytest.raises(KeyTaken):
            await store.import_session(ref.tenant_id, AGENT, new_row(), meanwhile())

    async def test_an_import_that_takes_too_long_is_given_up(self, harness: Harness, ref: SessionRef) -> None:
        store = harness.store
        await spent_turn(store, ref)
        entries = await read_all(store, (await store.get_session(ref)).id)

        async def slow() -> AsyncIterator[list[Entry]]:
            for slice in (entries[:2], entries[2:]):
                yield slice
                await harness.clock.advance(599)
                await purge_all(store)
            await harness.clock.advance(1)
            await purge_all(store)

        with pytest.raises(StorageUnavailable):
            await store.import_session(ref.tenant_id, AGENT, new_row(), slow())
        page = await store.list_sessions(ref.tenant_id, AGENT, cursor=None, limit=10)
        assert [row.key for row in page.rows] == [SESSION]


class IdleContract(Fixtures):
    """Time to idle."""

    async def test_what_nobody_uses_for_its_time_is_deleted(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "idle", tti_minutes=5)
        session = (await store.get_session(ref)).id
        await whole_turn(store, ref)
        await clock.advance(5 * 60 - 1)
        assert await store.delete_idle_sessions() == []
        await clock.advance(1)
        assert await store.delete_idle_sessions() == [session]
        assert await store.delete_idle_sessions() == []
        with pytest.raises(NotFound):
            await store.get_session(ref)
        assert await store.read_log(session, EVERYTHING) == Page([], None)
        assert (await store.get_session(SessionRef(tenant, AGENT, SESSION))).tti_minutes == 0
        assert await purge_all(store) > 1

    async def test_use_puts_it_off(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "used", tti_minutes=5)
        for use in (
            lambda: whole_turn(store, ref),
            lambda: store.update_session(ref, SessionChanges(name="x"), None),
        ):
            await clock.advance(4 * 60)
            await use()
            assert await store.delete_idle_sessions() == []
        await store.update_session(ref, SessionChanges(tti_minutes=0), None)
        await clock.advance(60 * 60)
        assert await store.delete_idle_sessions() == []
        await store.update_session(ref, SessionChanges(tti_minutes=1), None)
        await clock.advance(60)
        assert len(await store.delete_idle_sessions()) == 1

    async def test_a_running_turn_is_use(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "busy", tti_minutes=1)
        claim = await accept(store, ref)
        await clock.advance(60 * 60)
        assert await store.delete_idle_sessions() == []
        await store.append(claim.fence, [answered()], NOTHING, DONE)
        assert await store.delete_idle_sessions() == []
        await clock.advance(60)
        assert await store.delete_idle_sessions() == [claim.session.id]

    async def test_a_clock_that_goes_back_deletes_nothing_early(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "past", tti_minutes=1)
        await clock.advance(-3600)
        assert await store.delete_idle_sessions() == []
        await whole_turn(store, ref)
        await clock.advance(59)
        assert await store.delete_idle_sessions() == []
        await clock.advance(1)
        assert len(await store.delete_idle_sessions()) == 1

    async def test_each_is_deleted_once_however_many_ask(self, harness: Harness, tenant: int) -> None:
        store = harness.store
        for number in range(250):
            await new_session(store, tenant, f"s{number}", tti_minutes=1)
        await harness.clock.advance(60)
        found = await asyncio.gather(*(store.delete_idle_sessions() for _ in range(6)))
        assert sorted(map(len, found), reverse=True)[:4] == [100, 100, 50, 0]
        assert len({session_id for slice in found for session_id in slice}) == 250
        store = await harness.reopen()
        await purge_all(store)
        assert [r.key for r in (await store.list_sessions(tenant, AGENT, cursor=None, limit=10)).rows] == [SESSION]

    async def test_its_idempotency_keys_go_too(self, harness: Harness, tenant: int) -> None:
        store = harness.store
        once = Once("key", b"same")
        new = NewSession(key="k", name="k", description=None, metadata=b"{}", enabled=True, tti_minutes=1)
        await store.create_session(tenant, AGENT, new, once)
        await harness.clock.advance(60)
        assert len(await store.delete_idle_sessions()) == 1
        with pytest.raises(NotFound):
            await store.create_session(tenant, AGENT, new, once)
