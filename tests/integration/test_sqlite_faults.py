"""The embedded store on a full disk, with a locked file, or with a wrong verb in a batch; and its query plans."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sessile.rows import SessionChanges, SessionRef
from sessile.stores import copying
from sessile.stores.queries import load_queries
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.faults import fill_disk, free_disk
from sessile.testing.store_contract_copies import new_row
from sessile.testing.store_world import (
    AGENT,
    DOCUMENT,
    DONE,
    EVERYTHING,
    NOTHING,
    SESSION,
    accept,
    admit_all,
    answered,
    append,
    new_session,
    new_tenant,
    purge_all,
    read_all,
    said,
    sequences,
    shown,
    thought,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import InvalidRequest, KeyTaken, NotFound, StorageUnavailable

QUERIES = load_queries("sessile.stores.sqlite")
LARGE = b'{"blob":"' + b"x" * 60_000 + b'"}'
HOT_QUERIES = (
    "list_events_asc",
    "list_events_desc",
    "list_sessions",
    "list_agents",
    "list_agents_enabled",
    "session_for_input",
    "get_session",
    "locate_session",
    "session_key",
    "fenced_turn",
    "get_event",
    "get_turn",
    "get_agent",
    "find_key",
    "advance_session",
    "stop_session",
    "next_purge",
    "purge_events",
    "purge_turns",
    "purge_sessions",
    "purge_inputs",
    "session_to_run",
    "count_waiting",
    "list_waiting",
    "list_steering",
    "follow_up",
    "find_input",
    "made_input",
    "taken_input",
    "any_expired_turn",
    "renew_lease",
    "candidates_of_agent",
    "candidates_of_tenant",
    "candidates_of_agent_by_term",
    "candidates_of_tenant_by_term",
    "candidates_running",
    "purge_keys_of_inputs",
    "delete_idle_sessions",
    "sizes_of_events",
    "turns_up_to",
    "release_turn",
    "get_artifact",
    "list_artifacts_asc",
    "list_artifacts_desc",
    "count_artifacts",
    "expired_artifact",
    "take_expired_artifacts",
    "expire_artifacts",
)
SHORT_SCANS = ("SCAN purges", "SCAN s USING COVERING INDEX sessions_running")
"""The oldest row of a short list in its own order, and the turns that have not ended, from their index alone."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessile.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, FakeClock())
    yield store
    await store.close()


@pytest.fixture
async def ref(store: SqliteStore) -> SessionRef:
    return SessionRef(await new_tenant(store), AGENT, SESSION)


async def on_writer(store: SqliteStore, sql: str) -> list[Any]:
    """Run a statement on the writing connection, in a batch of its own."""
    return await store._writer.run(lambda db: db.execute(sql).fetchall())


async def one_batch(store: SqliteStore, *verbs: Awaitable[Any]) -> list[Any]:
    """The outcomes of verbs that are committed together: all are queued before the loop turns to the writer."""
    return await asyncio.gather(*verbs, return_exceptions=True)


async def test_a_full_disk_fails_the_whole_batch_and_leaves_nothing(store: SqliteStore, ref: SessionRef) -> None:
    claim = await accept(store, ref)
    agent = await store.get_agent(ref.tenant_id, AGENT)
    other = await new_session(store, ref.tenant_id, "other")
    before = await store.get_session(ref), await store.get_session(other)
    await fill_disk(store)
    outcomes = await one_batch(
        store,
        new_session(store, ref.tenant_id, "small"),
        append(store, claim.fence, [thought("y" * 60_000)], NOTHING),
        append(store, claim.fence, [answered()], NOTHING, DONE),
        store.accept_input(other, said(), ids.turn_id(), admit_all),
        store.save_agent(ref.tenant_id, AGENT, b"{}", False, 1),
        store.create_agent(ref.tenant_id, "small", DOCUMENT, True),
        store.create_tenant("small", "Small"),
        store.update_session(ref, SessionChanges(name="renamed"), None),
        store.delete_session(other, None),
        store.delete_agent(ref.tenant_id, AGENT),
        store.take_unfinished_turns(),
        store.purge(),
        store.ping(),
        new_session(store, ref.tenant_id, SESSION),
    )
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 14
    assert (await store.get_session(ref), await store.get_session(other)) == before
    assert await store.get_agent(ref.tenant_id, AGENT) == agent
    assert len(await store.list_tenants()) == 1
    assert shown(await read_all(store, before[0].id)) == shown(claim.opened)
    with pytest.raises(NotFound):
        await store.get_session(SessionRef(ref.tenant_id, AGENT, "small"))

    await free_disk(store)
    await new_session(store, ref.tenant_id, "large", metadata=LARGE)
    assert sequences(await append(store, claim.fence, [answered()], NOTHING, DONE)) == [3, 4]
    assert (await on_writer(store, "PRAGMA integrity_check")) == [("ok",)]


