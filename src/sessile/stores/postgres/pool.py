"""Connections to PostgreSQL, and transactions on them whose outcome is always known. Knows no verb.

A transaction is tried again when it is certain that it was not committed. When the answer to a COMMIT is lost, its
writer's row tells: every transaction that changes something writes a number of its own there.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import structlog

from sessile.observation import CommitObserver
from sessile.stores.postgres import faults
from sessile.stores.postgres.db import Changed, Db, text_of
from sessile.wire.errors import StorageUnavailable

Result = TypeVar("Result")
Verb = Callable[[Db], Awaitable[Result]]

CONNECTIONS = 16
"""Connections of one process at most."""
PATIENCE_SECONDS = 2.0
"""How long a verb is tried again before the store counts as unavailable."""
PRIMARY = "primary"
"""Which of the servers of a URL will do. A standby may be behind: what it has not heard of would be missing."""
_CONNECT_SECONDS = 5.0
_COMMAND_SECONDS = 10.0
_HOURS = 24 * 60 * 60.0
_WAIT_SECONDS = 10.0
"""How long a verb waits for a connection that others use: while the database hangs, nobody queues for ever."""
_LOOK_SECONDS = 1.0
"""How often to look whether the server takes another connection again, while others of ours are in use."""
_STOP_SECONDS = 2.0
"""How long the server may take to end a statement that nobody waits for."""
_PAUSE_SECONDS = 0.05
_DOUBT_PAUSE_SECONDS = 0.2
_SETTINGS = {
    "application_name": "sessile",
    "jit": "off",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "5s",  # the locks of a process that has vanished do not outlive a lease
    "tcp_keepalives_idle": "30s",  # nor do its connections stay for hours
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
}
_BEGIN = text_of("begin")
_log = structlog.get_logger("sessile.store")


class _Lost(Exception):
    """An attempt failed without any effect; `again`: whether the next one may follow at once."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(faults.describe(cause))
        self.again = faults.at_once(cause)


