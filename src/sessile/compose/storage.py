"""The store, the folder of files and the keys of secrets that a configuration names."""

import asyncio
import contextlib
import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sessile.auth.keyring import VARIABLE, Keyring
from sessile.auth.vault import rotate
from sessile.clock import SystemClock
from sessile.config import Config, ConfigError, is_url
from sessile.ports import Clock, Store
from sessile.stores.files import LocalFiles
from sessile.stores.sqlite.migrate import pending
from sessile.stores.sqlite.owner import owned
from sessile.stores.sqlite.store import SqliteStore


def shared(config: Config) -> bool:
    """Whether several servers may run on the database at once."""
    return is_url(config.database)


def ownership(config: Config) -> contextlib.AbstractContextManager[None]:
    """The right to run a server on the database, or to migrate it. Raises ConfigError, DatabaseInUse."""
    return contextlib.nullcontext() if shared(config) else owned(_database(config))


@contextlib.asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The store of a configuration, for administration beside a running server or without one. Raises ConfigError."""
    if is_url(config.database):
        store = await _postgres().open(config.database, SystemClock(), config.lease_seconds)
    else:
        store = await SqliteStore.open(_database(config), SystemClock(), config.lease_seconds)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def open_existing(config: Config) -> AsyncIterator[Store]:
    """The store of a database that is there and up to date. Raises ConfigError, StorageUnavailable."""
    file = _database_file(config)
    if not is_url(config.database) and not file.exists():
        raise ConfigError(f"There is no database {str(file)!r}.")
    if names := await pending_migrations(config):
        raise ConfigError(f"The database is older than this version, by {len(names)} steps: sessile db migrate")
    async with open_store(config) as store:
        yield store


async def pending_migrations(config: Config) -> list[str]:
    """What this version would do to the schema of the database first, in order. Raises StorageUnavailable."""
    if is_url(config.database):
        names: list[str] = await _postgres().pending(config.database)
        return names
    return await asyncio.to_thread(pending, _database_file(config))


async def migrate_database(config: Config) -> list[str]:
    """Bring the database to the schema of this version; returns what was done.

    Raises ConfigError, DatabaseInUse when a server runs on a database file, StorageUnavailable.
    """
    names = await pending_migrations(config)
    if names:
        with ownership(config):
            async with open_store(config):
                pass
    return names


def keyring(config: Config) -> Keyring:
    """The keys of the secrets in a database: of the environment, or of a file beside it."""
    database = _database(config)
    return Keyring(database.with_name(f"{database.name}.secrets-key"), os.environ.get(VARIABLE))


async def rotate_secrets_key(config: Config) -> int:
    """Encrypt all secrets with a new key; returns how many. Raises SecretsUnavailable, StorageUnavailable."""
    async with open_store(config) as store:
        return await rotate(store, keyring(config))


def files(config: Config, clock: Clock) -> LocalFiles:
    """The folder for files, beside the database file."""
    database = _database(config).resolve()
    return LocalFiles(database.with_name(f"{database.name}.files"), clock, shared=shared(config))


def _postgres() -> Any:
    """The store for PostgreSQL, whose driver is an optional extra. Raises ConfigError without it."""
    try:
        return importlib.import_module("sessile.stores.postgres.store").PostgresStore
    except ModuleNotFoundError as missing:
        if missing.name != "asyncpg":
            raise
        raise ConfigError("PostgreSQL needs the extra `postgres`: pip install 'sessile[postgres]'.") from None


def _database_file(config: Config) -> Path:
    """Where the database is, or would be."""
    return Path(config.data) / "sessile.db" if config.database is None else Path(config.database)


def _database(config: Config) -> Path:
    """The database file; with a server's database, the file that files and keys would stand beside."""
    if config.database is None or is_url(config.database):
        folder = Path(config.data)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / "sessile.db"
    file = Path(config.database)
    if file.name == ":memory:" or not file.parent.is_dir():
        raise ConfigError(f"The database {config.database!r} must be a file in a folder that exists.")
    return file
