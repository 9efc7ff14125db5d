"""Hot verbs in batches: what waits becomes one transaction of a constant number of statements. Knows no verb."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from sessile.stores.postgres.db import Db
from sessile.stores.postgres.pool import Connections
from sessile.wire.errors import StorageUnavailable

Call = TypeVar("Call")
Result = TypeVar("Result")

MAX_BATCH = 128
"""Calls of one transaction at most: two batches of which one is encoded while the other one is carried out."""
_AT_ONCE = 2
"""Batches of a lane that run at once: one is decided while another one waits for the disk."""


class BatchLane(Generic[Call, Result]):
    """Runs calls of one verb set-wise: `work` gets those that wait and returns an outcome for each, or raises for all.

    An outcome that is an exception is raised to its caller and has no effect. Of calls with the same key at most one is
    in a batch, and they go in order. Nothing is answered before its commit.
    """

    def __init__(
        self,
        connections: Connections,
        work: Callable[[Db, Sequence[Call]], Awaitable[Sequence[Result | Exception]]],
        key: Callable[[Call], Hashable] | None = None,
    ) -> None:
        self._connections = connections
        self._work = work
        self._key = key
        self._waiting: list[tuple[Call, asyncio.Future[Result]]] = []
        self._running = 0
        self._busy: set[Hashable] = set()

    def run(self, call: Call) -> "asyncio.Future[Result]":
        """Queue a call. Cancelling the future does not undo the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((call, future))
        if self._running < _AT_ONCE:
            self._connections.start(self._drain())
            self._running += 1
        return future

    async def _drain(self) -> None:
        """Run batches until nothing waits. All calls of one turn of the event loop are there when this begins."""
        try:
            while batch := self._take():
                await self._run_batch(batch)
        finally:
            self._running -= 1

    def _take(self) -> list[tuple[Call, "asyncio.Future[Result]"]]:
        if self._key is None:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            return batch
        batch, later = [], []
        for item in self._waiting:
            key = self._key(item[0])
            if key in self._busy or len(batch) == MAX_BATCH:
                later.append(item)
            else:
                self._busy.add(key)
                batch.append(item)
        self._waiting = later
        return batch

    async def _run_batch(self, batch: list[tuple[Call, "asyncio.Future[Result]"]]) -> None:
        calls = [call for call, _ in batch]
        try:
            outcomes = await self._outcomes(calls)
        finally:
            if self._key is not None:
                self._busy.difference_update(map(self._key, calls))
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            _deliver(future, outcome)

    async def _outcomes(self, calls: Sequence[Call]) -> Sequence[Result | Exception]:
        try:
            return await self._connections.transact(lambda db: self._work(db, calls))
        except StorageUnavailable:
            return [StorageUnavailable() for _ in calls]
        except Exception as error:  # a defect in one call is for its caller to see, and must not end the lane
            if len(calls) == 1:
                return [error]
        return [outcome for call in calls for outcome in await self._outcomes([call])]


def _deliver(future: "asyncio.Future[Any]", outcome: Any) -> None:
    if future.cancelled():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
