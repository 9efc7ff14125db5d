"""Threads that own SQLite connections: one writer that commits in groups, and readers. They know no verb."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import structlog

from sessile.wire.errors import StorageUnavailable

Result = TypeVar("Result")
Verb = Callable[[sqlite3.Connection], Result]
Job = tuple[Verb[Any], "asyncio.Future[Any]"]
Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

MAX_BATCH = 256
_log = structlog.get_logger("sessile.store")


class Lane:
    """Runs verbs on threads with a connection each. All verbs that wait are taken together.

    `run` may be called from the event loop that made the lane only. A verb that raises SessileError has no effect; a
    failure of the database becomes StorageUnavailable.
    """

    def __init__(self, connections: list[sqlite3.Connection], name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(connection,), name=f"sessile-{name}-{number}", daemon=True)
            for number, connection in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, verb: Verb[Result]) -> "asyncio.Future[Result]":
        """Queue a verb. Cancelling the future does not undo the verb."""
        future: asyncio.Future[Result] = self._loop.create_future()
        if self._closed:
            future.set_exception(StorageUnavailable("The store is closed."))
        else:
            self._jobs.put((verb, future))
        return future

    async def close(self) -> None:
        """Run what was queued, then close the connections."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self, connection: sqlite3.Connection) -> None:
        with contextlib.closing(connection):
            stop = False
            while not stop:
                batch, stop = self._take()
                if batch:
                    outcomes = self._run_batch(connection, batch)
                    self._loop.call_soon_threadsafe(_deliver, outcomes)

    def _take(self) -> tuple[list[Job], bool]:
        batch: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _run_batch(self, connection: sqlite3.Connection, batch: list[Job]) -> list[Outcome]:
        raise NotImplementedError


class ReadLane(Lane):
    """Every batch reads one snapshot, taken after the verbs were queued: what was acknowledged before is seen."""

    def _run_batch(self, connection: sqlite3.Connection, batch: list[Job]) -> list[Outcome]:
        try:
            connection.execute("BEGIN")
            outcomes = [_outcome(verb, connection, future) for verb, future in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            return _all_failed(batch, error)
        return outcomes


class WriteLane(Lane):
    """Group commit: one transaction a batch; nothing is answered before the commit returns.

    A verb that fails has no effect. Most verbs fail before they write; when one fails after it has written, the whole
    batch runs again with a savepoint for each verb, so verbs must be functions of the database alone.
    """

    def _run_batch(self, connection: sqlite3.Connection, batch: list[Job]) -> list[Outcome]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = self._run_together(connection, batch)
            if outcomes is None:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                outcomes = [self._run_alone(connection, verb, future) for verb, future in batch]
            _commit(connection)
        except sqlite3.Error as error:
            _roll_back(connection)
            return _all_failed(batch, error)
        return outcomes

    def _run_together(self, connection: sqlite3.Connection, batch: list[Job]) -> list[Outcome] | None:
        """The outcomes of all verbs, or None when one of them failed and left something behind."""
        outcomes = []
        for verb, future in batch:
            before = connection.total_changes
            outcome = _outcome(verb, connection, future)
            if outcome[2] is not None and connection.total_changes != before:
                return None
            outcomes.append(outcome)
        return outcomes

    def _run_alone(self, connection: sqlite3.Connection, verb: Verb[Any], future: "asyncio.Future[Any]") -> Outcome:
        connection.execute("SAVEPOINT verb")
        outcome = _outcome(verb, connection, future)
        if outcome[2] is not None:
            connection.execute("ROLLBACK TO verb")
        connection.execute("RELEASE verb")
        return outcome


def _outcome(verb: Verb[Any], connection: sqlite3.Connection, future: "asyncio.Future[Any]") -> Outcome:
    try:
        return future, verb(connection), None
    except sqlite3.Error as error:
        if not connection.in_transaction:
            raise  # a full disk or an I/O error has undone the whole batch, the verbs that seemed to succeed too
        return _all_failed([(verb, future)], error)[0]
    except BaseException as error:  # a defect in one verb is for its caller to see, and must not end this thread
        return future, None, error


def _all_failed(batch: list[Job], error: sqlite3.Error) -> list[Outcome]:
    _log.error("storage_failed", error=str(error), kind=getattr(error, "sqlite_errorname", None), verbs=len(batch))
    return [(future, None, StorageUnavailable()) for _, future in batch]


def _commit(connection: sqlite3.Connection) -> None:
    """Commit, or leave nothing behind that a recovery would take for committed.

    A commit whose fsync failed is undone in this process only: its frames stand whole in the WAL, and after a crash the
    next process would find them there. The next transaction goes over them, so let it be one that changes nothing.
    """
    try:
        connection.execute("COMMIT")
    except sqlite3.Error:
        _roll_back(connection)
        with contextlib.suppress(sqlite3.Error):  # its own fsync may fail too: it is the overwriting that counts
            connection.execute("PRAGMA user_version = 0")
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _deliver(outcomes: list[Outcome]) -> None:
    for future, result, error in outcomes:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