async def test_a_full_disk_that_undoes_one_statement_fails_that_verb_only(store: SqliteStore, ref: SessionRef) -> None:
    await fill_disk(store)
    large, accepted = await one_batch(
        store, new_session(store, ref.tenant_id, "large", metadata=LARGE), accept(store, ref)
    )
    assert isinstance(large, StorageUnavailable)
    assert shown(await read_all(store, accepted.session.id)) == shown(accepted.opened)
    with pytest.raises(NotFound):
        await store.get_session(SessionRef(ref.tenant_id, AGENT, "large"))
    await free_disk(store)
    await new_session(store, ref.tenant_id, "large", metadata=LARGE)


async def test_a_locked_file_is_unavailable_until_it_is_not(store: SqliteStore, ref: SessionRef, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        verbs = accept(store, ref), new_session(store, ref.tenant_id, "new"), store.ping()
        outcomes = await asyncio.gather(*verbs, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
        assert (await store.get_session(ref)).status == "unstarted"
        other.execute("ROLLBACK")
    await store.ping()
    assert await on_writer(store, "PRAGMA busy_timeout") == [(0,)]  # the event loop itself never waits for a lock
    assert sequences(await whole_turn(store, ref)) == [1, 2, 3, 4]


async def test_one_verbs_refusal_leaves_the_others_of_its_batch_alone(store: SqliteStore, ref: SessionRef) -> None:
    made, taken, accepted, running, missing, last = await one_batch(
        store,
        new_session(store, ref.tenant_id, "first"),
        new_session(store, ref.tenant_id, SESSION),
        accept(store, ref),
        accept(store, ref),
        store.delete_session(SessionRef(ref.tenant_id, AGENT, "no"), None),
        new_session(store, ref.tenant_id, "last"),
    )
    assert (made.session_key, last.session_key) == ("first", "last")
    assert isinstance(taken, KeyTaken)
    assert isinstance(missing, NotFound)
    assert running.id == accepted.turn_id
    assert len(await read_all(store, accepted.session.id)) == 2


async def test_a_defect_in_one_verb_reaches_its_caller_only(store: SqliteStore, ref: SessionRef) -> None:
    def defect(*_: object) -> None:
        raise KeyError("a defect")

    made, broken, half, last = await one_batch(
        store,
        new_session(store, ref.tenant_id, "first"),
        store.accept_input(ref, said(), ids.turn_id(), defect),
        store._writer.run(lambda db: (db.execute("DELETE FROM sessions"), defect())),
        new_session(store, ref.tenant_id, "last"),
    )
    assert (made.session_key, last.session_key) == ("first", "last")
    assert (type(broken), type(half)) == (KeyError, KeyError)
    assert (await store.get_session(ref)).status == "unstarted"


async def test_an_error_in_one_read_leaves_the_others_alone(store: SqliteStore, ref: SessionRef) -> None:
    outcomes = await asyncio.gather(
        store._readers.run(lambda db: db.execute("SELECT * FROM no_such_table")),
        store.get_session(ref),
        store.get_session(SessionRef(ref.tenant_id, AGENT, "no")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], StorageUnavailable)
    assert outcomes[1] == await store.get_session(ref)
    assert isinstance(outcomes[2], NotFound)


async def test_readers_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(StorageUnavailable):
        await store._readers.run(lambda db: db.execute("DELETE FROM tenants"))


async def test_a_closed_store_is_unavailable(path: Path) -> None:
    store = await SqliteStore.open(path, FakeClock())
    await store.close()
    for verb in (store.list_tenants(), store.ping()):
        with pytest.raises(StorageUnavailable):
            await verb


async def test_purging_leaves_no_row_behind(store: SqliteStore, ref: SessionRef) -> None:
    for number in range(3):
        session = await new_session(store, ref.tenant_id, f"s{number}")
        for _ in range(3):
            await whole_turn(store, session, *[thought()] * 200)
    await whole_turn(store, ref)
    await accept(store, ref)
    await store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior="steer")
    await store.delete_session(ref, None)
    await store.delete_agent(ref.tenant_id, AGENT)
    await purge_all(store)
    for table in ("sessions", "turns", "events", "inputs", "agents", "purges"):
        assert await on_writer(store, f"SELECT count(*) FROM {table}") == [(0,)], table


async def commits(store: SqliteStore, *verbs: Awaitable[Any]) -> int:
    """How many transactions the verbs took."""
    seen: list[str] = []
    await store._writer.run(lambda db: db.set_trace_callback(seen.append))
    seen.clear()
    outcomes = await one_batch(store, *verbs)
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    found = seen.count("COMMIT")
    await store._writer.run(lambda db: db.set_trace_callback(None))
    return found


async def test_appends_that_wait_together_share_a_commit(store: SqliteStore, ref: SessionRef) -> None:
    fence = (await accept(store, ref)).fence
    assert await commits(store, *[append(store, fence, [thought()], NOTHING) for _ in range(64)]) == 1
    log = await store.list_events(ref, EVERYTHING)
    assert sequences(log.rows) == list(range(1, 67))


async def test_the_end_of_a_turn_and_the_start_of_the_next_are_one_commit(store: SqliteStore, ref: SessionRef) -> None:
    claim = await accept(store, ref)
    await store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior="follow_up")
    assert await commits(store, store.append(claim.fence, [answered()], NOTHING, DONE)) == 1
    assert (await store.get_session(ref)).status == "running"
    assert await store.list_waiting(ref) == []


