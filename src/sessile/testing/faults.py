"""Switches for faults at the seams of Sessile: its ports, its connections, its disk. For tests; never in a server.

What holds under each is in PROTOCOL.md, section 13. A real process is killed or given a broken disk by `fsync_shim`.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from sessile.domain.log import Entry
from sessile.ports import Clock, LiveSink, Model, ModelChunk, ModelFault, ModelRequest, Store, TurnQueue
from sessile.rows import Claim
from sessile.stores.sqlite.store import SqliteStore
from sessile.wire.events import LiveFrame

When = Literal["before", "after"]
_READS = (
    "list_",
    "get_",
    "read_",
    "find_",
    "heads",
    "summary",
    "span",
    "outstanding_",
    "standing",
    "withdrawn_",
    "listen",
    "close",
)
"""How the names of verbs begin that commit nothing."""
_ENDLESS = 2**60
_MOST_PAGES = 1_000_000


class Life:
    """The life of a process, as its store sees it: when it is killed, and where it stalls.

    In a process that was killed nothing comes back from the store: whoever waits for it is cancelled, and so is whoever
    asks. What was committed is there for the next process.
    """

    def __init__(self) -> None:
        self.killed = False
        self.writes = 0
        """Writing verbs that were begun; each is one commit."""
        self.busy = 0
        """Verbs under way."""
        self.stalled = 0
        """Verbs that wait for `resume`."""
        self._kill_at: tuple[int, When] | None = None
        self._stalls: str | None = None
        self._going = asyncio.Event()
        self._going.set()

    def kill(self) -> None:
        """Kill the process now."""
        self.killed = True

    def kill_at(self, write: int, when: When) -> None:
        """Kill the process right before or after a commit: 1 is the next one."""
        self._kill_at = self.writes + write, when

    def spare(self) -> None:
        """Forget a kill that has not happened."""
        self._kill_at = None

    def stall(self, verb: str = "append") -> None:
        """Hold up every call of a verb before it does anything, as if the process had been stopped there."""
        self._stalls = verb
        self._going.clear()

    def resume(self) -> None:
        """Let go on what was held up."""
        self._stalls = None
        self._going.set()

    async def live(self, verb: str, call: Any) -> Any:
        """Carry out a verb as long as the process lives. Raises CancelledError in one that was killed."""
        self.busy += 1
        number = 0
        try:
            if not verb.startswith(_READS):
                self.writes += 1
                number = self.writes
            if verb == self._stalls:
                await self._wait()
            self._reach(number, "before")
            try:
                return await call()
            finally:
                self._reach(number, "after")
        finally:
            self.busy -= 1

    async def _wait(self) -> None:
        self.busy -= 1
        self.stalled += 1
        try:
            await self._going.wait()
        finally:
            self.stalled -= 1
            self.busy += 1

    def _reach(self, number: int, when: When) -> None:
        if self._kill_at == (number, when):
            self.killed = True
        if self.killed:
            raise asyncio.CancelledError


def mortal(store: Store, life: Life) -> Store:
    """The store as a process sees it that can be killed or stalled. The store itself lives on."""
    return cast(Store, _MortalStore(store, life))


class _MortalStore:
    def __init__(self, store: Store, life: Life) -> None:
        self._store = store
        self._life = life

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        if not inspect.iscoroutinefunction(verb):
            return verb

        async def lived(*arguments: Any, **named: Any) -> Any:
            return await self._life.live(name, lambda: verb(*arguments, **named))

        return lived


class LossySink:
    """A `LiveSink` that loses announcements: a wake-up that never arrives."""

    def __init__(self, sink: LiveSink) -> None:
        self._sink = sink
        self._to_lose = 0
        self.lost = 0
        """Announcements that were lost."""

    def lose(self, announcements: int = 1) -> None:
        """Lose the next announcements."""
        self._to_lose = announcements

    def announce(self, session_id: int, entries: Sequence[Entry]) -> None:
        """Durable events, or nothing."""
        if self._to_lose:
            self._to_lose -= 1
            self.lost += 1
        else:
            self._sink.announce(session_id, entries)

    def publish(self, session_id: int, frame: LiveFrame) -> None:
        """An ephemeral frame."""
        self._sink.publish(session_id, frame)

    def left(self, session_id: int) -> None:
        """The turn does not run here any more."""
        self._sink.left(session_id)

    def withdrawn(self, session_id: int, event_id: str) -> None:
        """An input was withdrawn."""
        self._sink.withdrawn(session_id, event_id)

    def close_session(self, session_id: int) -> None:
        """The session is gone."""
        self._sink.close_session(session_id)

    def close_agent(self, agent_id: int) -> None:
        """The agent is gone."""
        self._sink.close_agent(agent_id)


class LossyQueue:
    """A `TurnQueue` that loses claims: a hand-off that never arrives."""

    def __init__(self, queue: TurnQueue) -> None:
        self._queue = queue
        self._to_lose = 0

    def lose(self, claims: int = 1) -> None:
        """Lose the next claims; with 0, no more."""
        self._to_lose = claims

    def reserve(self, tenant_id: int, size: int) -> Callable[[], None]:
        """Keep room for a turn."""
        return self._queue.reserve(tenant_id, size)

    def submit(self, claim: Claim) -> None:
        """Run a turn, or not."""
        if self._to_lose:
            self._to_lose -= 1
        else:
            self._queue.submit(claim)

    def interrupt(self, session_id: int, turn_id: str) -> None:
        """Stop a turn."""
        self._queue.interrupt(session_id, turn_id)

    def log_changed(self, session_id: int) -> None:
        """The turn reads the log again."""
        self._queue.log_changed(session_id)

    def steer(self, session_id: int) -> None:
        """An input waits to join the turn."""
        self._queue.steer(session_id)

    async def cancel_session(self, session_id: int) -> None:
        """The session is gone."""
        await self._queue.cancel_session(session_id)

    async def cancel_agent(self, agent_id: int) -> None:
        """The agent is gone."""
        await self._queue.cancel_agent(agent_id)


class FaultyModel:
    """A `Model` whose next call fails or hangs after so many chunks."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._after: int | None = None
        self._fault: ModelFault | None = None
        self.hanging = asyncio.Event()
        """Set once a call hangs."""

    @property
    def name(self) -> str:
        """The name agents use."""
        return self._model.name

    @property
    def context_window(self) -> int:
        """Tokens the model can read and write in one call."""
        return self._model.context_window

    def fail(self, after: int, fault: ModelFault) -> None:
        """Let the next call fail once it has given this many chunks."""
        self._after, self._fault = after, fault

    def hang(self, after: int) -> None:
        """Let the next call give this many chunks and then nothing more."""
        self._after, self._fault = after, None

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Call the model once."""
        after, self._after = self._after, None
        given = 0
        async with aclosing(self._model.stream(request)) as chunks:
            if given == after:
                await self._break_down()
            async for chunk in chunks:
                yield chunk
                given += 1
                if given == after:
                    await self._break_down()

    async def _break_down(self) -> None:
        if self._fault is not None:
            raise self._fault
        self.hanging.set()
        await asyncio.get_running_loop().create_future()


class ShiftedClock:
    """A `Clock` that is moved, also back. Waits take as long as before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shift = 0

    def shift(self, seconds: float) -> None:
        """Move the clock, back when `seconds` is negative."""
        self._shift += round(seconds * 1_000_000)

    def now(self) -> int:
        """Microseconds since the epoch, or what this clock takes for it."""
        return self._clock.now() + self._shift

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._clock.sleep(seconds)