class _Link:
    """One connection, and the name it signs its transactions with."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.writer = uuid4().hex
        self.mark = 0


class Connections:
    """As many connections as are needed at once, up to a limit. All of them are the caller's own process's."""

    def __init__(self, url: str, limit: int = CONNECTIONS, patience: float = PATIENCE_SECONDS) -> None:
        self._url = url
        self._patience = patience
        self._free = asyncio.Semaphore(limit)
        self._idle: deque[_Link] = deque()
        self._used = 0
        """Connections in use."""
        self._hoping: deque[asyncio.Future[None]] = deque()
        """Who waits for one of these, because the server takes no more."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.observer: CommitObserver | None = None
        """Whoever is told of commits."""
        self.on_commit: Callable[[Changed], None] = lambda changed: None
        """Hears of every commit that has changed something, after it."""

    async def read(self, verb: Verb[Result]) -> Result:
        """Run a verb that only reads, each query for itself. What was acknowledged before is seen.

        Raises StorageUnavailable.
        """
        self._check_open()
        return await self._patiently(lambda: self._read_once(verb))

    async def write(self, verb: Verb[Result]) -> Result:
        """Run a verb in a transaction, to its end even when the caller is cancelled. What it raises undoes it.

        The verb may run more than once: it must be a function of the database alone. Raises StorageUnavailable.
        """
        return await asyncio.shield(self.start(self.transact(verb)))

    async def administer(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """Give a connection away for something that is no verb and may be done twice. Raises StorageUnavailable."""

        async def attempt() -> Result:
            async with self._link() as link:
                return await work(link.connection)

        return await self._patiently(attempt, "The database cannot be opened: {}.")

    async def look_through(self, verb: Verb[Result]) -> Result:
        """As `read`, for a verb that may read for hours. Raises StorageUnavailable."""
        return await self.administer(lambda connection: verb(Db(connection, _HOURS)))

    async def transact(self, verb: Verb[Result]) -> Result:
        """As `write`, for work that was started with `start`."""
        return await self._patiently(lambda: self._write_once(verb))

    def start(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Run something that `close` waits for. Raises StorageUnavailable when the store is closed."""
        if self._closed:
            work.close()
            self._check_open()
        return self.follow(work)

    def follow(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """As `start`, for what follows from work that ends just now, also while the store closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Wait for what runs, then let go of the connections; verbs after that raise StorageUnavailable."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        while self._idle:
            link = self._idle.popleft()
            with contextlib.suppress(*faults.DRIVER):
                await link.connection.close(timeout=1)

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailable("The store is closed.")

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone; then nobody else asks

    async def _patiently(self, attempt: Callable[[], Awaitable[Result]], refusal: str | None = None) -> Result:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return await attempt()
            except _Lost as lost:
                if self._closed or time.monotonic() > deadline:
                    _log.error("storage_failed", error=str(lost))
                    raise StorageUnavailable(refusal and refusal.format(lost)) from None
                pause = 0.0 if lost.again else _PAUSE_SECONDS
            await asyncio.sleep(pause)

    async def _read_once(self, verb: Verb[Result]) -> Result:
        async with self._link() as link:
            return await verb(Db(link.connection))

    async def _write_once(self, verb: Verb[Result]) -> Result:
        doubt = None
        async with self._link() as link:
            link.mark += 1
            db = Db(link.connection)
            await link.connection.execute(_BEGIN.format(writer=link.writer, mark=link.mark))
            done = False
            try:
                result = await verb(db)
                done = db.wrote
            finally:
                if not done:
                    await _undo(link.connection)
            if done:
                doubt = await self._commit(link.connection, db.calls)
        if doubt is not None and not await self._committed(link.writer, link.mark):
            raise _Lost(doubt)
        if done:
            self.on_commit(db.changed)
        return result

    async def _commit(self, connection: Any, calls: int) -> BaseException | None:
        """Commit, and tell the observer."""
        began = time.perf_counter()
        try:
            doubt = await _commit(connection)
        except (*faults.DRIVER, RuntimeError):
            if self.observer is not None:
                self.observer.commit_failed()
            raise
        if self.observer is not None:
            self.observer.committed(calls, time.perf_counter() - began)
        return doubt

    async def _committed(self, writer: str, mark: int) -> bool:
        """Whether a transaction whose end nobody has heard of was committed. Asks until somebody answers.

        Raises StorageUnavailable when the store is closed before.
        """
        _log.warning("commit_in_doubt")
        while True:
            try:
                async with self._link() as link:
                    (row,) = await Db(link.connection).change("last_mark", writer=writer)
                    return bool(row[0] == mark)
            except _Lost:
                if self._closed:
                    raise StorageUnavailable("The store was closed while a commit was in doubt.") from None
            await asyncio.sleep(_DOUBT_PAUSE_SECONDS)

    @contextlib.asynccontextmanager
    async def _link(self) -> AsyncIterator[_Link]:
        """A connection for one use. Raises _Lost for a failure of the database, and what else goes wrong as it is."""
        await self._wait()
        link, stops = None, False
        try:
            link = await self._take()
            self._used += 1
            yield link
        except asyncio.CancelledError:
            stops = True
            raise
        except faults.DRIVER as error:
            stops = isinstance(error, faults.BROKEN)
            if stops:
                self._distrust_idle()
            if faults.passing(error, lost=link is None or link.connection.is_closed()):
                raise _Lost(error) from error
            raise
        finally:
            if link is not None and stops and not link.connection.is_closed():
                self.follow(self._stop(link))
            elif link is not None:
                self._give_back(link)
            else:
                self._free.release()

    async def _wait(self) -> None:
        """Wait until there are fewer connections in use than may be. Raises _Lost when that takes too long."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise _Lost(error) from None

    async def _stop(self, link: _Link) -> None:
        """End a connection, and what the server does on it, which counts until then: else it would do more and more."""
        try:
            with contextlib.suppress(*faults.DRIVER):
                async with asyncio.timeout(_STOP_SECONDS):
                    await link.connection.close()  # waits for the request to cancel that the driver has sent
        finally:
            link.connection.terminate()
            self._give_back(link)

    async def _take(self) -> _Link:
        """A connection that is idle, or a new one. When the server takes no more, one that others give back."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            while self._idle:
                link = self._idle.pop()
                if not link.connection.is_closed():
                    return link
            try:
                return await self._connect()
            except asyncpg.TooManyConnectionsError:
                if not self._used or time.monotonic() > deadline:
                    raise
            await self._hope()

    async def _hope(self) -> None:
        """Wait until somebody gives a connection back, but not for long: the server may take others again."""
        given_back = asyncio.get_running_loop().create_future()
        self._hoping.append(given_back)
        try:
            await asyncio.wait([given_back], timeout=_LOOK_SECONDS)
        finally:
            given_back.cancel()

    async def _connect(self) -> _Link:
        return _Link(
            await asyncpg.connect(
                self._url,
                target_session_attrs=PRIMARY,
                timeout=_CONNECT_SECONDS,
                command_timeout=_COMMAND_SECONDS,
                max_cached_statement_lifetime=0,
                server_settings=_SETTINGS,
            )
        )

    def _distrust_idle(self) -> None:
        """One connection got no answer: the idle ones went the same way, and each would cost its caller as much."""
        while self._idle:
            self._idle.pop().connection.terminate()

    def _give_back(self, link: _Link) -> None:
        """Keep a connection that has nothing left to do; any other one is of no use to anybody."""
        if link.connection.is_closed() or link.connection.is_in_transaction():
            link.connection.terminate()
        else:
            self._idle.append(link)
        self._used -= 1
        self._free.release()
        while self._hoping:
            given_back = self._hoping.popleft()
            if not given_back.done():
                given_back.set_result(None)
                return


async def _commit(connection: Any) -> BaseException | None:
    """Commit. Raises what says that nothing was committed; returns what leaves it open."""
    try:
        status = await connection.execute("COMMIT")
    except faults.DRIVER as error:
        if faults.refused(error):
            raise
        connection.terminate()
        return error
    if status != "COMMIT":
        raise RuntimeError(f"A transaction ended with {status}: one of its statements had failed.")
    return None


async def _undo(connection: Any) -> None:
    try:
        await connection.execute("ROLLBACK")
    except faults.DRIVER:
        connection.terminate()  # the server rolls back what it hears no more of
