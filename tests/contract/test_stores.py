"""The Store contract, held by every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessile.ports import Store
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
        await harness.store.close()
