"""Brings a database to the current schema, one transaction a migration, one process at a time.

Servers of two versions run side by side while one replaces the other, so a migration only adds: tables, indexes, and
columns that have a default. Where one cannot, its first line says `-- oldest: N`: the lowest schema version whose code
still works on it, and that code must be gone before.
"""

import re
from typing import Any

from sessile.ports import Clock
from sessile.stores.queries import load_migrations
from sessile.wire.errors import StorageUnavailable

_LOCK = 0x5E5511E
"""The advisory lock that a migrating process holds."""
_HOURS = 24 * 60 * 60.0
"""How long a migration may take: an index over many events takes longer than any verb may."""
_VERSIONS = """CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    oldest integer NOT NULL,
    applied_at bigint NOT NULL
)"""
_OLDEST = re.compile(r"\A-- oldest: (\d+)$", re.MULTILINE)


async def migrate(connection: Any, clock: Clock) -> None:
    """Apply the migrations that are missing.

    Raises StorageUnavailable when a newer Sessile has changed the schema in a way that this one does not know.
    """
    migrations = load_migrations("sessile.stores.postgres")
    if await _applied(connection, migrations) == {version for version, _, _ in migrations}:
        return
    async with connection.transaction():
        await _wait_for_others(connection)
        await connection.execute(_VERSIONS)
    for version, name, script in migrations:
        async with connection.transaction():
            await _wait_for_others(connection)
            if await connection.fetchval("SELECT 1 FROM schema_migrations WHERE version = $1", version):
                continue
            await connection.execute(script, timeout=_HOURS)
            oldest = _OLDEST.match(script)
            row = (version, name, int(oldest[1]) if oldest else 1, clock.now())
            await connection.execute("INSERT INTO schema_migrations VALUES ($1, $2, $3, $4)", *row)


async def pending(connection: Any) -> list[str]:
    """What `migrate` would do, by name, in order. Changes nothing. Raises what `migrate` raises."""
    migrations = load_migrations("sessile.stores.postgres")
    applied = await _applied(connection, migrations)
    return [f"{version:04} {name}" for version, name, _ in migrations if version not in applied]


async def _wait_for_others(connection: Any) -> None:
    """Until the transaction ends, nobody else migrates. Who does may take as long as we may."""
    await connection.execute("SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK, timeout=_HOURS)
    await connection.execute("SET LOCAL lock_timeout TO DEFAULT")


async def _applied(connection: Any, migrations: list[tuple[int, str, str]]) -> set[int]:
    """The versions that are there. Raises StorageUnavailable when one of them needs newer code than this."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return set()
    known = {version for version, _, _ in migrations}
    found = await connection.fetch("SELECT version, oldest FROM schema_migrations")
    needed = max((oldest for _, oldest in found), default=0)
    if needed > max(known):
        raise StorageUnavailable(f"The database needs schema version {needed}; this Sessile knows {max(known)}.")
    return {version for version, _ in found} & known
