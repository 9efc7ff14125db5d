"""The Store contract, held by every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessile.ports import Store
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.store_contract import StoreContract


class _Sqlite:
    def __init__(self, path: Path, store: SqliteStore) -> None:
        self._path = path
        self.store: Store = store

    async def reopen(self) -> Store:
        await self.store.close()
        self.store = await SqliteStore.open(self._path, FakeClock())
        return self.store


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[_Sqlite]:
        path = tmp_path / "sessile.db"
        harness = _Sqlite(path, await SqliteStore.open(path, FakeClock()))
        yield harness
        await harness.store.close()
