"""The PostgreSQL store when connections, commits and servers are lost: nothing is lost, nothing is there twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from sessile.domain.client_tools import failed, pending
from sessile.domain.log import Entry, draft
from sessile.ports import Admit, Store
from sessile.rows import Claim, NewSession, Once, SessionChanges, SessionRef
from sessile.stores.postgres import pool
from sessile.stores.postgres.store import PostgresStore
from sessile.testing.clock import FakeClock
from sessile.testing.postgres import PostgresServer, postgres_server
from sessile.testing.postgres_proxy import Loss, PostgresProxy
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    DONE,
    NOTHING,
    SESSION,
    accept,
    admit_all,
    answered,
    append,
    new_session,
    new_tenant,
    read_all,
    said,
    sequences,
    shown,
    thought,
)
from sessile.wire import ids
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import ToolInputEvent

PATIENT = 30.0
"""Longer than anything here takes: what is refused then is refused for good."""
Verb = Callable[[Store, SessionRef, Claim], Awaitable[Any]]


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(postgres.port).running() as proxy:
        yield proxy


@pytest.fixture
async def store(emptied_database: str, proxy: PostgresProxy) -> AsyncIterator[PostgresStore]:
    """A store whose connections go through the proxy."""
    store = await PostgresStore.open(proxy.url(emptied_database), FakeClock(), patience=PATIENT)
    yield store
    await store.close()


@pytest.fixture
async def ref(store: PostgresStore) -> SessionRef:
    return SessionRef(await new_tenant(store), AGENT, SESSION)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _create(store: Store, ref: SessionRef, claim: Claim) -> Any:
    new = NewSession(key="made", name="n", description=None, metadata=b"{}", enabled=True, tti_minutes=0)
    return await store.create_session(ref.tenant_id, AGENT, new, Once("k", b"f"))


async def _accept(store: Store, ref: SessionRef, claim: Claim) -> Any:
    return await accept(store, SessionRef(ref.tenant_id, AGENT, "other"))


async def _queue(store: Store, ref: SessionRef, claim: Claim) -> Any:
    return await store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior="follow_up")


async def _park(store: Store, ref: SessionRef, claim: Claim) -> Any:
    made = ToolInputEvent(tool_call_id="c", tool_configuration_name="t", tool_name="t", tool_input={})
    (call,) = await append(store, claim.fence, [draft(made)], NOTHING)
    await store.park(claim.fence, [draft(pending([made]))], NOTHING, [call.id])
    return await store.answer_calls(ref, [failed(call.id, "no")], admit_all)


VERBS: dict[str, Verb] = {
    "create_tenant": lambda store, ref, claim: store.create_tenant("new", "New"),
    "create_agent": lambda store, ref, claim: store.create_agent(ref.tenant_id, "new", DOCUMENT, True),
    "save_agent": lambda store, ref, claim: store.save_agent(ref.tenant_id, AGENT, DOCUMENT, False, 1),
    "create_session": _create,
    "update_session": lambda store, ref, claim: store.update_session(ref, SessionChanges(name="x"), 1),
    "accept_input": _accept,
    "accept_input that waits": _queue,
    "append": lambda store, ref, claim: store.append(claim.fence, [thought()], NOTHING),
    "append that ends": lambda store, ref, claim: store.append(claim.fence, [answered()], NOTHING, DONE),
    "client tools": _park,
    "interrupt": lambda store, ref, claim: store.interrupt(ref),
    "take_unfinished_turns": lambda store, ref, claim: store.take_unfinished_turns(),
    "delete_session": lambda store, ref, claim: store.delete_session(ref, 1),
}


async def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is stored, but for what is different each time."""
    queries = {
        "tenants": "SELECT key, name FROM tenants ORDER BY id",
        "agents": "SELECT key, enabled, version FROM agents ORDER BY id",
        "sessions": "SELECT key, name, version, stop_reason, last_sequence FROM sessions ORDER BY 1",
        "events": "SELECT s.key, e.sequence, e.type FROM events e JOIN sessions s ON s.id = e.session_id ORDER BY 1, 2",
        "turns": "SELECT fence, takes, running, stop_reason, outstanding FROM turns ORDER BY id",
        "inputs": "SELECT behavior, waits FROM inputs ORDER BY id",
        "idempotency": "SELECT scope, key FROM idempotency ORDER BY created_at",
        "purges": "SELECT count(*) FROM purges",
    }
    async with connected(url) as connection:
        return {name: [tuple(row) for row in await connection.fetch(text)] for name, text in queries.items()}


