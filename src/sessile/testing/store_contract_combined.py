"""What every Store must do, part of `StoreContract`: forks, imports and time to idle combined with what else there is:

turns that are parked, inputs that wait, events that are hidden or deleted, secrets and filters.
"""

from collections.abc import AsyncIterator

import msgspec
import pytest

from sessile.domain.client_tools import CallOutput
from sessile.domain.filter_parser import parse
from sessile.domain.log import DELETED, HIDDEN, Entry
from sessile.ports import Admit, StaleKey, Store
from sessile.rows import (
    AgentRow,
    Claim,
    Cover,
    FileName,
    NewArtifact,
    NewSession,
    Once,
    Queued,
    SessionQuery,
    SessionRef,
    SessionRow,
)
from sessile.testing.store_contract_artifacts import DAY_SECONDS, file, listed, sent
from sessile.testing.store_contract_client_tools import answer, parked, types
from sessile.testing.store_contract_compaction import compacted, summary
from sessile.testing.store_contract_copies import BROKEN_OFF, OPENED, WHOLE, check, fork, in_slices, new_row
from sessile.testing.store_contract_secrets import sealing
from sessile.testing.store_world import (
    AGENT,
    DONE,
    EVERYTHING,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    new_session,
    purge_all,
    read_all,
    said,
    thought,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import AgentDisabled, InvalidRequest, NotFound, NothingToCompact
from sessile.wire.events import ClientToolPendingEvent, VisibilityRecord
from sessile.wire.inputs import Behavior

WITH_DELETED = msgspec.structs.replace(EVERYTHING, include_deleted=True)
USER = b'{"user":"anna"}'


async def queue(store: Store, ref: SessionRef, behavior: Behavior = "follow_up") -> Queued:
    """An input that waits."""
    queued = await store.accept_input(ref, said("Later."), ids.turn_id(), admit_all, behavior=behavior)
    assert isinstance(queued, Queued)
    return queued


async def whole_log(store: Store, session: SessionRow) -> list[Entry]:
    """A log with what stands in the place of deleted events, which holds every rule."""
    entries = await read_all(store, session.id, WITH_DELETED)
    check(session, entries)
    return entries


def named(entries: list[Entry]) -> list[str]:
    """The events that records of visibility name."""
    return [event.event_id for entry in entries if isinstance(event := entry.event(), VisibilityRecord)]


async def fork_compacted(
    store: Store, ref: SessionRef, up_to: str, admit: Admit = admit_all, once: Once | None = None
) -> SessionRow | Claim:
    """A fork that begins with a compaction."""
    return await store.fork_compacted(ref.tenant_id, AGENT, new_row(), ref, up_to, ids.turn_id(), admit, once)


async def found(store: Store, tenant: int) -> list[str]:
    """The sessions of a user, by the index of metadata."""
    page = await store.find_sessions(tenant, SessionQuery(limit=10, metadata=parse("user = 'anna'")))
    return [row.key for row in page.rows]


async def hidden_and_deleted(store: Store, ref: SessionRef) -> list[Entry]:
    """The log of a session with a hidden and a deleted event, and a record of something that was taken back."""
    first = await whole_turn(store, ref, thought(), answered())
    second = await whole_turn(store, ref, thought(), answered("tortoise"))
    await store.set_hidden(ref, first[2].id, True)
    await store.set_hidden(ref, first[3].id, True)
    await store.set_hidden(ref, first[3].id, False)
    await store.delete_event(ref, second[3].id)
    entries = await whole_log(store, await store.get_session(ref))
    assert [entry.visibility for entry in entries if entry.hidden] == [HIDDEN, DELETED]
    return entries


class CombinedCopyContract(Fixtures):
    """Copies of what is more than turns that have ended."""

    async def test_a_parked_turn_ends_in_the_fork_and_waits_on_in_its_source(
        self, store: Store, ref: SessionRef
    ) -> None:
        await whole_turn(store, ref)
        claim, (call,) = await parked(store, ref, "c1")
        copy = await fork(store, ref)
        entries = await whole_log(store, copy)
        ended = [*OPENED, "tool_input", "client_tool_pending", "tool_output", *BROKEN_OFF]
        assert types(entries) == [*WHOLE, *ended]
        pending = entries[7].event()
        assert isinstance(pending, ClientToolPendingEvent)
        assert [open_call.event_id for open_call in pending.pending_calls] == [entries[6].id]
        copied = SessionRef(ref.tenant_id, AGENT, "copy")
        assert (copy.status, copy.stop_reason, copy.running_turn) == ("stopped", "interrupted", None)
        assert await store.outstanding_calls(copied) == []
        turn = await store.get_turn(copied, entries[-1].turn_id)
        assert (turn.running, turn.parked, turn.stop_reason) == (False, False, "interrupted")
        assert (await whole_turn(store, copied))[0].sequence == len(entries) + 1
        going_on = (await answer(store, ref, CallOutput(call, {"ok": True}))).claim
        assert going_on is not None
        assert going_on.turn_id == claim.turn_id

    async def test_inputs_that_wait_are_not_copied(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        await queue(store, ref)
        await queue(store, ref, "steer")
        copy = await fork(store, ref)
        assert types(await whole_log(store, copy)) == [*OPENED, *BROKEN_OFF]
        assert await store.list_waiting(SessionRef(ref.tenant_id, AGENT, "copy")) == []
        assert len(await store.list_waiting(ref)) == 2
        assert isinstance((await store.append(claim.fence, [answered()], NOTHING, DONE)).next, Claim)

    async def test_inputs_that_have_waited_are_copied_where_they_stand(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        steering, following = await queue(store, ref, "steer"), await queue(store, ref)
        await store.take_steering(claim.fence)
        then = (await store.append(claim.fence, [answered()], NOTHING, DONE)).next
        assert then is not None
        await store.append(then.fence, [answered()], NOTHING, DONE)
        joined = [*OPENED, "input_message"]
        assert types(await whole_log(store, await fork(store, ref))) == [*joined, "agent_output", "turn_ended", *WHOLE]
        up_to = await fork(store, ref, steering.input.event_id, "up_to_steering")
        assert types(await whole_log(store, up_to)) == [*joined, *BROKEN_OFF]
        up_to = await fork(store, ref, following.input.event_id, "up_to_following")
        assert types(await whole_log(store, up_to)) == [*joined, "agent_output", "turn_ended", *OPENED, *BROKEN_OFF]

    async def test_a_fork_shows_and_hides_what_its_source_does(self, store: Store, ref: SessionRef) -> None:
        before = await hidden_and_deleted(store, ref)
        copy = await fork(store, ref)
        entries = await whole_log(store, copy)
        assert [(e.type, e.visibility, bool(e.turn_id)) for e in entries] == [
            (e.type, e.visibility, bool(e.turn_id)) for e in before
        ]
        names = {old.id: new.id for old, new in zip(before, entries, strict=True)}
        assert named(entries) == [names[event_id] for event_id in named(before)]
        assert len(named(before)) == 4
        assert not [entry for entry in entries if b"tortoise" in entry.body]
        copied = SessionRef(ref.tenant_id, AGENT, "copy")
        assert not (await store.set_hidden(copied, entries[2].id, False)).entry.hidden
        assert [entry.id for entry in await read_all(store, copy.id)][:2] == [entries[0].id, entries[1].id]

    async def test_copies_are_found_by_their_metadata(self, store: Store, ref: SessionRef) -> None:
        entries = await whole_turn(store, ref)
        forked, imported = (msgspec.structs.replace(new_row(key), metadata=USER) for key in ("forked", "imported"))
        await store.fork_session(ref.tenant_id, AGENT, forked, ref, None)
        await store.import_session(ref.tenant_id, AGENT, imported, in_slices(entries))
        assert await found(store, ref.tenant_id) == ["imported", "forked"]

    async def test_a_fork_has_secrets_of_its_own(self, store: Store, ref: SessionRef) -> None:
        source = await new_session(store, ref.tenant_id, "source")
        await store.write_agent_secrets(ref.tenant_id, AGENT, sealing(agents="1"), False)
        with pytest.raises(StaleKey):
            await store.fork_session(ref.tenant_id, AGENT, new_row(), source, None, None, sealing("k2", own="2"))
        row = await store.fork_session(ref.tenant_id, AGENT, new_row(), source, None, None, sealing(own="2"))
        sealed = await store.sealed_secrets(row.agent_id, row.id)
        assert [(one.session_id, one.name) for one in sealed] == [(0, "agents"), (row.id, "own")]
        assert sealed[1].value == f"k1/{row.agent_id}/{row.id}/2".encode()
        bare = await fork(store, SessionRef(ref.tenant_id, AGENT, "copy"), key="bare")
        assert await store.session_secret_names([bare.id]) == {}

    @pytest.mark.parametrize("here", [False, True])
    async def test_an_import_shows_and_hides_what_was_exported(self, store: Store, ref: SessionRef, here: bool) -> None:
        before = await hidden_and_deleted(store, ref)
        if not here:
            await store.delete_session(ref, None)
            await purge_all(store)
        row = await store.import_session(ref.tenant_id, AGENT, new_row(), in_slices(before[:3], before[3:]))
        entries = await whole_log(store, row)
        assert [(e.type, e.visibility, bool(e.turn_id)) for e in entries] == [
            (e.type, e.visibility, bool(e.turn_id)) for e in before
        ]
        assert (entries[0].id == before[0].id) is not here
        assert named(entries)[-1] == entries[8].id
        assert entries[8].visibility == DELETED

    async def test_a_fork_has_the_files_that_its_log_tells_of(self, harness: Harness, tenant: int) -> None:
        store = harness.store
        ref, copied, early = (SessionRef(tenant, AGENT, key) for key in ("source", "copy", "early"))
        await new_session(store, tenant, "source")
        first, kept = await sent(store, ref, file("a"), file("b", ttl_days=1)), file("c")
        gone = await sent(store, ref, file("d"))
        await sent(store, ref, *(file("e", name=f"{n}.txt") for n in range(205)), kept)
        await store.delete_event(ref, gone.opened[2].id)
        await fork(store, ref)
        await fork(store, ref, first.opened[0].id, "early")
        names = await listed(store, ref)
        assert len(names) == 208
        assert await listed(store, copied) == names
        assert await listed(store, early) == []
        await fork(store, ref, first.opened[2].id, "early2")
        assert await listed(store, SessionRef(tenant, AGENT, "early2")) == ["a.txt", "b.txt"]
        mine, theirs = [await store.get_artifact(one, kept.artifact_id) for one in (copied, ref)]
        assert (mine.sha256, mine.created_at) == (theirs.sha256, theirs.created_at)
        await store.delete_session(ref, None)
        await purge_all(store)
        await store.take_expired_artifacts(1000)
        assert await store.named_files([mine.file]) == {mine.file}
        await harness.clock.advance(DAY_SECONDS)
        assert "b.txt" not in await listed(store, copied)
        await store.delete_session(copied, None)
        await purge_all(store)
        await store.take_expired_artifacts(1000)
        assert await store.named_files([mine.file]) == set()

    async def test_an_import_has_its_files(self, harness: Harness, tenant: int) -> None:
        store, ref = harness.store, SessionRef(tenant, AGENT, "copy")
        await new_session(store, tenant, "source")
        source = SessionRef(tenant, AGENT, "source")
        brought = [file("a"), file("b", ttl_days=3)]
        await sent(store, source, *brought)
        entries = await read_all(store, (await store.get_session(source)).id)
        old = harness.clock.now() - 2 * DAY_SECONDS * 1_000_000
        files = [msgspec.structs.replace(one, created_at=old) for one in brought]

        async def broken() -> AsyncIterator[list[Entry] | list[NewArtifact]]:
            yield entries
            yield files
            raise InvalidRequest("Broken.")

        with pytest.raises(InvalidRequest, match="Broken"):
            await store.import_session(tenant, AGENT, new_row(), broken())
        await store.delete_session(source, None)
        await purge_all(store)
        await store.take_expired_artifacts(10)
        names = [FileName(tenant, one.sha256) for one in files]
        assert await store.named_files(names) == set()

        async def slices() -> AsyncIterator[list[Entry] | list[NewArtifact]]:
            yield entries
            for one in files:
                yield [one]

        await store.import_session(tenant, AGENT, new_row(), slices())
        assert await store.named_files(names) == set(names)
        first = await store.get_artifact(ref, files[0].artifact_id)
        assert (first.sha256, first.created_at) == (files[0].sha256, old)
        assert await listed(store, ref) == ["a.txt", "b.txt"]
        await harness.clock.advance(DAY_SECONDS)
        assert await listed(store, ref) == ["a.txt"]

    async def test_a_fork_before_a_summary_shows_what_it_covers(self, store: Store, ref: SessionRef) -> None:
        for _ in range(2):
            await whole_turn(store, ref)
        log = await read_all(store, (await store.get_session(ref)).id)
        await compacted(store, ref, log[3].id)
        await whole_turn(store, ref)
        hidden = {entry.sequence for entry in await whole_log(store, await store.get_session(ref)) if entry.hidden}
        assert hidden == {1, 3}
        before, after = await fork(store, ref, log[-1].id, "before"), await fork(store, ref, key="after")
        assert [entry.sequence for entry in await whole_log(store, before) if entry.hidden] == []
        assert {entry.sequence for entry in await whole_log(store, after) if entry.hidden} == hidden
        assert (await store.summary(before.id)).text is None
        assert (await store.summary(after.id)).through == 4
        for copy in (before, after):
            check(copy, await whole_log(store, copy))
        turn = (await whole_log(store, after))[8].turn_id
        assert not (await store.get_turn(SessionRef(ref.tenant_id, AGENT, "after"), turn)).running

    async def test_a_fork_can_begin_with_a_compaction(self, store: Store, ref: SessionRef) -> None:
        for _ in range(3):
            await whole_turn(store, ref)
        log = await read_all(store, (await store.get_session(ref)).id)
        once = Once("k", b"f")
        claim = await fork_compacted(store, ref, log[3].id, once=once)
        assert isinstance(claim, Claim)
        assert claim.order is not None
        assert ids.sequence_of(claim.order.up_to_event_id) == 4
        copied = SessionRef(ref.tenant_id, AGENT, "copy")
        copy = await store.get_session(copied)
        assert (copy.status, copy.running_turn, copy.last_sequence) == ("running", claim.turn_id, 13)
        assert await fork_compacted(store, ref, log[3].id, once=once) == copy
        span = await store.span(copy.id, through=4)
        assert span is not None
        assert span.last_event_id == claim.order.up_to_event_id
        await store.append(claim.fence, [summary(span)], NOTHING, DONE, Cover(span, 13))
        entries = await whole_log(store, await store.get_session(copied))
        assert {entry.sequence for entry in entries if entry.hidden} == {1, 3}
        assert not [entry for entry in await read_all(store, (await store.get_session(ref)).id) if entry.hidden]

    async def test_a_fork_that_cannot_be_compacted_is_not_there(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        log = await read_all(store, (await store.get_session(ref)).id)

        def refuse(agent: AgentRow, session: SessionRow) -> None:
            raise AgentDisabled

        with pytest.raises(InvalidRequest, match=r"from_session\.compact_up_to_event_id"):
            await fork_compacted(store, ref, "aev_none")
        with pytest.raises(AgentDisabled):
            await fork_compacted(store, ref, log[-1].id, admit=refuse)
        await compacted(store, ref, log[3].id)
        with pytest.raises(NothingToCompact):
            await fork_compacted(store, ref, log[3].id)
        with pytest.raises(NotFound):
            await store.get_session(SessionRef(ref.tenant_id, AGENT, "copy"))
        await purge_all(store)
        await fork(store, ref)

    async def test_only_what_refers_is_renamed(self, store: Store, ref: SessionRef) -> None:
        first = (await whole_turn(store, ref))[0]
        quoting = await new_session(store, ref.tenant_id, "quoting")
        await whole_turn(store, quoting, answered(f"See {first.id}."))
        copy = await fork(store, quoting)
        assert first.id.encode() in (await whole_log(store, copy))[2].body


class CombinedIdleContract(Fixtures):
    """Time to idle of what is more than an idle session."""

    async def test_a_parked_session_is_idle_and_goes_with_all_that_waits(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "parked", tti_minutes=5, metadata=USER)
        _, (call,) = await parked(store, ref, "c1")
        session = await store.get_session(ref)
        await store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior="follow_up")
        await clock.advance(5 * 60 - 1)
        assert await store.delete_idle_sessions() == []
        await clock.advance(1)
        assert await store.delete_idle_sessions() == [session.id]
        for gone in (store.list_waiting(ref), answer(store, ref, CallOutput(call, {})), store.interrupt(ref)):
            with pytest.raises(NotFound):
                await gone
        await clock.advance(60 * 60)
        assert await store.take_expired_turns() == []
        store = await harness.reopen()
        assert await store.take_unfinished_turns() == []
        await purge_all(store)
        assert await found(store, tenant) == []

    async def test_what_is_said_to_a_parked_session_is_use(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "parked", tti_minutes=5)
        _, (one, _) = await parked(store, ref, "c1", "c2")
        for use in (lambda: queue(store, ref), lambda: answer(store, ref, CallOutput(one, {}))):
            await clock.advance(4 * 60)
            await use()
            assert await store.delete_idle_sessions() == []
        await clock.advance(5 * 60)
        assert len(await store.delete_idle_sessions()) == 1

    async def test_a_turn_that_goes_on_is_not_idle(self, harness: Harness, tenant: int) -> None:
        store, clock = harness.store, harness.clock
        ref = await new_session(store, tenant, "parked", tti_minutes=5)
        _, (call,) = await parked(store, ref, "c1")
        assert (await answer(store, ref, CallOutput(call, {}))).claim is not None
        await clock.advance(60 * 60)
        assert await store.delete_idle_sessions() == []

    async def test_its_secrets_go_in_the_same_commit(self, harness: Harness, tenant: int) -> None:
        store = harness.store
        new = NewSession(key="k", name="k", description=None, metadata=USER, enabled=True, tti_minutes=1)
        row = await store.create_session(tenant, AGENT, new, None, sealing(a="1"))
        await harness.clock.advance(60)
        assert await store.delete_idle_sessions() == [row.id]
        assert await store.sealed_secrets(row.agent_id, row.id) == []
        assert await found(store, tenant) == []
