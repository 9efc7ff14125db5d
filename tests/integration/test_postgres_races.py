"""What happens at once on PostgreSQL, in two stores: verbs that touch several sessions have one outcome."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from sessile.ports import StaleKey
from sessile.rows import Claim, EventQuery, Interruption, SealedSecrets, SessionRef
from sessile.stores.postgres import copies
from sessile.stores.postgres.db import Db
from sessile.stores.postgres.store import PostgresStore
from sessile.testing.clock import FakeClock
from sessile.testing.postgres import PostgresServer
from sessile.testing.store_contract_copies import fork, new_row
from sessile.testing.store_contract_import_once import Sent, bring, log_of
from sessile.testing.store_contract_sub_turns import HELPER, by, end, fresh, start, started
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    NOTHING,
    SESSION,
    accept,
    admit_all,
    append,
    new_session,
    new_tenant,
    purge_all,
    read_all,
    said,
    sequences,
    thought,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import FenceLost, KeyTaken, NotFound

ROUNDS = 10


@pytest.fixture
async def stores(emptied_database: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    clock = FakeClock()
    both = [await PostgresStore.open(emptied_database, clock, lease_clock=clock) for _ in range(2)]
    yield both[0], both[1]
    for store in both:
        await store.close()


async def test_an_append_waits_for_whoever_takes_its_turn_and_is_refused(
    stores: tuple[PostgresStore, PostgresStore], emptied_database: str
) -> None:
    first, _ = stores
    claim = await accept(first, SessionRef(await new_tenant(first), AGENT, SESSION))
    taker = await asyncpg.connect(emptied_database)
    async with taker.transaction():
        await taker.execute("UPDATE turns SET fence = fence + 1 WHERE id = $1", claim.fence.turn)
        late = asyncio.create_task(first.append(claim.fence, [thought()], NOTHING))
        waits = "SELECT true FROM pg_locks WHERE NOT granted"
        while not late.done() and not await taker.fetchval(waits):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert not late.done()
    with pytest.raises(FenceLost):
        await late
    await taker.close()


async def test_no_turn_is_started_below_one_that_is_interrupted(stores: tuple[PostgresStore, PostgresStore]) -> None:
    here, there = stores
    tenant = await new_tenant(here)
    await here.create_agent(tenant, HELPER, DOCUMENT, True)
    for number in range(ROUNDS):
        ref = await new_session(here, tenant, f"above-{number}")
        above = await accept(here, ref)
        calls = [start(here, by(above, f"aev_{call}"), f"sub-{number}-{call}") for call in range(4)]
        *started, found = await asyncio.gather(*calls, there.interrupt(ref), return_exceptions=True)
        assert isinstance(found, Interruption)
        below = {claim.turn_id for claim in started if isinstance(claim, Claim)}
        refused = [claim for claim in started if not isinstance(claim, Claim)]
        assert {each.turn_id for each in found.below} == below
        assert all(isinstance(error, FenceLost) for error in refused), refused


async def test_an_interrupt_reaches_what_is_started_while_it_waits(
    stores: tuple[PostgresStore, PostgresStore], emptied_database: str
) -> None:
    """It waits for the uppermost session; meanwhile a turn is started below, and another one below that."""
    here, there = stores
    tenant = await new_tenant(here)
    await here.create_agent(tenant, HELPER, DOCUMENT, True)
    ref = await new_session(here, tenant, "above")
    above = await accept(here, ref)
    first = await started(here, by(above), "first")
    async with contextlib.AsyncExitStack() as held:
        holders = [await _holder(held, emptied_database) for _ in range(2)]
        await _hold(holders[0], above)
        interrupting = asyncio.create_task(there.interrupt(ref))
        await _until_waiting(emptied_database, 1)
        second = await started(here, by(first, "aev_second"), "second")
        await _hold(holders[1], second)
        starting = asyncio.create_task(started(here, by(second, "aev_third"), "third"))
        await _until_waiting(emptied_database, 2)
        await holders[0].execute("ROLLBACK")
        await _until_waiting(emptied_database, 2)
        await holders[1].execute("ROLLBACK")
        third = await starting
        found = await interrupting
    assert {each.turn_id for each in found.below} == {claim.turn_id for claim in (first, second, third)}


async def _holder(held: contextlib.AsyncExitStack, url: str) -> Any:
    """A connection inside a transaction."""
    connection = await asyncpg.connect(url)
    held.push_async_callback(connection.close)
    await connection.execute("BEGIN")
    return connection


async def _hold(connection: Any, claim: Claim) -> None:
    await connection.fetch("SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE", claim.session.id)


async def _until_waiting(url: str, count: int) -> None:
    """Wait until so many wait for locks that others hold."""
    connection = await asyncpg.connect(url)
    while await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:
        await connection.execute("SELECT pg_sleep(0.01)")
    await connection.close()


async def test_calls_of_two_sessions_that_share_one_make_it_once(stores: tuple[PostgresStore, PostgresStore]) -> None:
    tenant = await new_tenant(stores[0])
    await stores[0].create_agent(tenant, HELPER, DOCUMENT, True)
    for number in range(ROUNDS):
        above = [await accept(stores[0], await new_session(stores[0], tenant, f"{number}-{who}")) for who in "ab"]
        found = await asyncio.gather(
            *(
                store.start_sub_turn(
                    by(claim, shared_by="agent"), fresh(f"shared-{number}"), said(), ids.turn_id(), admit_all
                )
                for store, claim in zip(stores, above, strict=True)
            ),
            return_exceptions=True,
        )
        started = [claim for claim in found if isinstance(claim, Claim)]
        assert len(started) == 1, found
        await end(stores[0], started[0])


async def test_turns_of_sessions_that_lock_one_another_all_go_on(
    stores: tuple[PostgresStore, PostgresStore], postgres: PostgresServer
) -> None:
    """Appends in batches, interrupts of trees and calls lock sessions in one order: nobody waits in a circle."""
    here, there = stores
    tenant = await new_tenant(here)
    await here.create_agent(tenant, HELPER, DOCUMENT, True)
    refs = [await new_session(here, tenant, f"s{number}") for number in range(8)]
    claims = [await accept(here, ref) for ref in refs]
    below = [await start(here, by(claim), f"below-{number}") for number, claim in enumerate(claims)]
    running = [*claims, *(claim for claim in below if isinstance(claim, Claim))]
    known = postgres.log().count("deadlock detected")
    async with asyncio.timeout(15):
        await asyncio.gather(
            *(here.append(claim.fence, [thought()], NOTHING) for claim in running for _ in range(5)),
            *(there.append(claim.fence, [thought()], NOTHING) for claim in reversed(running) for _ in range(5)),
            *(there.interrupt(ref) for ref in refs),
            *(here.renew([claim.fence for claim in order]) for order in (running, running[::-1])),
        )
    for claim in running:
        assert sequences(await read_all(here, claim.session.id)) == list(range(1, 13))
    assert postgres.log().count("deadlock detected") == known, postgres.log()[-4000:]


async def test_a_fork_of_a_session_that_is_deleted_is_whole_or_not_there(
    stores: tuple[PostgresStore, PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_SLICE_EVENTS", 3)
    here, there = stores
    tenant = await new_tenant(here)
    whole = 0
    for number in range(ROUNDS):
        ref = await new_session(here, tenant, f"source-{number}")
        for _ in range(4):
            await whole_turn(here, ref)

        async def gone(ref: SessionRef = ref, pause: int = number) -> None:
            await asyncio.sleep(0.004 * pause)
            await there.delete_session(ref, None)
            await purge_all(there)

        made, _ = await asyncio.gather(
            here.fork_session(tenant, AGENT, new_row(f"copy-{number}"), ref, None), gone(), return_exceptions=True
        )
        if isinstance(made, BaseException):
            assert isinstance(made, NotFound)
        else:
            whole += 1
            assert len(await read_all(here, made.id)) == 16
    assert whole < ROUNDS


async def test_a_log_that_is_removed_while_it_is_read_has_no_gap(
    stores: tuple[PostgresStore, PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader stalls between two statements: meanwhile the session is deleted, and its oldest events are removed."""
    here, there = stores
    tenant = await new_tenant(here)
    ref = await new_session(here, tenant, "long")
    claim = await accept(here, ref)
    await append(here, claim.fence, [thought()] * 150, NOTHING)
    one = Db.one

    async def stalling(db: Db, name: str, /, **values: Any) -> Any:
        row = await one(db, name, **values)
        if name in ("session_head", "locate_session"):
            monkeypatch.setattr(Db, "one", one)
            await there.delete_session(ref, None)
            await there.purge()
        return row

    monkeypatch.setattr(Db, "one", stalling)
    query = EventQuery(cursor=0, limit=200, records=True, include_hidden=True)
    page = await here.read_log(claim.session.id, query)
    assert sequences(page.rows) in ([], list(range(1, 153)))


