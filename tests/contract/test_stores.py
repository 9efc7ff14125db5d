"""The Store contract, held by every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessile.ports import Store
from sessile.stores.postgres.store import PostgresStore
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.store_contract import StoreContract


class _Sqlite:
    def __init__(self, path: Path, store: SqliteStore, clock: FakeClock) -> None:
        self._path = path
        self.store: Store = store
        self.clock = clock

    async def reopen(self) -> Store:
        await self.store.close()
        self.store = await SqliteStore.open(self._path, self.clock)
        return self.store


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[_Sqlite]:
        path = tmp_path / "sessile.db"
        clock = FakeClock()
        harness = _Sqlite(path, await SqliteStore.open(path, clock), clock)
        yield harness
        assert await harness.store.damage() == [], "whatever a case does, it leaves no stray row"
        await harness.store.close()


class _Postgres:
    def __init__(self, url: str, store: PostgresStore, clock: FakeClock) -> None:
        self._url = url
        self.store: Store = store
        self.clock = clock

    async def reopen(self) -> Store:
        await self.store.close()
        self.store = await PostgresStore.open(self._url, self.clock, lease_clock=self.clock)
        return self.store


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def harness(self, emptied_database: str) -> AsyncIterator[_Postgres]:
        clock = FakeClock()
        harness = _Postgres(
            emptied_database, await PostgresStore.open(emptied_database, clock, lease_clock=clock), clock
        )
        yield harness
        assert await harness.store.damage() == [], "whatever a case does, it leaves no stray row"
        await harness.store.close()