async def test_an_end_that_cannot_be_committed_takes_nothing(store: SqliteStore, ref: SessionRef) -> None:
    claim = await accept(store, ref)
    await store.accept_input(ref, said(), ids.turn_id(), admit_all, behavior="follow_up")
    waiting = await store.list_waiting(ref)
    await fill_disk(store)
    with pytest.raises(StorageUnavailable):
        await store.append(claim.fence, [answered("y" * 60_000)], NOTHING, DONE)
    assert await store.list_waiting(ref) == waiting
    await free_disk(store)
    assert (await store.append(claim.fence, [answered()], NOTHING, DONE)).next is not None


class _Anything(dict[str, Any]):
    def __missing__(self, name: str) -> int:
        return 1


async def test_more_events_than_a_fork_may_have_are_refused(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await new_tenant(store)
    source = SessionRef(tenant, AGENT, SESSION)
    events = await whole_turn(store, source)
    monkeypatch.setattr(copying, "MAX_FORK_EVENTS", 3)
    with pytest.raises(InvalidRequest, match="4 events"):
        await store.fork_session(tenant, AGENT, new_row(), source, None)
    assert (await store.fork_session(tenant, AGENT, new_row(), source, events[1].id)).last_sequence == 4


async def test_what_a_killed_process_has_copied_is_purged_when_it_is_old(path: Path) -> None:
    clock = FakeClock()
    store = await SqliteStore.open(path, clock)
    tenant = await new_tenant(store)
    source = SessionRef(tenant, AGENT, SESSION)
    before = await whole_turn(store, source)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        (session_id,) = database.execute("UPDATE sqlite_sequence SET seq = seq + 1 RETURNING seq").fetchone()
        database.execute("INSERT INTO copies VALUES (?, ?)", [session_id, clock.now()])
        database.execute(
            "INSERT INTO events SELECT tenant_id, ?, sequence, id, turn_id, type, hidden, created_at, body FROM events",
            [session_id],
        )
        await clock.advance(copying.STALE_SECONDS - 1)
        await purge_all(store)
        assert database.execute("SELECT count(*) FROM events").fetchone() == (2 * len(before),)
        await clock.advance(1)
        await purge_all(store)
        assert await store.purge() is True
        await purge_all(store)
        assert database.execute("SELECT count(*) FROM events").fetchone() == (len(before),)
        assert database.execute("SELECT count(*) FROM copies").fetchone() == (0,)
    await store.close()


@pytest.mark.parametrize("name", HOT_QUERIES)
async def test_a_hot_query_neither_scans_nor_sorts(store: SqliteStore, name: str) -> None:
    query = QUERIES[name]
    values: Any = (1,) * query.count("?") if "?" in query else _Anything()

    def plan(db: sqlite3.Connection) -> list[str]:
        return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]

    steps = await store._readers.run(plan)
    assert steps
    for step in steps:
        assert "TEMP B-TREE" not in step, steps
        assert "SCAN" not in step or step in SHORT_SCANS, steps
