"""How verbs get at SQLite: a writer that commits in groups, and readers on threads. They know no verb."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import structlog

from sessile.observation import CommitObserver
from sessile.wire.errors import StorageUnavailable

Result = TypeVar("Result")
Verb = Callable[[sqlite3.Connection], Result]
Job = tuple[Verb[Any], "asyncio.Future[Any]"]
Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

MAX_BATCH = 64
"""Verbs of one transaction at most, so that a batch holds the event loop for a few milliseconds at the worst."""
_LOCK_SECONDS = 2.0
_DEFECTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""Errors of a verb, not of the database: trying again would not help."""
_log = structlog.get_logger("sessile.store")


class WriteLane:
    """Group commit: one transaction for all verbs that wait; nothing is answered before its commit returns.

    Verbs run on the event loop: each is some microseconds of work on pages in memory, less than it costs to hand the
    interpreter to a thread and back for every statement. What waits for the disk or for a lock runs on a thread, and so
    does a verb that says that it is long, with its whole batch.

    A verb that fails has no effect. Most verbs fail before they write; when one fails after it has written, the whole
    batch runs again with a savepoint for each verb, so verbs must be functions of the database alone.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.observer: CommitObserver | None = None
        """Whoever is told of commits, on the thread that commits."""
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Job] = []
        self._long: set[asyncio.Future[Any]] = set()
        self._busy = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._disk = SimpleQueue[Callable[[], None] | None]()
        self._thread = threading.Thread(target=self._work, name="sessile-writer", daemon=True)
        self._thread.start()
        connection.execute("PRAGMA busy_timeout = 0")

    def run(self, verb: Verb[Result], *, long: bool = False) -> "asyncio.Future[Result]":
        """Queue a verb, which is `long` when it may touch many pages. Cancelling the future does not undo the verb."""
        future: asyncio.Future[Result] = self._loop.create_future()
        if self._closed:
            future.set_exception(StorageUnavailable("The store is closed."))
            return future
        if long:
            self._long.add(future)
        self._waiting.append((verb, future))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._begin)
        return future

    async def close(self) -> None:
        """Run what was queued, then close the connection."""
        self._closed = True
        await self._idle.wait()
        self._disk.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._disk.put(lambda: self._wait_for_lock(batch))
        else:
            self._run_batch(batch)

    def _run_batch(self, batch: list[Job]) -> None:
        long = self._long.intersection(future for _, future in batch) if self._long else None
        if long:
            self._long -= long
            self._disk.put(lambda: self._run_there(batch))
            return
        outcomes, to_commit = self._outcomes(batch)
        if to_commit:
            self._disk.put(lambda: self._commit(batch, outcomes))
        else:
            self._finish(outcomes)

    def _run_there(self, batch: list[Job]) -> None:
        """On the thread: run and commit a batch with a verb that is long."""
        outcomes, to_commit = self._outcomes(batch)
        if to_commit:
            self._commit(batch, outcomes)
        else:
            self._loop.call_soon_threadsafe(self._finish, outcomes)

    def _outcomes(self, batch: list[Job]) -> tuple[list[Outcome], bool]:
        """What came of each verb, and whether there is a transaction to commit."""
        try:
            outcomes = self._run_together(batch)
            if outcomes is None:
                self._connection.execute("ROLLBACK")
                self._connection.execute("BEGIN IMMEDIATE")
                outcomes = [self._run_alone(verb, future) for verb, future in batch]
        except sqlite3.Error as error:
            _roll_back(self._connection)
            return _all_failed(batch, error), False
        return outcomes, True

    def _run_together(self, batch: list[Job]) -> list[Outcome] | None:
        """The outcomes of all verbs, or None when one of them failed and left something behind."""
        outcomes = []
        for verb, future in batch:
            before = self._connection.total_changes
            outcome = _outcome(verb, self._connection, future)
            if outcome[2] is not None and self._connection.total_changes != before:
                return None
            outcomes.append(outcome)
        return outcomes

    def _run_alone(self, verb: Verb[Any], future: "asyncio.Future[Any]") -> Outcome:
        self._connection.execute("SAVEPOINT verb")
        outcome = _outcome(verb, self._connection, future)
        if outcome[2] is not None:
            self._connection.execute("ROLLBACK TO verb")
        self._connection.execute("RELEASE verb")
        return outcome

    def _finish(self, outcomes: list[Outcome]) -> None:
        _deliver(outcomes)
        if self._waiting:
            self._loop.call_soon(self._begin)
        else:
            self._busy = False
            self._idle.set()

    def _work(self) -> None:
        """The thread: one wait for the disk or for a lock after the other."""
        while (job := self._disk.get()) is not None:
            job()

    def _commit(self, batch: list[Job], outcomes: list[Outcome]) -> None:
        """On the thread: commit, or leave nothing behind that a recovery would take for committed.

        A commit whose fsync failed is undone in this process only: its frames stand whole in the WAL, and after a crash
        the next process would find them there. The next transaction goes over them, so let it be one that changes
        nothing.
        """
        began = time.perf_counter()
        try:
            self._connection.execute("COMMIT")
            if self.observer is not None:
                self.observer.committed(len(batch), time.perf_counter() - began)
        except sqlite3.Error as error:
            if self.observer is not None:
                self.observer.commit_failed()
            _roll_back(self._connection)
            with contextlib.suppress(sqlite3.Error):  # its own fsync may fail too: it is the overwriting that counts
                self._connection.execute("PRAGMA user_version = 0")
            outcomes = _all_failed(batch, error)
        self._loop.call_soon_threadsafe(self._finish, outcomes)

    def _wait_for_lock(self, batch: list[Job]) -> None:
        """On the thread: another process writes; wait a while for its lock."""
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {int(_LOCK_SECONDS * 1000)}")
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._loop.call_soon_threadsafe(self._finish, _all_failed(batch, error))
        else:
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._loop.call_soon_threadsafe(self._run_batch, batch)


class LookupLane:
    """Runs look-ups by key and pages of rows at once, on the event loop: they touch a few pages, mostly in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, verb: Verb[Result]) -> Result:
        """Run a reading verb. What was acknowledged before is seen. Raises StorageUnavailable."""
        try:
            return verb(self._connection)
        except sqlite3.Error as error:
            _log_failure(error, 1)
            raise StorageUnavailable from None

    def close(self) -> None:
        """Close the connection; look-ups after that raise StorageUnavailable."""
        self._connection.close()