async def test_no_secret_is_written_under_a_key_that_was_changed(stores: tuple[PostgresStore, PostgresStore]) -> None:
    here, there = stores
    tenant = await new_tenant(here)
    agent = (await here.get_agent(tenant, AGENT)).id
    await here.write_agent_secrets(tenant, AGENT, lambda *owner: SealedSecrets("k0", {"first": b"1"}), False)
    for number in range(ROUNDS):
        old, new = f"k{number}", f"k{number + 1}"

        def seal(agent_id: int, session_id: int, key: str = old, name: str = f"s{number}") -> SealedSecrets:
            return SealedSecrets(key, {name: b"x"})

        written, _ = await asyncio.gather(
            here.write_agent_secrets(tenant, AGENT, seal, False), there.use_secrets_key(new), return_exceptions=True
        )
        assert isinstance(written, list | StaleKey)
        assert await here.secrets_key() == new
        with pytest.raises(StaleKey):
            await here.write_agent_secrets(tenant, AGENT, seal, False)
    assert len(await here.sealed_secrets(agent, 0)) <= ROUNDS + 1


async def test_forks_of_one_session_at_once(stores: tuple[PostgresStore, PostgresStore]) -> None:
    here, there = stores
    tenant = await new_tenant(here)
    ref = SessionRef(tenant, AGENT, SESSION)
    await whole_turn(here, ref)
    made = await asyncio.gather(
        *(fork(store, ref, key=f"f{number}") for number in range(4) for store in (here, there)), return_exceptions=True
    )
    rows = [row for row in made if not isinstance(row, BaseException)]
    assert len(rows) == 4, made
    assert all(isinstance(error, KeyTaken) for error in made if error not in rows)


async def test_an_import_at_two_servers_under_one_key_makes_one_session(
    stores: tuple[PostgresStore, PostgresStore],
) -> None:
    tenant = await new_tenant(stores[0])
    entries = await log_of(stores[0], SessionRef(tenant, AGENT, SESSION))
    for number in range(ROUNDS):
        turns = [ids.turn_id(), ids.turn_id()]
        log = [replace(entry, turn_id=turns[place // 5]) for place, entry in enumerate(entries)]
        imports = (
            bring(store, tenant, Sent(log[:3], log[3:], key=str(number)), f"copy-{number}")
            for store in (*stores, *stores)
        )
        made = await asyncio.gather(*imports)
        assert len({row.id for row in made}) == 1
    page = await stores[1].list_sessions(tenant, AGENT, cursor=None, limit=100)
    assert len(page.rows) == ROUNDS + 1
    await purge_all(stores[0])
    assert len(await read_all(stores[1], page.rows[0].id)) == len(entries)