@pytest.mark.parametrize("loss", ["commit", "answer", "late"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_commit_in_doubt_is_made_once(
    store: PostgresStore,
    ref: SessionRef,
    proxy: PostgresProxy,
    emptied_database: str,
    postgres: PostgresServer,
    verb: str,
    loss: Loss,
) -> None:
    """What a verb leaves when its COMMIT, or the answer to it, was lost is what it leaves when nothing was."""
    await new_session(store, ref.tenant_id, "other")
    claim = await accept(store, ref)
    proxy.lose(loss)
    await VERBS[verb](store, ref, claim)
    assert proxy.lost == 1
    found = await contents(emptied_database)

    async with connected(emptied_database) as connection:
        for table in found:
            await connection.execute(f"DELETE FROM {table}")
    twin = SessionRef(await new_tenant(store), AGENT, SESSION)
    await new_session(store, twin.tenant_id, "other")
    await VERBS[verb](store, twin, await accept(store, twin))
    assert proxy.lost == 1
    assert found == await contents(emptied_database)


async def test_a_batch_in_doubt_is_made_once(store: PostgresStore, ref: SessionRef, proxy: PostgresProxy) -> None:
    refs = [await new_session(store, ref.tenant_id, f"s{n}") for n in range(12)]
    proxy.lose("commit", "answer")
    claims = await asyncio.gather(*(accept(store, each) for each in refs))
    for text in ("one", "two", "three"):
        proxy.lose("commit", "late")
        await asyncio.gather(*(append(store, claim.fence, [thought(text)], NOTHING) for claim in claims))
    assert proxy.lost == 8
    for each in refs:
        log = (await read_all(store, (await store.get_session(each)).id))[2:]
        assert [entry.event().content for entry in log] == ["one", "two", "three"]  # type: ignore[union-attr]


async def test_who_gets_no_answer_gives_up_all_connections_that_may_be_as_deaf(
    emptied_database: str, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_COMMAND_SECONDS", 2)
    store = await PostgresStore.open(proxy.url(emptied_database), FakeClock(), patience=0)
    ref = SessionRef(await new_tenant(store), AGENT, SESSION)
    claim = await accept(store, ref)
    await asyncio.gather(*(store.get_session(ref) for _ in range(8)))
    proxy.cut("silence")
    assert proxy.deaf >= 4
    with pytest.raises(StorageUnavailable):
        await append(store, claim.fence, [thought("Hm.")], NOTHING)
    proxy.mend()
    await append(store, claim.fence, [thought("Ah.")], NOTHING)
    assert [entry.event().content for entry in (await read_all(store, claim.session.id))[2:]] == ["Ah."]  # type: ignore[union-attr]
    assert proxy.deaf <= 1  # the one that got no answer may be on its way out
    await store.close()


async def test_a_way_that_resets_connections_costs_nobody_anything(
    store: PostgresStore, ref: SessionRef, proxy: PostgresProxy
) -> None:
    claim = await accept(store, ref)
    proxy.cut("reset")
    writing = asyncio.create_task(append(store, claim.fence, [thought("Hm.")], NOTHING))
    await asyncio.sleep(0.2)
    assert not writing.done()
    proxy.mend()
    await writing
    assert len(await read_all(store, (await store.get_session(ref)).id)) == 3


async def test_connections_that_are_ended_cost_nobody_anything(
    store: PostgresStore, ref: SessionRef, emptied_database: str
) -> None:
    refs = [await new_session(store, ref.tenant_id, f"s{n}") for n in range(8)]

    async def end_connections() -> int:
        ended = 0
        async with connected(emptied_database) as connection:
            for _ in range(8):
                ended += await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'sessile'"
                )
                await asyncio.sleep(0.2)
        return ended

    async def converse(each: SessionRef) -> list[Entry]:
        entries: list[Entry] = []
        for number in range(6):
            claim = await accept(store, each, f"{number}")
            entries += claim.opened
            entries += await append(store, claim.fence, [thought(f"{number}")], NOTHING)
            assert (await store.get_session(each)).status == "running"
            entries += await append(store, claim.fence, [answered(f"{number}")], NOTHING, DONE)
        return entries

    ending = asyncio.create_task(end_connections())
    written = await asyncio.gather(*map(converse, refs))
    assert await ending > 0
    for each, entries in zip(refs, written, strict=True):
        assert shown(await read_all(store, (await store.get_session(each)).id)) == shown(entries)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may end."""
    with postgres_server() as server:
        yield server


async def test_a_server_that_crashes_and_comes_back_loses_and_doubles_nothing(own_server: PostgresServer) -> None:
    store = await PostgresStore.open(own_server.url(), FakeClock(), patience=PATIENT)
    tenant = await new_tenant(store)
    refs = [await new_session(store, tenant, f"s{n}") for n in range(8)]
    claims = [await accept(store, each) for each in refs]
    stop = asyncio.Event()

    async def write(claim: Claim) -> list[Entry]:
        entries = list(claim.opened)
        while not stop.is_set():
            entries += await append(store, claim.fence, [thought(str(len(entries)))], NOTHING)
        return entries

    writing = [asyncio.create_task(write(claim)) for claim in claims]
    for _ in range(2):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
    await asyncio.sleep(0.3)
    stop.set()
    for claim, task in zip(claims, writing, strict=True):
        entries = await task
        assert len(entries) > 4
        assert shown(await read_all(store, claim.session.id)) == shown(entries)
    await store.close()


async def test_without_a_server_every_verb_is_refused_and_has_no_effect(own_server: PostgresServer) -> None:
    store = await PostgresStore.open(own_server.url(), FakeClock(), patience=0.2)
    tenant = await new_tenant(store)
    ref = SessionRef(tenant, AGENT, SESSION)
    claim = await accept(store, ref)
    await asyncio.to_thread(own_server.stop)
    refused = await asyncio.gather(
        store.get_session(ref),
        store.find_key(b"digest"),
        store.ping(),
        store.create_tenant("new", "New"),
        store.append(claim.fence, [thought()], NOTHING),
        store.append(claim.fence, [answered()], NOTHING, DONE),
        store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior="steer"),
        store.renew([claim.fence]),
        store.purge(),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in refused] == [StorageUnavailable] * len(refused)
    with pytest.raises(StorageUnavailable):
        await PostgresStore.open(own_server.url(), FakeClock(), patience=0.2)
    await asyncio.to_thread(own_server.start)
    assert len(await store.list_tenants()) == 1
    assert sequences(await read_all(store, claim.session.id)) == [1, 2]
    assert await store.list_waiting(ref) == []
    assert sequences(await append(store, claim.fence, [answered()], NOTHING, DONE)) == [3, 4]
    await store.close()


async def test_a_server_that_only_reads_refuses_what_writes_until_it_writes_again(own_server: PostgresServer) -> None:
    """As a standby does, and a primary that is being replaced."""
    store = await PostgresStore.open(own_server.url(), FakeClock(), patience=0.2)
    ref = SessionRef(await new_tenant(store), AGENT, SESSION)
    claim = await accept(store, ref)
    async with connected(own_server.url()) as administrator:
        await administrator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await administrator.execute("SELECT pg_reload_conf()")
        await _until_it(administrator, "on")
        for verb in (store.append(claim.fence, [thought()], NOTHING), store.create_tenant("n", "N"), store.ping()):
            with pytest.raises(StorageUnavailable):
                await verb
        assert (await store.get_session(ref)).last_sequence == 2
        await administrator.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await administrator.execute("SELECT pg_reload_conf()")
        await _until_it(administrator, "off")
    assert sequences(await append(store, claim.fence, [thought()], NOTHING)) == [3]
    await store.close()


async def _until_it(connection: Any, setting: str) -> None:
    while await connection.fetchval("SHOW default_transaction_read_only") != setting:
        await connection.execute("SELECT pg_sleep(0.01)")


async def test_a_deadlock_is_tried_again(store: PostgresStore, ref: SessionRef, emptied_database: str) -> None:
    """Somebody who takes locks in another order than we do, such as an administrator."""
    claims = [await accept(store, await new_session(store, ref.tenant_id, key)) for key in ("a", "b")]
    first, second = (claim.session.id for claim in claims)
    lock = "SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE"
    async with connected(emptied_database) as other:
        await other.execute("SET deadlock_timeout = '1h'")
        transaction = other.transaction()
        await transaction.start()
        await other.fetch(lock, second)
        appending = asyncio.gather(*(append(store, claim.fence, [thought()], NOTHING) for claim in claims))
        async with connected(emptied_database) as watcher:
            while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await watcher.execute("SELECT pg_sleep(0.01)")
        await other.fetch(lock, first)
        await transaction.commit()
    assert [sequences(entries) for entries in await appending] == [[3], [3]]


async def test_a_defect_in_one_call_of_a_batch_is_its_own(store: PostgresStore, ref: SessionRef) -> None:
    refs = [await new_session(store, ref.tenant_id, f"s{n}") for n in range(6)]

    def refuse(agent: object, session: object) -> None:
        raise ZeroDivisionError

    admits: list[Admit] = [admit_all, admit_all, refuse, *[admit_all] * 3]
    accepting = [
        store.accept_input(each, said(), ids.turn_id(), admit) for each, admit in zip(refs, admits, strict=True)
    ]
    outcomes = await asyncio.gather(*accepting, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Claim"] * 2 + ["ZeroDivisionError"] + ["Claim"] * 3
    assert [(await store.get_session(each)).last_sequence for each in refs] == [2, 2, 0, 2, 2, 2]


async def test_closing_ends_what_was_queued_and_refuses_what_comes_later(
    emptied_database: str,
) -> None:
    store = await PostgresStore.open(emptied_database, FakeClock())
    claim = await accept(store, SessionRef(await new_tenant(store), AGENT, SESSION))
    queued = [asyncio.ensure_future(store.append(claim.fence, [thought()], NOTHING)) for _ in range(5)]
    await asyncio.sleep(0)
    await store.close()
    assert sequences([entry for each in queued for entry in (await each).entries]) == [3, 4, 5, 6, 7]
    for verb in (store.append(claim.fence, [thought()], NOTHING), store.ping(), store.list_tenants()):
        with pytest.raises(StorageUnavailable):
            await verb


async def test_what_is_wrong_with_a_url_is_said_without_it(postgres: PostgresServer) -> None:
    secret = "hunter2-hunter2"
    for url in (
        postgres.url("no_such_database").replace("postgres@", f"postgres:{secret}@"),
        f"postgresql://user:{secret}@127.0.0.1:1/x",
        f"postgresql://user:{secret}@127.0.0.1:1/x?sslmode=nonsense",
        f"postgresql://user:{secret}@[::1:5432/x",
    ):
        with pytest.raises(StorageUnavailable) as caught:
            await PostgresStore.open(url, FakeClock(), patience=0.1)
        assert secret not in f"{caught.value!r}{caught.value}"
