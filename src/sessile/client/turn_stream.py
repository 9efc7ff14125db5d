"""A turn as it happens: the frames of a streamed answer, one after the other."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Literal, Self

import msgspec
from msgspec import Struct

from sessile.client.errors import ConnectionLost, RequestTimedOut, StreamBroken
from sessile.client.reading import UNREADABLE
from sessile.client.seen import Frame as Frame
from sessile.client.seen import Seen
from sessile.client.sse import Frame as SseFrame
from sessile.client.sse import FrameTooLarge, SseParser
from sessile.client.transport import Response
from sessile.client.unknown import unknown
from sessile.wire import ids
from sessile.wire.errors import SessileError
from sessile.wire.events import (
    ClientToolPendingEvent,
    InputMessageEvent,
    PendingToolCall,
    StreamEnd,
    StreamError,
    StreamFrame,
    StreamingAgentOutput,
    TurnError,
)
from sessile.wire.sessions import StopReason

_REUSE_SECONDS = 0.1
"""How long to wait after the last frame for the end of the body, so that the connection can be used again."""
_decoder = msgspec.json.Decoder(StreamFrame)


class Told(Struct):
    """What a stream has told of its turn so far."""

    turn_id: str = ""
    event_id: str = ""
    status: Literal["running", "stopped"] = "running"
    stop_reason: StopReason | None = None
    error: TurnError | None = None
    reason: str | None = None
    pending_calls: list[PendingToolCall] = []


class TurnState:
    """How the turn of a stream stands, as far as the stream has been read."""

    _told: Told

    @property
    def turn_id(self) -> str:
        """The turn; empty until the stream is entered, or as long as nobody knows which one takes the input."""
        return self._told.turn_id

    @property
    def event_id(self) -> str:
        """The durable input, or the id that it waits under, or first tool output; empty until the stream is entered."""
        return self._told.event_id

    @property
    def status(self) -> Literal["running", "stopped"]:
        """`running` until the last frame was read, and then too when the time limit came before the end of the turn."""
        return self._told.status

    @property
    def stop_reason(self) -> StopReason | None:
        """How the turn ended, or `requires_action` when it waits for client tools; None while it runs."""
        return self._told.stop_reason

    @property
    def pending_calls(self) -> list[PendingToolCall]:
        """The client tool calls that the turn waits for, once the stream has told them."""
        return self._told.pending_calls

    @property
    def error(self) -> TurnError | None:
        """Why the turn ended badly; None when it did not."""
        return self._told.error

    @property
    def reason(self) -> str | None:
        """Why it ended without the end of a turn: `deleted` or `withdrawn`, else None."""
        return self._told.reason


class AsyncTurnStream(TurnState):
    """A streamed turn. The input is posted when the stream is entered, or at the first frame that is asked for.

    Iterate over it for typed frames, or over `text()` for the words alone. Leaving it half-way closes the connection;
    the turn goes on all the same. A stream that ends before its last frame joins the turn again and goes on where it
    was; when that fails too often, with nothing new in between, it raises StreamBroken.
    """

    def __init__(
        self, post: Callable[[], Awaitable[Response]], retries: int, pause: Callable[[int], Awaitable[None]]
    ) -> None:
        self._post = post
        self._retries = retries
        self._pause = pause
        self._failures = 0
        """How often it broke off since the last frame that was new."""
        self._broken_by: StreamBroken | None = None
        """Why it is to join the turn again."""
        self._seen = Seen()
        self._again = False
        self._response: Response | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._parser = SseParser()
        self._frames: deque[Frame] = deque()
        self._over = False
        self._told = Told()

    def __repr__(self) -> str:
        return f"AsyncTurnStream({self.turn_id or 'not entered'}, {self.status})"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        await self._open()
        while not self._frames:
            if self._broken_by is not None:
                await self._join_again(self._broken_by)
            elif self._over or self._chunks is None:
                await self.close()
                raise StopAsyncIteration
            else:
                await self._read(self._chunks)
        frame = self._frames.popleft()
        if _is_cut_off(frame):
            await self._break_off(self._broken("the server stopped"), None)
            return await anext(self)
        self._note(frame)
        return frame

    async def text(self) -> AsyncIterator[str]:
        """The agent's words as they come, without thinking and tools. Joined they are the whole text of the turn."""
        async for frame in self:
            if isinstance(frame, StreamingAgentOutput):
                yield frame.content

    async def close(self) -> None:
        """Read no further. The turn goes on; closing twice is fine."""
        self._broken_by = None
        await self._hang_up()

    async def _hang_up(self) -> None:
        response, self._response = self._response, None
        chunks, self._chunks = self._chunks, None
        if response is None:
            return
        try:
            if self._over and chunks is not None:
                with contextlib.suppress(StopAsyncIteration, ConnectionLost, RequestTimedOut, TimeoutError):
                    async with asyncio.timeout(_REUSE_SECONDS):
                        await anext(chunks)
        finally:
            await response.close()

    def __del__(self) -> None:
        response, loop = self._response, self._loop
        if response is not None and loop is not None:
            # This may run in any thread, and after the end of the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: loop.create_task(response.close()))

    async def _open(self) -> None:
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._response = await self._post()
        self._chunks = aiter(self._response.chunks())
        self._told.turn_id = self._response.headers.get("x-turn-id", "")
        self._told.event_id = self._response.headers.get("x-event-id", "")

    async def _join_again(self, broken: StreamBroken) -> None:
        """Post the input again, with its idempotency key. Giving up on the wait loses nothing."""
        await self._pause(self._failures)
        try:
            response = await self._post()
        except SessileError as error:
            await self.close()
            raise broken from error
        self._response = response
        if self._told.turn_id and response.headers.get("x-turn-id", "") != self._told.turn_id:
            await self.close()
            raise broken
        self._told.turn_id = response.headers.get("x-turn-id", "")
        self._broken_by = None
        self._chunks = aiter(response.chunks())
        self._parser = SseParser()
        self._again = True

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        """Wait for the next bytes. Raises StreamBroken for good; else the next call is to join the turn again."""
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            await self._break_off(self._broken("it ended early"), None)
        except RequestTimedOut as error:
            await self._break_off(self._broken("the server was silent for too long"), error)
        except ConnectionLost as error:
            await self._break_off(self._broken("the connection was lost"), error)
        else:
            try:
                for frame in self._parser.feed(chunk):
                    if (new := self._seen.new(_frame(frame), again=self._again)) is not None:
                        self._frames.append(new)
            except (FrameTooLarge, *UNREADABLE) as error:
                await self.close()
                raise self._broken(f"it cannot be read ({error})") from error
            if self._frames and not _is_cut_off(self._frames[0]):
                self._failures = 0

    async def _break_off(self, broken: StreamBroken, cause: SessileError | None) -> None:
        broken.__cause__ = cause
        self._failures += 1
        self._broken_by = broken
        await self._hang_up()
        if self._failures > self._retries:
            self._broken_by = None
            raise broken

    def _broken(self, why: str) -> StreamBroken:
        return StreamBroken(
            f"The stream of the turn {self.turn_id} broke off: {why}. The turn itself goes on.",
            turn_id=self.turn_id,
            event_id=self.event_id,
        )

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, InputMessageEvent) and ids.is_same_input(frame.id, self._told.event_id):
            self._told.turn_id, self._told.event_id = frame.turn_id, frame.id
        if isinstance(frame, StreamError):
            self._told.error = TurnError(frame.code, " ".join(frame.messages))
        elif isinstance(frame, ClientToolPendingEvent):
            self._told.pending_calls = frame.pending_calls
        elif isinstance(frame, StreamEnd):
            self._over = True
            self._told.status = frame.status or "stopped"
            self._told.stop_reason = frame.stop_reason or None
            self._told.reason = frame.reason or None


def _is_cut_off(frame: Frame) -> bool:
    """Whether it says that the server stops, and that another or the next one goes on with the turn."""
    return isinstance(frame, StreamEnd) and frame.reason == "drain"


def _frame(frame: SseFrame) -> Frame:
    try:
        read: StreamFrame = _decoder.decode(frame.data)
        return read
    except msgspec.ValidationError:
        return unknown(frame.data, frame.event)
