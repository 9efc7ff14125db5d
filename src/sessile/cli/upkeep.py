"""What `sessile db` does, on the database that a configuration names."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from sessile import logs
from sessile.compose.storage import migrate_database, open_existing, pending_migrations
from sessile.config import Config
from sessile.rows import SessionSize, TableSize
from sessile.service.upkeep import Checked, Finding, check_store


class Sizes(Struct, frozen=True):
    """How large a database is."""

    tables: list[TableSize]
    sessions: list[SessionSize]


def pending(config: Config) -> list[str]:
    """The migrations that are missing. Raises StorageUnavailable for a database of a newer version."""
    return asyncio.run(pending_migrations(config))


def migrate(config: Config) -> list[str]:
    """Run them. Raises DatabaseInUse, and what `pending` raises."""
    return asyncio.run(migrate_database(config))


def check(config: Config, show: Callable[[Finding], None]) -> Checked:
    """Show everything that is wrong; returns how much was looked at. Raises ConfigError, StorageUnavailable."""

    async def run() -> Checked:
        logs.configure("error")
        checked = Checked()
        async with open_existing(config) as store:
            async for finding in check_store(store, checked):
                show(finding)
        return checked

    return asyncio.run(run())


def size(config: Config, sessions: int) -> Sizes:
    """Tables, and so many of the largest sessions. Raises ConfigError, StorageUnavailable."""

    async def run() -> Sizes:
        async with open_existing(config) as store:
            return Sizes(await store.table_sizes(), await store.largest_sessions(sessions) if sessions else [])

    return asyncio.run(run())
