"""What every Store must keep of the idempotency keys of imports, whose bytes are known at their end only."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from sessile.domain.log import Entry
from sessile.ports import Store
from sessile.rows import NewSession, Once, SessionChanges, SessionRef, SessionRow, StreamOnce
from sessile.testing.store_contract_copies import check, in_slices, new_row, said_of, spent_turn
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    SESSION,
    Fixtures,
    Harness,
    new_session,
    purge_all,
    read_all,
)
from sessile.wire import ids
from sessile.wire.errors import IdempotencyKeyReused, InvalidRequest, KeyTaken, NotFound
from sessile.wire.limits import IDEMPOTENCY_SECONDS

MANY = 10
Meanwhile = Callable[[], Awaitable[Any]]


class Sent:
    """An export on its way, under a key. Its fingerprint is known when all of it was read."""

    def __init__(self, *slices: list[Entry], body: bytes = b"this", key: str = "k") -> None:
        self.ended = self.skipped = False
        self.once = StreamOnce(key, self._fingerprint, self._skip)
        self._slices = slices
        self._body = body

    async def slices(self, meanwhile: Meanwhile | None = None) -> AsyncIterator[list[Entry]]:
        """What comes; `meanwhile` happens behind the first slice."""
        for number, entries in enumerate(self._slices):
            yield entries
            if number == 0 and meanwhile is not None:
                await meanwhile()
        self.ended = True

    def _fingerprint(self) -> bytes:
        assert self.ended, "nobody knows it before"
        return self._body

    def _skip(self) -> None:
        assert not self.ended
        self.skipped = True


async def bring(
    store: Store, tenant: int, sent: Sent, key: str = "copy", agent: str = AGENT, meanwhile: Meanwhile | None = None
) -> SessionRow:
    """An import."""
    return await store.import_session(tenant, agent, new_row(key), sent.slices(meanwhile), sent.once)


async def log_of(store: Store, ref: SessionRef) -> list[Entry]:
    """A log of two turns, whose first one reaches over two slices of three events."""
    for _ in range(2):
        await spent_turn(store, ref)
    return await read_all(store, (await store.get_session(ref)).id)


async def keys_of(store: Store, tenant: int) -> list[str]:
    """The sessions that are there, newest first."""
    return [row.key for row in (await store.list_sessions(tenant, AGENT, cursor=None, limit=100)).rows]


class ImportOnceContract(Fixtures):
    """The same import under the same key makes one session."""

    async def test_the_same_import_gives_the_session_as_it_stands(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        first = Sent(entries[:3], entries[3:])
        row = await bring(store, tenant, first)
        assert not first.skipped
        check(row, await read_all(store, row.id))
        again = Sent(entries[:3], entries[3:])
        assert await bring(store, tenant, again) == row
        assert (again.skipped, again.ended) == (True, True)
        changed = await store.update_session(SessionRef(tenant, AGENT, "copy"), SessionChanges(name="New"), None)
        assert await bring(await harness.reopen(), tenant, Sent(entries)) == changed
        assert await keys_of(harness.store, tenant) == ["copy", SESSION]
        assert said_of(await read_all(harness.store, row.id)) == said_of(entries)

    async def test_an_import_of_nothing_happens_once_too(self, store: Store, tenant: int) -> None:
        row = await bring(store, tenant, Sent())
        assert await bring(store, tenant, Sent()) == row

    async def test_another_import_under_the_key_is_refused_at_its_end(self, store: Store, ref: SessionRef) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        await bring(store, tenant, Sent(entries))
        for key in ("copy", "elsewhere"):
            other = Sent(entries[:5], body=b"another")
            with pytest.raises(IdempotencyKeyReused):
                await bring(store, tenant, other, key)
            assert (other.skipped, other.ended) == (True, True)
        assert await keys_of(store, tenant) == ["copy", SESSION]
        assert await bring(store, tenant, Sent(entries, key="fresh"), "elsewhere")

    async def test_what_was_deleted_is_not_imported_again(self, store: Store, ref: SessionRef) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        await bring(store, tenant, Sent(entries))
        await store.delete_session(SessionRef(tenant, AGENT, "copy"), None)
        for _ in range(2):
            with pytest.raises(NotFound):
                await bring(store, tenant, Sent(entries))
            await purge_all(store)
        await bring(store, tenant, Sent(entries, key="other"))
        await store.delete_agent(tenant, AGENT)
        await store.create_agent(tenant, AGENT, DOCUMENT, True)
        with pytest.raises(NotFound):
            await bring(store, tenant, Sent(entries, key="other"))
        assert await keys_of(store, tenant) == []

    async def test_an_import_that_failed_leaves_no_key(self, store: Store, ref: SessionRef) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id

        async def fails() -> None:
            raise InvalidRequest("broken")

        async def takes_the_key() -> None:
            await new_session(store, tenant, "copy")

        with pytest.raises(InvalidRequest, match="broken"):
            await bring(store, tenant, Sent(entries[:3], entries[3:]), meanwhile=fails)
        with pytest.raises(KeyTaken):
            await bring(store, tenant, Sent(entries), meanwhile=takes_the_key)
        with pytest.raises(KeyTaken):
            await bring(store, tenant, Sent(entries))
        with pytest.raises(NotFound):
            await bring(store, tenant, Sent(entries), agent="nobody")
        row = await bring(store, tenant, Sent(entries, body=b"another"), "second")
        assert (row.key, row.last_sequence) == ("second", len(entries))

    async def test_keys_of_tenants_and_of_other_creations_are_apart(self, store: Store, ref: SessionRef) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        other = (await store.create_tenant("other", "Other")).id
        await store.create_agent(other, AGENT, DOCUMENT, True)
        plain = NewSession(key="plain", name="x", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
        made = [
            await store.create_session(tenant, AGENT, plain, Once("k", b"this")),
            await store.fork_session(tenant, AGENT, new_row("fork"), ref, None, Once("f", b"this")),
            await bring(store, tenant, Sent(entries)),
            await bring(store, tenant, Sent(entries, key="f"), "second"),
            await bring(store, other, Sent(entries)),
        ]
        assert len({row.id for row in made}) == len(made)

    async def test_a_key_is_free_again_when_its_time_is_over(
        self, harness: Harness, store: Store, ref: SessionRef
    ) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        row = await bring(store, tenant, Sent(entries))
        await harness.clock.advance(IDEMPOTENCY_SECONDS - 1)

        async def a_second() -> None:
            await harness.clock.advance(1)
            await purge_all(store)

        assert await bring(store, tenant, Sent(entries), meanwhile=a_second) == row
        second = await bring(store, tenant, Sent(entries, body=b"another"), "second")
        assert second.key == "second"
        assert await bring(store, tenant, Sent(body=b"another")) == second

    @pytest.mark.parametrize("here", [True, False])
    async def test_of_two_at_once_the_one_that_ends_first_makes_it(
        self, store: Store, ref: SessionRef, here: bool
    ) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        if not here:  # so both want to keep its ids
            entries = [msgspec.structs.replace(entry, turn_id=f"trn_{n // 5:020x}") for n, entry in enumerate(entries)]
        inner: list[SessionRow] = []

        async def overtake() -> None:
            inner.append(await bring(store, tenant, Sent(entries[:3], entries[3:])))

        outer = await bring(store, tenant, Sent(entries[:3], entries[3:]), meanwhile=overtake)
        assert outer == inner[0]
        assert await purge_all(store) > 1
        assert await keys_of(store, tenant) == ["copy", SESSION]
        check(outer, await read_all(store, outer.id))
        assert said_of(await read_all(store, outer.id)) == said_of(entries)

    async def test_of_two_different_ones_at_once_the_later_is_refused(self, store: Store, ref: SessionRef) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id

        async def overtake() -> None:
            await bring(store, tenant, Sent(entries, body=b"another"), "faster")

        with pytest.raises(IdempotencyKeyReused):
            await bring(store, tenant, Sent(entries), meanwhile=overtake)
        assert await purge_all(store) > 1
        assert await keys_of(store, tenant) == ["faster", SESSION]

    async def test_of_two_at_once_the_later_does_not_make_again_what_was_deleted(
        self, store: Store, ref: SessionRef
    ) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id

        async def overtake() -> None:
            await bring(store, tenant, Sent(entries))
            await store.delete_session(SessionRef(tenant, AGENT, "copy"), None)

        with pytest.raises(NotFound):
            await bring(store, tenant, Sent(entries), meanwhile=overtake)
        assert await keys_of(store, tenant) == [SESSION]

    async def test_of_many_at_once_one_makes_it_and_all_get_it(self, store: Store, ref: SessionRef) -> None:
        entries, tenant = await log_of(store, ref), ref.tenant_id
        entries = [msgspec.structs.replace(entry, turn_id=f"trn_{n // 5:020x}") for n, entry in enumerate(entries)]
        for key, cut in (("a", 3), ("b", 5), ("c", 10)):
            sent = (Sent(entries[:cut], entries[cut:], key=key) for _ in range(MANY))
            found = await asyncio.gather(*(bring(store, tenant, one, key) for one in sent))
            assert len({row.id for row in found}) == 1
            check(found[0], await read_all(store, found[0].id))
        posts = (bring(store, tenant, Sent(entries, body=str(n).encode(), key="d"), "d") for n in range(MANY))
        found_or_not = await asyncio.gather(*posts, return_exceptions=True)
        assert [type(one) for one in found_or_not].count(IdempotencyKeyReused) == MANY - 1
        assert await keys_of(store, tenant) == ["d", "c", "b", "a", SESSION]

    async def test_of_two_logs_at_once_one_keeps_its_ids(self, store: Store, ref: SessionRef) -> None:
        kept = await log_of(store, ref)
        turns = [ids.turn_id(), ids.turn_id()]
        entries = [msgspec.structs.replace(entry, turn_id=turns[n // 5]) for n, entry in enumerate(kept)]
        inner: list[SessionRow] = []

        async def other() -> AsyncIterator[list[Entry]]:
            yield entries[:3]
            slices = in_slices(entries[:3], entries[3:])
            inner.append(await store.import_session(ref.tenant_id, AGENT, new_row("inner"), slices))
            yield entries[3:]

        outer = await store.import_session(ref.tenant_id, AGENT, new_row("outer"), other())
        logs = [await read_all(store, row.id) for row in (outer, inner[0])]
        assert [entry.turn_id for entry in logs[0]] == [entry.turn_id for entry in entries]
        assert not {entry.turn_id for entry in logs[1]} & set(turns)
        for row, log in zip((outer, inner[0]), logs, strict=True):
            check(row, log)
            turn = await store.get_turn(SessionRef(ref.tenant_id, AGENT, row.key), log[0].turn_id)
            assert (turn.running, turn.stop_reason, turn.input_event_id) == (False, "end_turn", log[0].id)
