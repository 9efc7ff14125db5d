"""The schema file and the migrations say the same, and a migration happens wholly or not at all."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sessile.domain.filter_parser import parse
from sessile.rows import SessionQuery
from sessile.stores.queries import load_migrations, read, statements
from sessile.stores.sqlite import migrate as migrations
from sessile.stores.sqlite.migrate import migrate
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.wire.errors import StorageUnavailable

PACKAGE = "sessile.stores.sqlite"
LATEST = load_migrations(PACKAGE)[-1][0]
HALF = """CREATE TABLE half (id INTEGER PRIMARY KEY);
UPDATE tenants SET name = 'half';
INSERT INTO no_such_table VALUES (1);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessile.db"


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def structure(database: sqlite3.Connection) -> dict[str, object]:
    """Everything that SQLite knows about the shape of a database."""
    found: dict[str, object] = {}
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall():
        words = " ".join((sql or "").replace("IF NOT EXISTS ", "").split())
        found[f"{kind} {name}"] = re.sub(r" ?([(),]) ?", r"\1", words)  # SQLite adds a column with spaces of its own
        if kind == "table":
            found[f"columns of {name}"] = database.execute(f"PRAGMA table_info({name})").fetchall()
            indexes = database.execute(f"PRAGMA index_list({name})").fetchall()
            found[f"indexes of {name}"] = sorted(index[1:] for index in indexes)
        elif kind == "index":
            found[f"columns of index {name}"] = database.execute(f"PRAGMA index_xinfo({name})").fetchall()
    return found


def versions(database: sqlite3.Connection) -> list[int]:
    return [version for (version,) in database.execute("SELECT version FROM schema_migrations ORDER BY version")]


def add_migration(monkeypatch: pytest.MonkeyPatch, script: str, version: int = LATEST + 1) -> None:
    known = [*load_migrations(PACKAGE), (version, "next", script)]
    monkeypatch.setattr(migrations, "load_migrations", lambda package: known)


def test_the_migrations_lead_to_the_schema_file(database: sqlite3.Connection) -> None:
    migrate(database, FakeClock())
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        for statement in statements(read(PACKAGE, "schema.sql")):
            fresh.execute(statement)
        assert structure(database) == structure(fresh)


def test_every_statement_of_a_script_is_run() -> None:
    for script in [read(PACKAGE, "schema.sql"), *(script for _, _, script in load_migrations(PACKAGE))]:
        assert len(list(statements(script))) == len(
            re.findall(r"^(?:CREATE|ALTER|DROP|INSERT|UPDATE) ", script, re.MULTILINE)
        )


def test_versions_are_numbered_without_a_gap() -> None:
    assert [version for version, _, _ in load_migrations(PACKAGE)] == list(range(1, LATEST + 1))


def test_migrating_twice_changes_nothing(database: sqlite3.Connection) -> None:
    migrate(database, FakeClock())
    before = list(database.iterdump())
    migrate(database, FakeClock(0))
    assert list(database.iterdump()) == before


def test_a_missing_migration_is_applied_and_written_down(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(database, FakeClock())
    add_migration(monkeypatch, "CREATE TABLE more (id INTEGER PRIMARY KEY);\n")
    migrate(database, FakeClock(7))
    assert database.execute("SELECT count(*) FROM more").fetchone() == (0,)
    row = database.execute("SELECT * FROM schema_migrations WHERE version = ?", (LATEST + 1,)).fetchone()
    assert row == (LATEST + 1, "next", 7)


def test_a_newer_version_is_refused_and_left_alone(database: sqlite3.Connection) -> None:
    migrate(database, FakeClock())
    database.execute("INSERT INTO schema_migrations VALUES (?, 'future', 0)", (LATEST + 1,))
    before = list(database.iterdump())
    with pytest.raises(StorageUnavailable, match=f"version {LATEST + 1}.*knows {LATEST}"):
        migrate(database, FakeClock())
    assert list(database.iterdump()) == before


def test_a_migration_that_fails_half_way_leaves_the_old_version(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(database, FakeClock())
    database.execute("INSERT INTO tenants (key, name, created_at) VALUES ('acme', 'Acme', 0)")
    before = list(database.iterdump())
    add_migration(monkeypatch, HALF)
    with pytest.raises(sqlite3.OperationalError):
        migrate(database, FakeClock())
    assert not database.in_transaction
    assert list(database.iterdump()) == before
    add_migration(monkeypatch, "CREATE TABLE half (id INTEGER PRIMARY KEY);\n")
    migrate(database, FakeClock())
    assert versions(database) == [*range(1, LATEST + 2)]


async def test_a_store_whose_migration_fails_does_not_open_and_holds_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        add_migration(patch, HALF)
        with pytest.raises(StorageUnavailable):
            await SqliteStore.open(path, FakeClock())
    store = await SqliteStore.open(path, FakeClock())
    await store.create_tenant("acme", "Acme")
    await store.close()


async def test_a_store_of_a_newer_version_does_not_open(path: Path, database: sqlite3.Connection) -> None:
    migrate(database, FakeClock())
    database.execute("INSERT INTO schema_migrations VALUES (?, 'future', 0)", (LATEST + 1,))
    with pytest.raises(StorageUnavailable, match="knows"):
        await SqliteStore.open(path, FakeClock())


def test_a_file_that_is_no_database_does_not_open(path: Path) -> None:
    path.write_bytes(b"This is not a database at all. " * 100)
    with pytest.raises(StorageUnavailable, match="cannot be opened"):
        asyncio.run(SqliteStore.open(path, FakeClock()))


async def test_stores_that_open_a_new_file_at_once_all_work(path: Path) -> None:
    stores = await asyncio.gather(*(SqliteStore.open(path, FakeClock()) for _ in range(8)))
    for number, store in enumerate(stores):
        await store.create_tenant(f"t{number}", "T")
    assert len(await stores[0].list_tenants()) == 8
    for store in stores:
        await store.close()


async def test_sessions_of_before_are_found_by_their_metadata(
    path: Path, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [known for known in load_migrations(PACKAGE) if known[1] in ("initial", "idempotency", "interrupts")]
    with monkeypatch.context() as old:
        old.setattr(migrations, "load_migrations", lambda package: before)
        migrate(database, FakeClock())
    many = "{" + ",".join(f'"n{number}":{number}' for number in range(99)) + "}"
    database.execute("INSERT INTO tenants VALUES (1, 'acme', 'Acme', 0)")
    database.execute("INSERT INTO agents VALUES (1, 1, 'a', 1, 1, X'7B7D', 0, 0)")
    for key, metadata in (
        ("few", '{"n7": 7.0, "x": {"y": "é"}}'),
        ("many", many),
        ("other", '{"n7": 8}'),
        ("none", "{}"),
    ):
        database.execute(
            "INSERT INTO sessions (tenant_id, agent_id, key, name, metadata, enabled, tti_minutes, version,"
            " last_sequence, usage, created_at, updated_at) VALUES (1, 1, ?, 'n', ?, 1, 0, 1, 0, X'7B7D', 0, 0)",
            (key, metadata.encode()),
        )
    store = await SqliteStore.open(path, FakeClock())
    for where, expected in (("n7 = 7", ["many", "few"]), ("x.y = 'é'", ["few"])):
        for agents in (None, ["a"]):
            query = SessionQuery(limit=10, agent_keys=agents, metadata=parse(where))
            assert [row.key for row in (await store.find_sessions(1, query)).rows] == expected
    await store.close()
    assert database.execute("SELECT count(*) FROM session_terms").fetchone() == (4,)
