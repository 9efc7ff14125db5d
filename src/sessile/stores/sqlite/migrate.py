"""Brings a database file to the current schema, one transaction a migration."""

import contextlib
import sqlite3
from collections.abc import Iterator

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
    migrations = load_migrations("sessile.stores.sqlite")
    functions.register(connection)
    connection.execute(_VERSIONS)
    applied = {version for (version,) in connection.execute("SELECT version FROM schema_migrations")}
    known = {version for version, _, _ in migrations}
    if newer := applied - known:
        raise StorageUnavailable(f"The database has schema version {max(newer)}; this Sessile knows {max(known)}.")
    for version, name, script in migrations:
        if version not in applied:
            with _transaction(connection):
                if connection.execute("SELECT 1 FROM schema_migrations WHERE version = ?", (version,)).fetchone():
                    continue  # another process that opened the same file was faster
                for statement in statements(script):
                    connection.execute(statement)
                connection.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", (version, name, clock.now()))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