async def fill_disk(store: SqliteStore) -> None:
    """Let the database grow by not a page more."""
    await store._writer.run(lambda db: _limit_pages(db.execute("PRAGMA page_count").fetchone()[0], db))


async def free_disk(store: SqliteStore) -> None:
    """Let the database grow again."""
    await store._writer.run(lambda db: _limit_pages(_MOST_PAGES, db))


def _limit_pages(pages: int, db: Any) -> None:
    db.execute(f"PRAGMA max_page_count = {pages}")


class Cut:
    """A way to a server that breaks connections in the middle of their answers: `async with cut.listening() as url`."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = target.hostname, target.port
        self.after_bytes: list[int] = []
        """After how many bytes of its answer each of the next connections is broken."""
        self.after_frames: list[int] = []
        """The same for frames: after so many empty lines of a stream. Used when `after_bytes` is empty."""
        self.broken = 0
        """Connections that were broken."""
        self._tasks: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen on a port of its own; gives the URL."""
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.ensure_future(self._connected(reader, writer)))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        most_bytes = self.after_bytes.pop(0) if self.after_bytes else _ENDLESS
        most_frames = self.after_frames.pop(0) if most_bytes == _ENDLESS and self.after_frames else _ENDLESS
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        passing_on = asyncio.ensure_future(_pass_on(reader, far_writer))
        try:
            while most_bytes > 0 and most_frames > 0 and (data := await far_reader.read(min(most_bytes, 65536))):
                data, most_frames = _up_to_frame(data, most_frames)
                most_bytes -= len(data)
                writer.write(data)
                await writer.drain()
            self.broken += most_bytes <= 0 or most_frames <= 0
        finally:
            passing_on.cancel()
            far_writer.transport.abort()
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _up_to_frame(data: bytes, frames: int) -> tuple[bytes, int]:
    """The data up to the end of a frame, and how many more may pass. A server writes whole frames."""
    end = 0
    while frames:
        found = data.find(b"\n\n", end)
        if found < 0:
            return data, frames
        end, frames = found + 2, frames - 1
    return data[:end], 0
