"""Following a session: typed events and frames, one after the other, over as many connections as it takes."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from sessile.client.call import FIRST_WAIT_SECONDS, may_pass
from sessile.client.errors import ConnectionLost, RequestTimedOut, UnexpectedAnswer
from sessile.client.outputs import Outputs
from sessile.client.reading import UNREADABLE
from sessile.client.sse import Frame as SseFrame
from sessile.client.sse import FrameTooLarge, SseParser
from sessile.client.transport import Response
from sessile.client.unknown import UnknownEvent, unknown
from sessile.wire.errors import NotFound, SessileError
from sessile.wire.events import FollowFrame, StreamEnd

Followed = FollowFrame | UnknownEvent
"""What following a session gives: events and records of the log, and frames."""
LONGEST_WAIT_SECONDS = 10.0
"""How long a follower waits at most before it looks for the server again."""
_STEADY_SECONDS = 5.0
"""A connection that lasted so long was a good one: after it the waits are short again."""
_decoder = msgspec.json.Decoder(FollowFrame)


class FollowerState:
    """How far a session has been followed."""

    _at: "Position"

    @property
    def last_event_id(self) -> str:
        """The newest event that was given, or where following began: `since` of another `follow` goes on from here."""
        return self._at.given

    @property
    def reason(self) -> str | None:
        """`deleted` once the session is gone, else None."""
        return self._at.reason


class Position:
    """What a follower and its synchronous face share."""

    def __init__(self, since: str) -> None:
        self.asked = since
        """Where the next connection starts."""
        self.given = since
        self.reason: str | None = None


class AsyncFollower(FollowerState):
    """A session as it goes on, from turn to turn, until it is deleted or `close` is called.

    Iterate over it. Each event and record of the log comes once, in order, whatever happens to the connection or to the
    server meanwhile; a lost connection is made again, for as long as it takes. Deltas come in order too, and join: what
    is missing of an output, its event has. `StreamingAgentOutputEnd` without `event_id` takes back what was shown of an
    output; when no server could send it, the follower itself does.
    """

    def __init__(
        self,
        open: Callable[[str, bool], Awaitable[Response]],
        back_off: Callable[[float], Awaitable[None]],
        since: str,
        on_lost: Callable[[SessileError], object] | None = None,
        on_found: Callable[[], object] | None = None,
    ) -> None:
        self._open_at = open
        self._back_off = back_off
        self._on_lost = on_lost
        self._on_found = on_found
        self._at = Position(since)
        self._sequence = 0
        self._outputs = Outputs()
        self._response: Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._parser = SseParser()
        self._items: deque[tuple[Followed, str]] = deque()
        """What was read and not given yet; an event with its id."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: str | None = None
        """Why the server ends the stream, once it has said so."""
        self._opened_at = 0.0
        self._wait = FIRST_WAIT_SECONDS
        self._lost = False
        self._over = False

    def __repr__(self) -> str:
        return f"AsyncFollower(after {self.last_event_id})"

    async def __aenter__(self) -> Self:
        await self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Followed:
        try:
            await self._enter()
            while not self._items:
                if self._over:
                    raise StopAsyncIteration
                if self._chunks is None:
                    await self._reconnect()
                else:
                    await self._read(self._chunks)
        except SessileError:
            await self.close()
            raise
        item, place = self._items.popleft()
        self._at.given = place or self._at.given
        return item

    async def close(self) -> None:
        """Follow no further; closing twice is fine."""
        self._over = True
        self._items.clear()
        await self._hang_up()

    def __del__(self) -> None:
        response, loop = self._response, self._loop
        if response is not None and loop is not None:
            # This may run in any thread, and after the end of the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: loop.create_task(response.close()))

    async def _enter(self) -> None:
        """The first connection: what it is refused for is raised."""
        if self._loop is None and not self._over:
            await self._connect(first=True)
            self._loop = asyncio.get_running_loop()

    async def _connect(self, *, first: bool) -> None:
        response = await self._open_at(self._at.asked, first)
        if self._over:
            await response.close()
            return
        self._response = response
        self._chunks = aiter(response.chunks())
        self._parser = SseParser()
        self._stopping = None
        self._opened_at = asyncio.get_running_loop().time()

    async def _reconnect(self) -> None:
        """Wait, and try once. Raises what will not pass by itself."""
        wait, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT_SECONDS)
        await self._back_off(wait)
        if self._over:
            return
        try:
            await self._connect(first=False)
        except NotFound:
            self._deleted(StreamEnd(reason="deleted"))
        except SessileError as error:
            if not may_pass(error):
                raise
            self._wait = max(self._wait, error.retry_after or 0)
            self._tell_lost(error)

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        """Wait for the next bytes. Raises UnexpectedAnswer when they make no sense, again and again."""
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            await self._break_off(ConnectionLost(self._stopping))
            return
        except (ConnectionLost, RequestTimedOut) as error:
            await self._break_off(error)
            return
        try:
            for frame in self._parser.feed(chunk):
                self._take(_read_frame(frame), frame.id)
        except (FrameTooLarge, *UNREADABLE) as error:
            raise UnexpectedAnswer(f"The stream cannot be read ({error}).") from error
        if self._parser.last_id:
            self._at.asked = self._parser.last_id
        if self._lost:
            self._lost = False
            if self._on_found is not None:
                self._on_found()

    def _take(self, item: Followed, id: str) -> None:
        if isinstance(item, StreamEnd):
            if item.reason == "deleted":
                self._deleted(item)
            else:
                self._stopping = "The server was stopped."
            return
        sequence = getattr(item, "sequence", 0)
        if sequence:
            if sequence <= self._sequence:
                return
            self._sequence = sequence
            self._wait = FIRST_WAIT_SECONDS
        self._items.extend((shown, id if shown is item and sequence else "") for shown in self._outputs.shown(item))

    def _deleted(self, end: StreamEnd) -> None:
        self._at.reason = "deleted"
        self._over = True
        self._items.append((end, ""))

    async def _break_off(self, error: SessileError) -> None:
        if asyncio.get_running_loop().time() - self._opened_at > _STEADY_SECONDS:
            self._wait = FIRST_WAIT_SECONDS
        await self._hang_up()
        self._tell_lost(error)

    def _tell_lost(self, error: SessileError) -> None:
        if self._lost or self._over:
            return
        self._lost = True
        if self._on_lost is not None:
            self._on_lost(error)

    async def _hang_up(self) -> None:
        response, self._response, self._chunks = self._response, None, None
        if response is not None:
            await response.close()


def _read_frame(frame: SseFrame) -> Followed:
    try:
        read: FollowFrame = _decoder.decode(frame.data)
        return read
    except msgspec.ValidationError:
        return unknown(frame.data, frame.event)