class ReadLane:
    """Runs verbs that read much on threads with a connection each; all that wait are taken together.

    Every batch reads one snapshot, taken after its verbs were queued: what was acknowledged before is seen. A failure
    of the database becomes StorageUnavailable.
    """

    def __init__(self, connections: list[sqlite3.Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(connection,), name=f"sessile-reader-{number}", daemon=True)
            for number, connection in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, verb: Verb[Result]) -> "asyncio.Future[Result]":
        """Queue a verb."""
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
                    self._loop.call_soon_threadsafe(_deliver, self._run_batch(connection, batch))

    def _take(self) -> tuple[list[Job], bool]:
        """Wait for a job and take all that wait with it; True at the end."""
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
        try:
            connection.execute("BEGIN")
            outcomes = [_outcome(verb, connection, future) for verb, future in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            return _all_failed(batch, error)
        return outcomes


def _outcome(verb: Verb[Any], connection: sqlite3.Connection, future: "asyncio.Future[Any]") -> Outcome:
    try:
        return future, verb(connection), None
    except sqlite3.Error as error:
        if not connection.in_transaction:
            raise  # a full disk or an I/O error has undone the whole batch, the verbs that seemed to succeed too
        if isinstance(error, _DEFECTS):
            return future, None, error
        return _all_failed([(verb, future)], error)[0]
    except BaseException as error:  # a defect in one verb is for its caller to see, and must not end the lane
        return future, None, error


def _all_failed(batch: list[Job], error: sqlite3.Error) -> list[Outcome]:
    _log_failure(error, len(batch))
    return [(future, None, StorageUnavailable()) for _, future in batch]


def _log_failure(error: sqlite3.Error, verbs: int) -> None:
    _log.error("storage_failed", error=str(error), kind=getattr(error, "sqlite_errorname", None), verbs=verbs)


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
