"""The schema file and the migrations say the same, and servers of two versions work on one database."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from sessile.ports import Store
from sessile.rows import Claim, SessionChanges, SessionRef
from sessile.stores.postgres import migrate as migrations
from sessile.stores.postgres import pool
from sessile.stores.postgres.migrate import migrate
from sessile.stores.postgres.store import PostgresStore
from sessile.stores.queries import load_migrations, read
from sessile.testing.clock import FakeClock
from sessile.testing.store_world import (
    DONE,
    EVERYTHING,
    NOTHING,
    SESSION,
    accept,
    admit_all,
    answered,
    new_tenant,
    purge_all,
    said,
    sequences,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import NotFound, StorageUnavailable

PACKAGE = "sessile.stores.postgres"
LATEST = load_migrations(PACKAGE)[-1][0]
HALF = "CREATE TABLE half (id bigint); UPDATE tenants SET name = 'half'; INSERT INTO no_such_table VALUES (1);"
ADDS = re.compile(
    r"CREATE TABLE|CREATE (UNIQUE )?INDEX|ALTER TABLE \w+ ADD COLUMN \w+ \w+( NOT NULL DEFAULT \S+| DEFAULT \S+)?$"
)

COLUMNS = """SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname"
TABLES = (
    "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
)


@pytest.fixture
async def database(new_database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(new_database)
    yield connection
    await connection.close()


async def structure(database: Any) -> list[tuple[Any, ...]]:
    """Everything that PostgreSQL knows about the shape of a database."""
    return [tuple(row) for query in (COLUMNS, INDEXES, TABLES) for row in await database.fetch(query)]


async def versions(database: Any) -> list[int]:
    rows = await database.fetch("SELECT version FROM schema_migrations ORDER BY version")
    return [version for (version,) in rows]


def add_migration(monkeypatch: pytest.MonkeyPatch, script: str, version: int = LATEST + 1) -> None:
    known = [*load_migrations(PACKAGE), (version, "next", script)]
    monkeypatch.setattr(migrations, "load_migrations", lambda package: known)


async def test_the_migrations_lead_to_the_schema_file(database: Any) -> None:
    await migrate(database, FakeClock())
    found = await structure(database)
    await database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await database.execute(read(PACKAGE, "schema.sql"))
    assert found == await structure(database)
    assert len(found) > 60


def test_versions_are_numbered_without_a_gap() -> None:
    assert [version for version, _, _ in load_migrations(PACKAGE)] == list(range(1, LATEST + 1))


def test_migrations_only_add_unless_they_say_who_can_no_longer_work() -> None:
    for version, name, script in load_migrations(PACKAGE):
        if version == 1 or script.startswith("-- oldest: "):
            continue
        for statement in re.sub(r"--.*", "", script).split(";")[:-1]:
            assert ADDS.match(" ".join(statement.split())), (name, statement)


async def test_migrating_twice_changes_nothing(database: Any) -> None:
    await migrate(database, FakeClock())
    before = await database.fetch("SELECT * FROM schema_migrations")
    await migrate(database, FakeClock(0))
    assert await database.fetch("SELECT * FROM schema_migrations") == before


async def test_a_missing_migration_is_applied_and_written_down(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(database, FakeClock())
    add_migration(monkeypatch, "-- oldest: 1\nCREATE TABLE more (id bigint);")
    await migrate(database, FakeClock(7))
    assert await database.fetchval("SELECT count(*) FROM more") == 0
    row = await database.fetchrow("SELECT * FROM schema_migrations WHERE version = $1", LATEST + 1)
    assert tuple(row) == (LATEST + 1, "next", 1, 7)


async def test_a_migration_that_fails_half_way_leaves_the_old_version(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(database, FakeClock())
    await database.execute("INSERT INTO tenants (key, name, created_at) VALUES ('acme', 'Acme', 0)")
    before = await structure(database)
    add_migration(monkeypatch, HALF)
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(database, FakeClock())
    assert not database.is_in_transaction()
    assert (await structure(database), await versions(database)) == (before, list(range(1, LATEST + 1)))
    assert await database.fetchval("SELECT name FROM tenants") == "Acme"


async def test_stores_that_open_a_new_database_at_once_all_work(new_database: str) -> None:
    stores = await asyncio.gather(*(PostgresStore.open(new_database, FakeClock()) for _ in range(6)))
    for number, store in enumerate(stores):
        await store.create_tenant(f"t{number}", "T")
    assert len(await stores[0].list_tenants()) == 6
    for store in stores:
        await store.close()


async def test_a_migration_may_take_longer_than_a_verb_and_others_wait_for_it(
    new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index over a large table takes minutes; servers that start meanwhile want the same one."""
    monkeypatch.setattr(pool, "_COMMAND_SECONDS", 0.3)
    monkeypatch.setitem(pool._SETTINGS, "lock_timeout", "300ms")
    script = "SELECT pg_sleep(1.5); CREATE TABLE more (id bigint)"
    await (await PostgresStore.open(new_database, FakeClock(), patience=0)).close()
    add_migration(monkeypatch, script)
    stores = await asyncio.gather(*(PostgresStore.open(new_database, FakeClock(), patience=0) for _ in range(2)))
    for store in stores:
        await store.close()
    connection = await asyncpg.connect(new_database)
    assert await versions(connection) == list(range(1, LATEST + 2))
    await connection.close()


async def test_a_schema_that_needs_newer_code_is_refused_and_left_alone(new_database: str, database: Any) -> None:
    await migrate(database, FakeClock())
    row = (LATEST + 2, "future", LATEST + 1, 0)
    await database.execute("INSERT INTO schema_migrations VALUES ($1, $2, $3, $4)", *row)
    with pytest.raises(StorageUnavailable, match=f"needs schema version {LATEST + 1}.*knows {LATEST}"):
        await PostgresStore.open(new_database, FakeClock())
    assert await versions(database) == [*range(1, LATEST + 1), LATEST + 2]


async def test_old_code_works_on_a_newer_schema_before_and_after_it_was_migrated(
    new_database: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling upgrade: a server of this version runs while one of the next version migrates, and others start."""
    old = await PostgresStore.open(new_database, FakeClock())
    tenant = await new_tenant(old)
    claim = await accept(old, SessionRef(tenant, "support", SESSION))
    tables = [row[0] for row in await database.fetch(TABLES)]
    script = "".join(f"ALTER TABLE {name} ADD COLUMN later text; " for name in tables)
    script += "".join(f"ALTER TABLE {name} ADD COLUMN count bigint NOT NULL DEFAULT 7; " for name in tables)
    script += "CREATE TABLE more (id bigint); CREATE INDEX more_sessions ON sessions (count);"
    for statement in script.split(";")[:-1]:
        assert ADDS.match(statement.strip()), "only what a migration may do"
    with monkeypatch.context() as patch:
        add_migration(patch, script)
        await migrate(database, FakeClock())
    assert await versions(database) == list(range(1, LATEST + 2))
    await _work(old, tenant, claim)
    started = await PostgresStore.open(new_database, FakeClock())
    other = await new_tenant(started, "other")
    await _work(started, other, await accept(started, SessionRef(other, "support", SESSION)))
    await old.close()
    await started.close()


async def _work(store: Store, tenant: int, claim: Claim) -> None:
    """Something of everything."""
    ref = SessionRef(tenant, "support", SESSION)
    await store.accept_input(ref, said("and then?"), ids.turn_id(), admit_all, behavior="follow_up")
    ended = await store.append(claim.fence, [answered()], NOTHING, DONE)
    assert ended.next is not None
    await store.append(ended.next.fence, [answered()], NOTHING, DONE)
    await whole_turn(store, ref)
    assert sequences((await store.list_events(ref, EVERYTHING)).rows) == list(range(1, 13))
    assert (await store.update_session(ref, SessionChanges(name="new"), 1)).version == 2
    await store.set_hidden(ref, claim.opened[0].id, True)
    await store.delete_event(ref, ended.entries[0].id)
    assert len((await store.list_sessions(tenant, "support", cursor=None, limit=5)).rows) == 1
    assert await store.take_expired_turns() == []
    await store.delete_session(ref, None)
    with pytest.raises(NotFound):
        await store.get_session(ref)
    await purge_all(store)
