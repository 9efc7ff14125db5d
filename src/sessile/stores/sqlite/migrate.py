"""Brings a database file to the current schema, one transaction a migration."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sessile.ports import Clock
from sessile.stores.queries import load_migrations, statements
from sessile.stores.sqlite import functions
from sessile.wire.errors import StorageUnavailable

_VERSIONS = """CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at INTEGER NOT NULL
)"""


def migrate(connection: sqlite3.Connection, clock: Clock) -> None:
    """Apply the migrations that are missing.

    Raises StorageUnavailable when the file was written by a newer Sessile.
    """
    functions.register(connection)
    connection.execute(_VERSIONS)
    missing = _missing(connection)
    for version, name, script in load_migrations("sessile.stores.sqlite"):
        if version in missing:
            with _transaction(connection):
                if connection.execute("SELECT 1 FROM schema_migrations WHERE version = ?", (version,)).fetchone():
                    continue  # another process that opened the same file was faster
                for statement in statements(script):
                    connection.execute(statement)
                connection.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", (version, name, clock.now()))


def pending(path: Path) -> list[str]:
    """What `migrate` would do to a database file, by name, in order; it may not be there. Changes nothing.

    Raises StorageUnavailable when the file was written by a newer Sessile, or is no database.
    """
    migrations = load_migrations("sessile.stores.sqlite")
    missing = {version for version, _, _ in migrations}
    if path.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone():
                    missing = _missing(connection)
        except sqlite3.Error as error:
            raise StorageUnavailable(f"The database cannot be opened: {error}.") from None
    return [f"{version:04} {name}" for version, name, _ in migrations if version in missing]


def _missing(connection: sqlite3.Connection) -> set[int]:
    applied = {version for (version,) in connection.execute("SELECT version FROM schema_migrations")}
    known = {version for version, _, _ in load_migrations("sessile.stores.sqlite")}
    if newer := applied - known:
        raise StorageUnavailable(f"The database has schema version {max(newer)}; this Sessile knows {max(known)}.")
    return known - applied


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
